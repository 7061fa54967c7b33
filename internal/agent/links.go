package agent

import (
	"time"

	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
)

// Bounds of one look. A sandbox can make the ways of some paths long.
const (
	maxLinkPaths = 4096
	maxLookTime  = time.Second
)

// FollowLinks returns the paths of a policy that are symbolic links below a root,
// with where they lead and whether a user could change that. The root's
// directories are visited before they are looked into. Links that there is no time
// for are left out, and so stand for nothing; whole is false then.
func FollowLinks(p *policy.Policy, root *rootfs.Root, user rootfs.User, visit func(dir int)) (links []policy.Link, whole bool) {
	paths := p.ExactPaths()
	whole = true
	end := time.Now().Add(maxLookTime)
	for _, path := range paths[:min(len(paths), maxLinkPaths)] {
		if time.Now().After(end) {
			whole = false
			break
		}
		link, err := root.Follow(path, user, visit)
		if err == nil && link.Target != path {
			links = append(links, policy.Link{Path: path, Target: link.Target, Writable: link.Writable})
		}
	}
	policy.SortLinks(links)
	return links, whole
}
