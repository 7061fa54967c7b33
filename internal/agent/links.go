package agent

import (
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
)

// maxLinkPaths bounds what one policy may have followed.
const maxLinkPaths = 4096

// FollowLinks returns the paths of a policy that are symbolic links below a root,
// with where they lead and whether a user could change that. The root's
// directories are visited before they are looked into.
func FollowLinks(p *policy.Policy, root *rootfs.Root, user rootfs.User, visit func(dir int)) []policy.Link {
	paths := p.ExactPaths()
	var links []policy.Link
	for _, path := range paths[:min(len(paths), maxLinkPaths)] {
		link, err := root.Follow(path, user, visit)
		if err == nil && link.Target != path {
			links = append(links, policy.Link{Path: path, Target: link.Target, Writable: link.Writable})
		}
	}
	policy.SortLinks(links)
	return links
}
