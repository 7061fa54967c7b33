package launch

import (
	"bufio"
	"io"
	"os"
	"strings"
)

// shellOf returns the login shell of a user in /etc/passwd, which os/user does
// not tell. It is empty for a user from elsewhere.
func shellOf(name string) string {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return ""
	}
	defer f.Close()
	return passwdShell(f, name)
}

func passwdShell(r io.Reader, name string) string {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) == 7 && fields[0] == name {
			return fields[6]
		}
	}
	return ""
}
