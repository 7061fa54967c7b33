package launch

import (
	"errors"
	"os/user"
	"strconv"
)

// ErrNoGroup is returned for a group that is not there, and for root's.
var ErrNoGroup = errors.New("no such group, or root's")

// LookupGroup returns the group that a policy names: a name, or a gid, which needs
// no entry in the group file.
func LookupGroup(spec string) (uint32, error) {
	text := spec
	if g, err := user.LookupGroup(spec); err == nil {
		text = g.Gid
	}
	gid, err := strconv.ParseUint(text, 10, 32)
	if err != nil || gid == 0 {
		return 0, ErrNoGroup
	}
	return uint32(gid), nil
}
