package launch

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"
)

const (
	// reservedBase is the first uid of those that belong to sandboxes: high above
	// what distributions, directories and subuid ranges give out.
	reservedBase = 2013265920
	// maxReserved bounds ReservedUser; ids above 2^31 confuse some programs.
	maxReserved = 1 << 16
	// maxID is the highest id; the one above it means "unchanged".
	maxID = 1<<32 - 2
)

// User is who a command runs as.
type User struct {
	Name     string // empty where the uid has no name
	UID, GID uint32
	Groups   []uint32
	Home     string
	Shell    string
}

const (
	defaultShell = "/bin/sh"
	ownHome      = "/tmp" // which is the sandbox's own
)

// LookupUser returns the user that --user names: a name, or a uid, which needs no
// passwd entry. Root is refused, by either.
func LookupUser(spec string) (User, error) {
	u, err := user.Lookup(spec)
	if err == nil {
		return known(u)
	}
	id, numErr := parseID(spec)
	if numErr != nil {
		return User{}, fmt.Errorf("user %q: %w", spec, ErrNoUser)
	}
	if isReserved(id) {
		return User{}, fmt.Errorf("user %q belongs to a sandbox: %w", spec, ErrNoUser)
	}
	if u, err := user.LookupId(spec); err == nil {
		return known(u)
	}
	return unknown(id)
}

// ReservedUser returns the n-th unprivileged user of the sandboxes: it has no entry in
// the host's passwd and one in the sandbox's own, no group but its own, and a home in
// the sandbox's own /tmp.
func ReservedUser(n uint32) (User, error) {
	if n >= maxReserved {
		return User{}, fmt.Errorf("reserved user %d: %w", n, ErrNoUser)
	}
	return reserved(reservedBase + n)
}

// DaemonUser is ReservedUser for the sandboxes of a daemon: no sandbox of `ringfence
// run`, which numbers its own, can have the same.
func DaemonUser(n uint32) (User, error) {
	if n >= maxReserved {
		return User{}, fmt.Errorf("reserved user %d of the agent: %w", n, ErrNoUser)
	}
	return reserved(reservedBase + maxReserved + n)
}

func reserved(id uint32) (User, error) {
	return User{Name: reservedName, UID: id, GID: id, Home: ownHome, Shell: defaultShell}, nil
}

func unknown(id uint32) (User, error) {
	if id == 0 {
		return User{}, ErrRoot
	}
	return User{UID: id, GID: id, Home: ownHome, Shell: defaultShell}, nil
}

// isReserved reports whether a uid is init's, or belongs to one sandbox: another one's
// processes must not have it.
func isReserved(id uint32) bool { return id >= initUID && id < reservedBase+2*maxReserved }

func known(u *user.User) (User, error) {
	uid, uidErr := parseID(u.Uid)
	gid, gidErr := parseID(u.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return User{}, fmt.Errorf("user %q: %w", u.Username, err)
	}
	if uid == 0 {
		return User{}, ErrRoot
	}
	ids, err := u.GroupIds()
	if err != nil {
		return User{}, fmt.Errorf("look up groups of %q: %w", u.Username, err)
	}
	found := User{Name: u.Username, UID: uid, GID: gid, Home: u.HomeDir, Shell: defaultShell}
	for _, text := range ids {
		id, err := parseID(text)
		if err != nil {
			return User{}, fmt.Errorf("group of %q: %w", u.Username, err)
		}
		found.Groups = append(found.Groups, id)
	}
	if shell := shellOf(u.Username); shell != "" {
		found.Shell = shell
	}
	return found, nil
}

func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id > maxID || strings.HasPrefix(text, "+") {
		return 0, fmt.Errorf("%q is no user or group id", text)
	}
	return uint32(id), nil
}
