package policy

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/policies"
)

const schemaFile = "../../policies/policy.schema.json"

// TestSchemaIsThatOfTheTypes generates the JSON Schema from the types of the
// document, and compares it with the one that ships. With -update it writes it.
func TestSchemaIsThatOfTheTypes(t *testing.T) {
	want := generateSchema(t)
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(schemaFile); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the types say (%v); run go test ./internal/policy -run Schema -update", schemaFile, err)
	}
}

func generateSchema(t *testing.T) []byte {
	t.Helper()
	r := &jsonschema.Reflector{FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, Mapper: leafSchema, ExpandedStruct: true}
	if err := r.AddGoComments("github.com/ringfence/ringfence/internal/policy", "."); err != nil {
		t.Fatal(err)
	}
	// The comments' keys are those of a package below the module's root.
	comments := map[string]string{}
	for key, text := range r.CommentMap {
		_, name, _ := strings.Cut(key, "/policy.")
		comments["github.com/ringfence/ringfence/internal/policy."+name] = text
	}
	r.CommentMap = comments
	schema, network := r.Reflect(&File{}), r.Reflect(&Network{})
	maps.Copy(schema.Definitions, network.Definitions)
	network.Version, network.ID, network.Definitions = "", "", nil
	schema.ID, schema.Definitions["Network"] = "", network
	schema.Title = "Ringfence policy"
	data, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}

// leafSchema describes the types that read themselves: these say in code what
// others say in tags.
func leafSchema(t reflect.Type) *jsonschema.Schema {
	text := func(pattern string) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Pattern: pattern}
	}
	if w, ok := reflect.New(t).Interface().(word); ok {
		return enumOf(w.words())
	}
	switch reflect.New(t).Elem().Interface().(type) {
	case Version:
		return &jsonschema.Schema{Type: "integer", Const: 1}
	case Networks:
		return &jsonschema.Schema{Type: "object", AdditionalProperties: &jsonschema.Schema{Ref: "#/$defs/Network"},
			PropertyNames: text("^[A-Za-z0-9_-]{1,64}$")}
	case Host:
		return &jsonschema.Schema{Type: "string", MaxLength: ptr(253)}
	case Port:
		return &jsonschema.Schema{Type: "integer", Minimum: "1", Maximum: "65535"}
	case Prefix:
		return text(`^[0-9A-Fa-f:.]+(/[0-9]+)?$`)
	case Account:
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{
			{Type: "string", Pattern: `^[A-Za-z0-9_.$-]{1,32}$`, Not: &jsonschema.Schema{Const: "root"}},
			{Type: "integer", Minimum: "1", Maximum: "4294967294"},
		}}
	case ReadPath, WritePath, BinaryPath:
		return &jsonschema.Schema{Type: "string", Pattern: "^/", MaxLength: ptr(maxPath)}
	case PathGlob:
		return &jsonschema.Schema{Type: "string", Pattern: `^(/|\*\*)`, MaxLength: ptr(rulePatternBytes)}
	case Method:
		return text(`^(\*|[A-Za-z0-9_-]{1,32})$`)
	case Digest:
		return text("^[0-9A-Fa-f]{64}$")
	case TaintName:
		return enumOf(liftable())
	case Matcher:
		glob := &jsonschema.Schema{Type: "string", MaxLength: ptr(rulePatternBytes)}
		list := jsonschema.NewProperties()
		list.Set("any", &jsonschema.Schema{Type: "array", Items: glob, MinItems: ptr(1), MaxItems: ptr(maxItems)})
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{glob,
			{Type: "object", Properties: list, Required: []string{"any"}, AdditionalProperties: jsonschema.FalseSchema}}}
	}
	return nil
}

func enumOf(words []string) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "string"}
	for _, w := range words {
		s.Enum = append(s.Enum, w)
	}
	return s
}

func ptr(n uint64) *uint64 { return &n }

// What loads is valid by the schema, and what it calls invalid does not load. (The
// reverse does not hold: a schema cannot say all that is checked.)
func TestSchemaAgreesWithTheReader(t *testing.T) {
	compiler := validator.NewCompiler()
	document, err := validator.UnmarshalJSON(bytes.NewReader(generateSchema(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiler.AddResource("policy.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("policy.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string][]byte{"decide": []byte("version: 1\n" + decidePolicy)}
	for _, shipped := range policies.All() {
		sources[shipped.Name] = shipped.Data
	}
	for _, pattern := range []string{"testdata/load/*.yaml", "testdata/openshell/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if sources[file], err = os.ReadFile(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	valid := 0
	for name, data := range sources {
		_, _, loads := Load(Source{name, data})
		var value any
		if err := yaml.Unmarshal(data, &value); err != nil {
			continue // not YAML, or with a field twice
		}
		text, err := json.Marshal(value)
		if err != nil {
			continue // keys that JSON does not have
		}
		instance, err := validator.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		invalid := schema.Validate(instance)
		if loads == nil && invalid != nil {
			t.Errorf("%s loads, and the schema says %v", name, invalid)
		}
		if loads == nil {
			valid++
		}
	}
	if valid < 5 {
		t.Errorf("only %d files load: the test says little", valid)
	}
	for _, wrong := range []string{`{}`, `{"version":2}`, `{"version":1,"x":1}`,
		`{"version":1,"network_policies":{"p":{"endpoints":[],"binaries":[{"path":"/x"}]}}}`,
		`{"version":1,"network_policies":{"p":{"endpoints":[{"host":"a.test","port":0}],"binaries":[{"path":"/x"}]}}}`,
		`{"version":1,"network_policies":{"p":{"endpoints":[{"host":"a.test","protcol":"rest"}],"binaries":[{"path":"/x"}]}}}`,
	} {
		instance, err := validator.UnmarshalJSON(strings.NewReader(wrong))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(instance) == nil {
			t.Errorf("valid: %s", wrong)
		}
	}
}
