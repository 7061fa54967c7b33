package source

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/policy"
)

// opener opens a file or directory for reading, without waiting for a writer.
type opener func(path string) (*os.File, error)

func openFile(path string) (*os.File, error) {
	// O_NONBLOCK, so that a FIFO or a device cannot hold us before we know.
	return os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// listModules returns the paths of the Rego modules of a directory, sorted. What
// begins with a dot is none: an editor's, or a ConfigMap's "..data".
func listModules(dir string, open opener) ([]string, error) {
	d, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("read Rego directory: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read Rego directory: %w", err)
	}
	slices.Sort(names)
	var paths []string
	for _, name := range names {
		if strings.HasSuffix(name, ".rego") && !strings.HasSuffix(name, "_test.rego") && !strings.HasPrefix(name, ".") {
			paths = append(paths, strings.TrimSuffix(dir, "/")+"/"+name) // not cleaned: see addWay
		}
	}
	switch {
	case len(paths) == 0:
		return nil, &Error{
			fmt.Errorf("read Rego directory: %s has no Rego modules", dir),
			"modules are its files *.rego, without *_test.rego; leave the directory out to have none",
		}
	case len(paths) > policy.MaxModules:
		return nil, fmt.Errorf("read Rego directory: %s has %d Rego modules, at most %d are read", dir, len(paths), policy.MaxModules)
	}
	return paths, nil
}

// readFile reads a whole regular file within the bound of a policy's source.
func readFile(path string, open opener) ([]byte, error) {
	file, err := open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory", path)
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{
			fmt.Errorf("%s is not a regular file", path),
			"write it to a file: a run reads its policy again when it changes",
		}
	}
	data, err := io.ReadAll(io.LimitReader(file, policy.MaxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > policy.MaxFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, policy.MaxFile)
	}
	return data, nil
}
