package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// MarshalYAML writes the policies in their order, each under its key.
func (all Networks) MarshalYAML() (any, error) {
	mapping := &yaml.Node{Kind: yaml.MappingNode}
	for i := range all {
		var key, value yaml.Node
		key.SetString(all[i].key)
		if err := value.Encode(&all[i]); err != nil {
			return nil, err
		}
		mapping.Content = append(mapping.Content, &key, &value)
	}
	return mapping, nil
}

// YAML returns the composed policy as one file that loads again, in canonical form
// and with defaults that were applied. Comments say where each policy was defined
// and where symbolic links lead.
func (p *Policy) YAML(links []Link) ([]byte, error) {
	root, err := p.document()
	if err != nil {
		return nil, err
	}
	if policies := field(root, "network_policies"); policies != nil {
		for i := range p.networks {
			place := p.networks[i].place
			policies.Content[2*i].HeadComment = fmt.Sprintf("# %s:%d", strconv.QuoteToASCII(place.File), place.Line)
		}
		eachLink(policies, links, func(binary *yaml.Node, link Link) {
			text := "# leads to " + quotePath(link.Target)
			if link.Writable {
				text += ", and the sandbox can change that"
			}
			field(binary, "path").LineComment = text
		})
	}
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	return text.Bytes(), encoder.Close()
}

// JSON returns the same for programs: where a link leads is in fields of its own,
// so it does not load again.
func (p *Policy) JSON(links []Link) ([]byte, error) {
	root, err := p.document()
	if err != nil {
		return nil, err
	}
	if policies := field(root, "network_policies"); policies != nil {
		for i := range p.networks {
			place := p.networks[i].place
			add(policies.Content[2*i+1], "defined_at", map[string]any{
				"file": place.File, "line": place.Line, "column": place.Column, "field": place.Field})
		}
		eachLink(policies, links, func(binary *yaml.Node, link Link) {
			add(binary, "resolved", link.Target)
			add(binary, "resolved_writable", link.Writable)
		})
	}
	var value any
	if err := root.Decode(&value); err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	return json.MarshalIndent(value, "", "  ")
}

// document returns the policy as the nodes of one file.
func (p *Policy) document() (*yaml.Node, error) {
	file := File{
		Version: 1, FilesystemPolicy: p.filesystem, Landlock: p.landlock, Process: p.process,
		NetworkPolicies: slices.Clone(p.networks),
	}
	var root yaml.Node
	if err := root.Encode(&file); err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	return &root, nil
}

// eachLink calls do for each binary of the policies that is a symbolic link.
func eachLink(policies *yaml.Node, links []Link, do func(binary *yaml.Node, link Link)) {
	for i := 1; i < len(policies.Content); i += 2 {
		for _, binary := range field(policies.Content[i], "binaries").Content {
			path := field(binary, "path").Value
			j := slices.IndexFunc(links, func(l Link) bool { return l.Path == path && l.Target != path })
			if j >= 0 {
				do(binary, links[j])
			}
		}
	}
}

// field returns the value of a mapping's field; nil where there is none.
func field(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}

func add(mapping *yaml.Node, name string, value any) {
	var key, node yaml.Node
	key.SetString(name)
	if node.Encode(value) == nil { // plain values always can
		mapping.Content = append(mapping.Content, &key, &node)
	}
}
