package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/ringfence/ringfence/internal/rootfs"
)

// reservedName is what the user that belongs to a sandbox is called inside it.
const reservedName = "sandbox"

// userFiles gives the user that belongs to a sandbox an entry in the sandbox's own files
// of users and groups: ssh, scp, git and others end where their user has none. Every
// other user has the host's.
func userFiles(u rootfs.User) ([]etcFile, error) {
	if u.UID < reservedBase {
		return nil, nil
	}
	var files []etcFile
	for path, entry := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%d::%s:%s\n", reservedName, u.UID, u.GID, ownHome, defaultShell),
		"/etc/group":  fmt.Sprintf("%s:x:%d:\n", reservedName, u.GID),
	} {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a host without names
		}
		if err != nil {
			return nil, err
		}
		files = append(files, etcFile{path, withEntry(string(text), entry)})
	}
	return files, nil
}

// withEntry returns a file of users or groups with an entry more, which comes first: a
// name that the host has already is the sandbox's own inside.
func withEntry(text, entry string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return entry + text
}
