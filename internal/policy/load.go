package policy

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/flow"
)

// Bounds of what is read. A file within them is loaded in well under a second.
const (
	MaxFile      = 262_144 // bytes of one source
	maxSources   = 64
	maxDepth     = 16 // mappings and lists within each other
	maxNodes     = 100_000
	maxNetworks  = 4096   // network policies, over all sources
	maxEndpoints = 16_384 // of one network policy
	maxItems     = 256    // binaries of one network policy, rules of one endpoint
	maxPorts     = 64
	maxAllowed   = 64 // allowed_ips of one endpoint
	maxPath      = 4096
	maxName      = 64
)

// Source is the text of one policy file under the name that messages give it.
type Source struct {
	Name string
	Data []byte
}

// Load reads sources and composes them into one policy. A network policy, or a
// section other than version, that two sources define is an error.
//
// The error is a LoadError with everything that is wrong in all sources. The
// warnings are valid beside an error too.
func Load(sources ...Source) (*Policy, []Warning, error) {
	var c composer
	switch {
	case len(sources) == 0:
		return nil, nil, errors.New("load policy: no source")
	case len(sources) > maxSources:
		return nil, nil, errors.New("load policy: more than " + strconv.Itoa(maxSources) + " sources")
	}
	for _, source := range sources {
		c.add(source)
	}
	c.finish()
	if len(c.problems) > 0 {
		return nil, c.warnings, LoadError(c.problems)
	}
	return &c.policy, c.warnings, nil
}

// composer gathers the parts of a policy from one source after the other.
type composer struct {
	policy   Policy
	places   map[string]Place // of each section and network policy so far
	problems []Problem
	warnings []Warning
}

func (c *composer) add(source Source) {
	r := &reader{file: source.Name}
	if root := r.parse(source.Data); root != nil {
		c.document(r, root)
	}
	c.problems = append(c.problems, r.problems...)
	c.warnings = append(c.warnings, r.warnings...)
}

// document reads the top level of one source.
func (c *composer) document(r *reader, root *yaml.Node) {
	once := func(read func(*yaml.Node, string)) func(*yaml.Node, string) {
		return func(n *yaml.Node, field string) {
			if c.claim(r, n, field) {
				read(n, field)
			}
		}
	}
	seen := r.mapping(root, "", fields{
		"version":           r.version,
		"filesystem_policy": once(r.filesystem),
		"landlock":          once(r.landlock),
		"process":           once(func(n *yaml.Node, field string) { c.policy.user, c.policy.group = r.process(n, field) }),
		"network_policies":  func(n *yaml.Node, field string) { c.networkPolicies(r, n, field) },
	})
	if root.Kind == yaml.MappingNode && seen["version"] == nil {
		r.fail(root, "version", "is required: write \"version: 1\"")
	}
}

func (c *composer) networkPolicies(r *reader, n *yaml.Node, field string) {
	r.pairs(n, field, func(key, value *yaml.Node, sub string) {
		if key.Value == "" || len(key.Value) > maxName || strings.ContainsFunc(key.Value, func(c rune) bool { return !isKeyRune(c) }) {
			r.fail(key, sub, "a policy's key has 1 to %d letters, digits, '_' and '-'", maxName)
			return
		}
		if c.claim(r, key, sub) {
			c.policy.networks = append(c.policy.networks, r.network(key, value, sub))
		}
	})
}

// claim reports whether a field is defined for the first time over all sources.
func (c *composer) claim(r *reader, n *yaml.Node, field string) bool {
	if first, taken := c.places[field]; taken {
		r.fail(n, field, "is also defined at %s:%d:%d; one of the two must go", first.File, first.Line, first.Column)
		return false
	}
	if c.places == nil {
		c.places = make(map[string]Place)
	}
	c.places[field] = r.place(n, field)
	return true
}

