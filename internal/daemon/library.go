package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"weak"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/source"
	"github.com/ringfence/ringfence/policies"
)

const policyHint = "ringfence policy check FILE tells everything that is wrong, with places"

// library loads policies. Sandboxes that have the same texts share what is loaded and
// compiled of them, as long as one of them uses it.
type library struct {
	modules []policy.Source // the operator's Rego, which narrows every policy

	mu     sync.Mutex
	loaded map[string]loadedPolicy // by digest
}

type loadedPolicy struct {
	policy   weak.Pointer[policy.Policy]
	warnings []string
}

func newLibrary(modules []policy.Source) *library {
	return &library{modules: modules, loaded: map[string]loadedPolicy{}}
}

// load returns the policy that a source makes, what is odd about it, and the digest of
// the texts. The error says everything that is wrong, and what to do.
func (l *library) load(s *pb.PolicySource) (p *policy.Policy, warnings []string, digest string, err error) {
	content := source.Content{Modules: l.modules}
	for i, file := range s.GetFiles() {
		text, err := textOf(file, i)
		if err != nil {
			return nil, nil, "", err
		}
		content.Policies = append(content.Policies, text)
	}
	digest = digestOf(content)
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.loaded[digest]; ok {
		if p := known.policy.Value(); p != nil {
			return p, known.warnings, digest, nil
		}
	}
	p, found, err := content.Load()
	if err != nil {
		return nil, nil, digest, api.InvalidArgument(policyHint, "the policy does not load:\n%v", err)
	}
	policy.TellWarnings(found, func(text string) { warnings = append(warnings, text) })
	l.forget()
	l.loaded[digest] = loadedPolicy{weak.Make(p), warnings}
	return p, warnings, digest, nil
}

// forget drops what nobody uses any more. The caller holds mu.
func (l *library) forget() {
	for digest, known := range l.loaded {
		if known.policy.Value() == nil {
			delete(l.loaded, digest)
		}
	}
}

// textOf returns the text of a file of a policy. A name without a text is that of a
// shipped policy, and never a path: the agent reads no file for who asks it.
func textOf(file *pb.PolicyFile, i int) (policy.Source, error) {
	name := file.GetName()
	if len(file.GetYaml()) > 0 {
		if name == "" {
			name = fmt.Sprintf("policy-%d.yaml", i+1)
		}
		return policy.Source{Name: name, Data: file.GetYaml()}, nil
	}
	shipped, ok := policies.Lookup(name)
	if !ok {
		return policy.Source{}, api.InvalidArgument("shipped are "+strings.Join(shippedNames(), ", ")+"; of a file, send the text",
			"no shipped policy is named %q", name)
	}
	return policy.Source{Name: name, Data: shipped.Data}, nil
}

func shippedNames() (names []string) {
	for _, shipped := range policies.All() {
		names = append(names, shipped.Name)
	}
	return names
}

func digestOf(c source.Content) string {
	h := sha256.New()
	for _, list := range [][]policy.Source{c.Policies, c.Modules} {
		for _, s := range list {
			fmt.Fprintf(h, "%d %d\n%s%s", len(s.Name), len(s.Data), s.Name, s.Data)
		}
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// sourceOf returns what a set on the host's disk holds, as it is sent over the API.
func sourceOf(set source.Set) (*pb.PolicySource, []policy.Source, error) {
	content, err := set.Read()
	if err != nil {
		return nil, nil, err
	}
	var s pb.PolicySource
	for _, text := range content.Policies {
		file := &pb.PolicyFile{Name: text.Name, Yaml: text.Data}
		if _, shipped := policies.Lookup(text.Name); shipped {
			file.Yaml = nil // an upgrade brings the shipped ones with it
		}
		s.Files = append(s.Files, file)
	}
	if len(s.GetFiles()) == 0 {
		return nil, nil, errors.New("read policy: there is none")
	}
	return &s, content.Modules, nil
}
