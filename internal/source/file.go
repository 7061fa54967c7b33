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

// maxModules is how many Rego modules a directory may have.
const maxModules = 64

// listModules returns the paths of the Rego modules of a directory, sorted. What
// begins with a dot is none: an editor's, or a ConfigMap's "..data".
func listModules(dir string) ([]string, error) {
	// O_DIRECTORY, so that a FIFO put in its place cannot hold us.
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
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
	case len(paths) > maxModules:
		return nil, fmt.Errorf("read Rego directory: %s has %d Rego modules, at most %d are read", dir, len(paths), maxModules)
	}
	return paths, nil
}

// readFile reads a whole regular file within the bound of a policy's source.
func readFile(path string) ([]byte, error) {
	// O_NONBLOCK, so that a FIFO or a device cannot hold us before we know.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{
			fmt.Errorf("%s is not a regular file", path),
			"a policy is read again when it changes, so write it to a file first",
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