// finish makes the checks that need every source.
func (c *composer) finish() {
	networks := c.policy.networks
	slices.SortFunc(networks, func(a, b network) int { return strings.Compare(a.key, b.key) })
	if len(networks) > maxNetworks {
		c.problems = append(c.problems, Problem{networks[maxNetworks].place,
			"is one of " + strconv.Itoa(len(networks)) + " network policies, at most " + strconv.Itoa(maxNetworks) + " are allowed"})
	}
	if len(c.problems) > 0 {
		return
	}
	c.problems = append(conflicts(networks), crowds(networks)...)
}

// parse returns the root of a source's only document, within the bounds.
func (r *reader) parse(data []byte) *yaml.Node {
	start := &yaml.Node{}
	if len(data) > MaxFile {
		r.fail(start, "", "has %d bytes, at most %d are allowed", len(data), MaxFile)
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) || err == nil && len(document.Content) == 0 {
		r.fail(start, "", "is empty")
		return nil
	}
	if err == nil {
		switch err = decoder.Decode(&second); {
		case err == nil:
			r.fail(&second, "", "holds a second document; write it to a file of its own")
			return nil
		case errors.Is(err, io.EOF):
			err = nil
		}
	}
	if err != nil {
		line, why := syntaxError(err)
		r.fail(&yaml.Node{Line: line}, "", "is not YAML: %s", why)
		return nil
	}
	root := document.Content[0]
	nodes := 0
	if !r.bounded(root, 0, &nodes) {
		return nil
	}
	return root
}

// bounded checks what all nodes must keep to, before any of them is read.
// Aliases are refused whole: what they stand for is counted nowhere, and a policy
// should say what it says where it stands.
func (r *reader) bounded(n *yaml.Node, depth int, nodes *int) bool {
	*nodes++
	switch {
	case n.Kind == yaml.AliasNode:
		r.fail(n, "", "is an alias (*%s), which policies may not use; write the value out", n.Value)
		return false
	case depth > maxDepth:
		r.fail(n, "", "is nested deeper than %d levels", maxDepth)
		return false
	case *nodes > maxNodes:
		r.fail(n, "", "the file holds more than %d values", maxNodes)
		return false
	}
	for _, child := range n.Content {
		if !r.bounded(child, depth+1, nodes) {
			return false
		}
	}
	return true
}

// syntaxError takes the line out of the YAML library's message, its only place.
func syntaxError(err error) (line int, why string) {
	why = strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`^line (\d+): (.*)$`).FindStringSubmatch(why); m != nil {
		line, _ = strconv.Atoi(m[1])
		why = m[2]
	}
	return line, why
}

func (r *reader) version(n *yaml.Node, field string) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" {
		r.fail(n, field, "must be the number 1, not %s", describe(n))
	} else if n.Value != "1" {
		r.fail(n, field, "%q is unknown; this version reads 1", n.Value)
	}
}

// network reads one entry of network_policies.
func (r *reader) network(key, n *yaml.Node, field string) network {
	net := network{key: key.Value, place: r.place(key, field)}
	seen := r.mapping(n, field, fields{
		"name": func(v *yaml.Node, f string) { r.text(v, f, 253) },
		"endpoints": func(v *yaml.Node, f string) {
			r.list(v, f, maxEndpoints, "a policy without endpoints allows nothing; remove the policy instead",
				func(item *yaml.Node, f string) { net.endpoints = append(net.endpoints, r.endpoint(item, f)) })
		},
		"binaries": func(v *yaml.Node, f string) {
			r.list(v, f, maxItems, "name the programs, or write \"- path: /**\" to allow every one",
				func(item *yaml.Node, f string) { net.binaries = append(net.binaries, r.binary(item, f)) })
		},
	})
	if n.Kind == yaml.MappingNode {
		for _, required := range []string{"endpoints", "binaries"} {
			if seen[required] == nil {
				r.fail(key, field, "has no %s", required)
			}
		}
	}
	return net
}

// port reads one port. Only plain decimal has one reading.
func (r *reader) port(n *yaml.Node, field string) (uint16, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" {
		r.fail(n, field, "must be a number (1-65535), not %s", describe(n))
		return 0, false
	}
	port, err := flow.ParsePort(n.Value)
	if err != nil {
		r.fail(n, field, "%q is not a port (1-65535)", n.Value)
		return 0, false
	}
	return port, true
}
