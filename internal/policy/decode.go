package policy

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mapping is where a mapping of the document stands, and, while it is checked,
// where each of its fields does.
type mapping struct {
	place  Place
	node   *yaml.Node
	values map[string]*yaml.Node // by field name; those that are written
}

func (m *mapping) located() *mapping { return m }

func (m *mapping) has(name string) bool { return m.values[name] != nil }

// fail notes what is wrong with one field that is written.
func (m *mapping) fail(r *reader, name, format string, args ...any) {
	r.fail(m.values[name], join(m.place.Field, name), format, args...)
}

// What a type of the document may be besides a mapping or a list of such.
type (
	// leaf is a value that reads itself.
	leaf interface {
		read(r *reader, n *yaml.Node, field string)
	}
	// word is one of a few.
	word interface{ words() []string }
	// object is a mapping with fixed fields.
	object interface{ located() *mapping }
	// advisor is an object that knows what was meant by a field that it has not.
	advisor interface{ advise(name string) string }
	// exampled is an object that shows how it is written.
	exampled interface{ example() string }
	// checked is an object whose fields must go together.
	checked interface{ check(r *reader) }
)

// bounds are what the tags of a field say.
type bounds struct {
	required           bool
	minItems, maxItems int
	maxLength          int
	empty              string // what to write instead of an empty list
	missing            string // what to write where it is required and missing
}

// fieldInfo is one field of an object.
type fieldInfo struct {
	name  string
	index int
	bounds
}

// fieldsOf returns the fields of an object's type, from its tags.
func (r *reader) fieldsOf(t reflect.Type) []fieldInfo {
	if known, ok := r.types[t]; ok {
		return known
	}
	var all []fieldInfo
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name, _, _ := strings.Cut(tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		all = append(all, fieldInfo{name, i, parseBounds(tag)})
	}
	if r.types == nil {
		r.types = map[reflect.Type][]fieldInfo{}
	}
	r.types[t] = all
	return all
}

func parseBounds(tag reflect.StructTag) bounds {
	b := bounds{empty: tag.Get("empty"), missing: tag.Get("missing")}
	if b.missing != "" {
		b.missing = "; " + b.missing
	}
	for part := range strings.SplitSeq(tag.Get("jsonschema"), ",") {
		key, value, _ := strings.Cut(part, "=")
		number, _ := strconv.Atoi(value)
		switch key {
		case "required":
			b.required = true
		case "minItems", "minProperties":
			b.minItems = number
		case "maxItems", "maxProperties":
			b.maxItems = number
		case "maxLength":
			b.maxLength = number
		}
	}
	return b
}

// decode reads a node into a value of the document. What is wrong is noted, and
// the value is then as far read as it could be.
func (r *reader) decode(n *yaml.Node, field string, v reflect.Value, b bounds) {
	switch value := v.Addr().Interface().(type) {
	case leaf:
		value.read(r, n, field)
		return
	case word:
		v.SetString(r.choice(n, field, value.words()...))
		return
	case object:
		r.object(n, field, v, value)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.decode(n, field, v.Elem(), b)
	case reflect.Slice:
		r.list(n, field, b, func(item *yaml.Node, f string) {
			element := reflect.New(v.Type().Elem()).Elem()
			r.decode(item, f, element, bounds{})
			v.Set(reflect.Append(v, element))
		})
	case reflect.Map:
		r.entries(n, field, v, b)
	case reflect.Bool:
		v.SetBool(r.boolean(n, field))
	case reflect.String:
		text, _ := r.text(n, field, b.maxLength)
		v.SetString(text)
	}
}

// object reads a mapping with fixed fields.
func (r *reader) object(n *yaml.Node, field string, v reflect.Value, o object) {
	m := o.located()
	m.place, m.node, m.values = r.place(n, field), n, map[string]*yaml.Node{}
	if e, ok := o.(exampled); ok && n.Kind != yaml.MappingNode {
		r.fail(n, field, "must be a mapping (field: value), not %s; write %s", describe(n), strconv.Quote(e.example()))
		return
	}
	known := r.fieldsOf(v.Type())
	meant := map[string]bool{} // by fields that are not known
	r.pairs(n, field, func(key, value *yaml.Node, sub string) {
		i := slices.IndexFunc(known, func(f fieldInfo) bool { return f.name == key.Value })
		switch {
		case i >= 0 && isDefault(value, v.Field(known[i].index)):
		case i >= 0:
			m.values[key.Value] = value
			r.decode(value, sub, v.Field(known[i].index), known[i].bounds)
		case notYet(key.Value):
			r.fail(key, sub, "is not enforced by this version, so it is refused; remove it")
		default:
			near, text := unknownField(key.Value, known, o)
			meant[near] = true
			r.fail(key, sub, "unknown field%s", text)
		}
	})
	if n.Kind == yaml.MappingNode {
		for _, f := range known {
			if f.required && !m.has(f.name) && !meant[f.name] {
				r.fail(n, field, "has no %s%s", f.name, f.missing)
			}
		}
		if c, ok := o.(checked); ok {
			c.check(r)
		}
	}
	m.node, m.values = nil, nil // the text is not kept
}

// entries reads a mapping whose keys are the file's own.
func (r *reader) entries(n *yaml.Node, field string, v reflect.Value, b bounds) {
	v.Set(reflect.MakeMap(v.Type()))
	r.pairs(n, field, func(key, value *yaml.Node, sub string) {
		element := reflect.New(v.Type().Elem()).Elem()
		r.decode(value, sub, element, bounds{})
		v.SetMapIndex(reflect.ValueOf(key.Value), element)
	})
	if n.Kind == yaml.MappingNode && len(n.Content)/2 < b.minItems {
		r.fail(n, field, "is empty: %s", b.empty)
	}
	if n.Kind == yaml.MappingNode && len(n.Content)/2 > b.maxItems {
		r.fail(n, field, "has %d entries, at most %d are allowed", len(n.Content)/2, b.maxItems)
	}
}

// notYet tells the fields of the schema that this version does not enforce from
// those that are nobody's.
func notYet(name string) bool {
	switch name {
	case "network_middlewares", "credential_signing", "websocket_credential_rewrite",
		"request_body_credential_rewrite", "json_rpc", "mcp":
		return true
	}
	return strings.HasPrefix(name, "graphql_")
}

// isDefault reports whether a word is written as the empty text, which is to leave
// it out.
func isDefault(n *yaml.Node, v reflect.Value) bool {
	_, ok := v.Addr().Interface().(word)
	return ok && n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" && n.Value == ""
}

// unknownField returns the field that was meant, where that can be told, and what
// to say of it.
func unknownField(name string, known []fieldInfo, o object) (near, text string) {
	if a, ok := o.(advisor); ok {
		if advice := a.advise(name); advice != "" {
			return known[0].name, "; " + advice
		}
	}
	names := make([]string, len(known))
	for i, f := range known {
		names[i] = f.name
	}
	if near = Nearest(name, names); near != "" {
		text = ", did you mean " + near + "?"
	}
	return near, text
}
