package policy

import "slices"

// WithLinks returns the policy as it holds in a sandbox where some exact paths of
// programs are symbolic links: the image of /usr/bin/python3 is the file it leads
// to, so a policy that names the link must name that file too. Both are kept.
//
// follow returns the path that a path leads to in the sandbox's root, links
// followed to the end and taken as seen from inside, or the empty text where
// there is none or it is not to be trusted. A sandbox that can write a link
// would choose what it means, so follow must refuse such links.
func (p *Policy) WithLinks(follow func(path string) string) *Policy {
	linked := *p
	linked.networks = slices.Clone(p.networks)
	for i := range linked.networks {
		n := &linked.networks[i]
		n.targets = nil // of another sandbox
		for _, b := range n.binaries {
			if b.glob() {
				continue
			}
			if file := follow(string(b)); file != "" {
				n.targets = append(n.targets, file)
			}
		}
	}
	return &linked
}
