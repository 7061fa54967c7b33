package flow

import (
	"path"
	"strings"
)

// IsLoader reports whether a path is that of a dynamic loader, as the C libraries
// name theirs. Under another name it is a copy, which is a program of its own: a
// policy that names that one means it.
func IsLoader(file string) bool {
	name := path.Base(file)
	switch {
	case name == "ld.so", strings.HasPrefix(name, "ld.so."):
		return true // the BSDs', and old ones
	case strings.HasPrefix(name, "ld-"), strings.HasPrefix(name, "ld64.so"), strings.HasPrefix(name, "ld64-"):
		return strings.Contains(name, ".so") // glibc, musl, uClibc, the LSB
	case name == "libc.so", strings.HasPrefix(name, "libc.musl-"):
		return true // of musl, whose loader and library are one file
	}
	return false
}
