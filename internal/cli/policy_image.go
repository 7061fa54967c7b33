package cli

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxShebang is how much of a script's first line the kernel reads, in bytes.
const maxShebang = 256

// image returns what the kernel would run for a path, as a policy knows it, with
// notes on what was found on the way.
func (v *view) image(flag, name string) (flow.Image, []string, error) {
	if strings.Contains(name, "*") {
		return flow.Image{}, nil, fmt.Errorf("%s %q is a pattern; name one file", flag, name)
	}
	if !path.IsAbs(name) || path.Clean(name) != name {
		return flow.Image{}, nil, hint(fmt.Errorf("%s %q is not the absolute path of a file", flag, name), "which "+path.Base(name)+" may tell it")
	}
	var notes []string
	for range 4 { // a script's interpreter may be a script
		link, err := v.Follow(name, v.user, nil)
		if err != nil {
			return flow.Image{Path: name}, append(notes, "not looked up: "+err.Error()), nil
		}
		if link.Target != name {
			notes = append(notes, fmt.Sprintf("%s is a symbolic link: the kernel runs %s", quoteText(name), quoteText(link.Target)))
			name = link.Target
		}
		interpreter := v.interpreter(name)
		if interpreter == "" {
			break
		}
		notes = append(notes, fmt.Sprintf("%s is a script: the program is %s, and the script's path is not judged", quoteText(name), quoteText(interpreter)))
		name = interpreter
	}
	image, more := v.judge(name)
	return image, append(notes, more...), nil
}

// judge says of a program's file what would be known of it when it starts.
func (v *view) judge(name string) (flow.Image, []string) {
	image := flow.Image{Path: name}
	var notes []string
	if flow.IsLoader(name) {
		image.Taints |= flow.TaintLoader
		notes = append(notes, quoteText(name)+" is a dynamic loader: it is tainted (loader)")
	}
	// Never a special file, which could have one wait, nor one outside the root.
	file, link, err := v.Open(name, v.user)
	if err != nil {
		return image, append(notes, "not looked into: "+err.Error())
	}
	defer file.Close()
	if link.Writable {
		image.Taints |= flow.TaintWritable
		notes = append(notes, fmt.Sprintf("the user can change %s, or put another file there: it is tainted (writable)", quoteText(name)))
	}
	// As where it starts: of what the user can write a hash counts on few file systems.
	var fs unix.Statfs_t
	if unix.Fstatfs(int(file.Fd()), &fs) == nil && (!link.Writable || flow.FileID{FSMagic: uint32(fs.Type)}.Traced()) {
		image.SHA256 = hashOf(file)
	}
	return image, notes
}

// maxHashed bounds what is read of a file, in bytes, as it is where it starts.
const maxHashed = 1 << 30

// hashOf returns the SHA-256 of a file; "" where it cannot be read.
func hashOf(file io.Reader) string {
	sum := sha256.New()
	if n, err := io.Copy(sum, io.LimitReader(file, maxHashed+1)); err != nil || n > maxHashed {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// interpreter returns the program of a script; "" where the file is none, or may
// not be read. For env it is the program that env starts.
func (v *view) interpreter(name string) string {
	file, _, err := v.Open(name, v.user)
	if err != nil {
		return ""
	}
	defer file.Close()
	line, err := bufio.NewReader(io.LimitReader(file, maxShebang)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) || !strings.HasPrefix(line, "#!") {
		return ""
	}
	words := strings.Fields(line[len("#!"):])
	if len(words) == 0 || !path.IsAbs(words[0]) {
		return ""
	}
	if path.Base(words[0]) == "env" && len(words) > 1 {
		for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin"} {
			candidate := path.Join(dir, words[len(words)-1])
			if _, err := v.Follow(candidate, v.user, nil); err == nil {
				return candidate
			}
		}
	}
	return path.Clean(words[0])
}
