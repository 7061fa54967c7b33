package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Mount is one line of mountinfo, as far as it matters here.
type Mount struct {
	Root  string // the part of the file system that is mounted
	Point string // where
	Type  string // file system type
}

// Mounts returns the mounts of the given file system types, in the order in
// which they were made, from a mountinfo file.
func Mounts(mountinfo string, types ...string) ([]Mount, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	all, err := parseMounts(f)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return slices.DeleteFunc(all, func(m Mount) bool { return !slices.Contains(types, m.Type) }), nil
}

// parseMounts reads lines such as
//
//	36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/root rw
//
// where any number of optional fields stands before the hyphen. A line without
// the fixed fields is skipped: the kernel writes none.
func parseMounts(r io.Reader) ([]Mount, error) {
	var mounts []Mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20) // an overlay's options can be long
	for lines.Scan() {
		// The kernel escapes blanks, tabs and newlines only. What else Unicode calls
		// space is a part of a name, which a user may have chosen.
		fields := strings.Split(lines.Text(), " ")
		dash := slices.Index(fields, "-")
		if dash < 6 || dash+1 >= len(fields) {
			continue
		}
		mounts = append(mounts, Mount{
			Root:  unescape(fields[3]),
			Point: unescape(fields[4]),
			Type:  fields[dash+1],
		})
	}
	return mounts, lines.Err()
}

// unescape undoes the kernel's octal escapes of space, tab, newline and
// backslash (\040 …).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1], '3') && isOctal(s[i+2], '7') && isOctal(s[i+3], '7') {
			out = append(out, (s[i+1]-'0')<<6|(s[i+2]-'0')<<3|(s[i+3]-'0'))
			i += 3
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

func isOctal(c, most byte) bool { return '0' <= c && c <= most }
