package policy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of what is read. A file within them is loaded in well under a second.
const (
	MaxFile     = 262_144 // bytes of one source
	maxSources  = 64
	maxDepth    = 16 // mappings and lists within each other
	maxNodes    = 100_000
	maxNetworks = 4096 // network policies, over all sources
	maxItems    = 256  // values of one query key
	maxPath     = 4096
	maxName     = 64
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
	c := composer{policy: Policy{form: &form{}}}
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
	places   map[string]Place // of each section, key and name so far
	problems []Problem
	warnings []Warning
}

func (c *composer) add(source Source) {
	r := &reader{file: source.Name}
	var file File
	if root := r.parse(source.Data); root != nil {
		r.decode(root, "", reflect.ValueOf(&file).Elem(), bounds{})
	}
	c.merge(r, &file)
	slices.SortStableFunc(r.problems, compareProblems)
	c.problems = append(c.problems, r.problems...)
	c.warnings = append(c.warnings, r.warnings...)
}

// merge adds what one file says to what those before it said. A second word on
// the same matter is an error, for none should silently win.
func (c *composer) merge(r *reader, file *File) {
	if f := file.FilesystemPolicy; f != nil && c.claim(r, f.place, "filesystem_policy") {
		c.policy.filesystem = f
	}
	if l := file.Landlock; l != nil && c.claim(r, l.place, "landlock") {
		c.policy.landlock = l
	}
	if p := file.Process; p != nil && c.claim(r, p.place, "process") {
		c.policy.process = p
	}
	for _, n := range file.NetworkPolicies {
		if c.claim(r, n.place, "network_policies."+n.key) && c.claim(r, n.place, "the name "+n.Name) {
			c.policy.networks = append(c.policy.networks, n)
		}
	}
}

// claim reports whether something is defined for the first time over all sources.
func (c *composer) claim(r *reader, place Place, what string) bool {
	if first, taken := c.places[what]; taken {
		message := "is also defined"
		if what != place.Field {
			message = what + " is taken: it stands" // of another key
		}
		r.problems = append(r.problems, Problem{place, fmt.Sprintf("%s at %s:%d:%d; one of the two must go", message, first.File, first.Line, first.Column)})
		return false
	}
	if c.places == nil {
		c.places = make(map[string]Place)
	}
	c.places[what] = place
	return true
}

// finish makes the checks that need every source.
func (c *composer) finish() {
	networks := c.policy.networks
	slices.SortFunc(networks, func(a, b Network) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.key, b.key))
	})
	if len(networks) > maxNetworks {
		c.problems = append(c.problems, Problem{networks[maxNetworks].place,
			"is one of " + strconv.Itoa(len(networks)) + " network policies, at most " + strconv.Itoa(maxNetworks) + " are allowed"})
	}
	if len(c.problems) > 0 {
		return
	}
	if l := c.policy.landlock; c.policy.LandlockRequired() && c.policy.filesystem == nil {
		c.warnings = append(c.warnings, Warning{l.place, "requires that files are restricted, and no filesystem_policy says how: they are not"})
	}
	if c.problems = crowds(networks); len(c.problems) == 0 {
		c.problems = conflicts(networks)
	}
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

// Version is the version of the format.
type Version int

func (v *Version) read(r *reader, n *yaml.Node, field string) {
	switch {
	case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int":
		r.fail(n, field, "must be the number 1, not %s", describe(n))
	case n.Value != "1":
		r.fail(n, field, "%q is unknown; this version reads 1", n.Value)
	default:
		*v = 1
	}
}

// Networks are the network policies of a file, in its order.
type Networks []Network

func (all *Networks) read(r *reader, n *yaml.Node, field string) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, field, "must be a mapping (key: policy), not %s; write {} for none", describe(n))
		return
	}
	r.pairs(n, field, func(key, value *yaml.Node, sub string) {
		if key.Value == "" || len(key.Value) > maxName || strings.ContainsFunc(key.Value, func(c rune) bool { return !isKeyRune(c) }) {
			r.fail(key, sub, "a policy's key has 1 to %d letters, digits, '_' and '-'", maxName) // and go on: one mistake hides no other
		}
		network := Network{key: key.Value}
		r.decode(value, sub, reflect.ValueOf(&network).Elem(), bounds{})
		network.place = r.place(key, sub)
		network.Name = cmp.Or(network.Name, network.key)
		*all = append(*all, network)
	})
}
