package api

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// rule is what holds for one field, in whatever request it comes. Lengths are of
// bytes; 0 is no limit of that kind.
type rule struct {
	required bool
	most     uint64 // of a number

	entries int // of a list or map
	key     int // of each key
	length  int // of a string, or of each one of a list, or of each value of a map
	total   int // of all of these together
	encoded int // of a message, as it travels

	keyForm, form *form // what else a key and a value must be
}

// form is what strings of a kind look like.
type form struct {
	problem func(string) string // why one is refused: "is …"; "" where it is not
	hint    string
}

// Check returns an *Error where a request is not within its limits, or says
// something that this agent does not know of. It looks at the request alone. A
// server checks every request before its method sees it.
//
// Messages of other protocols, such as health checks, pass.
func Check(request Message) error {
	m := request.ProtoReflect()
	if m.Descriptor().ParentFile().Package() != ringfencev1.File_ringfence_v1_agent_proto.Package() {
		return nil
	}
	if err := checkMessage("", m); err != nil {
		return err
	}
	if err := checkWhole(request); err != nil {
		return err
	}
	return nil
}

// CheckSpec checks what a sandbox is made from after an update was merged into it:
// each update may have been within the limits, and all of them together not.
func CheckSpec(spec *ringfencev1.SandboxSpec) error {
	return Check(&ringfencev1.CreateSandboxRequest{Spec: spec})
}

// checkMessage checks the fields of a message. The path is where it stands in the
// request: "" or "spec.".
func checkMessage(path string, m protoreflect.Message) *Error {
	if len(m.GetUnknown()) > 0 {
		return InvalidArgument(hintOf(CodeUnimplemented), "%s has fields that this agent does not know", where(path, m))
	}
	for i := range m.Descriptor().Oneofs().Len() {
		oneof := m.Descriptor().Oneofs().Get(i)
		if !oneof.IsSynthetic() && m.WhichOneof(oneof) == nil {
			return InvalidArgument("set one of "+names(oneof.Fields()), "%s%s is missing", path, oneof.Name())
		}
	}
	for i := range m.Descriptor().Fields().Len() {
		field := m.Descriptor().Fields().Get(i)
		if !m.Has(field) && field.ContainingOneof() != nil {
			continue
		}
		if err := checkField(path+string(field.Name()), field, m); err != nil {
			return err
		}
	}
	return nil
}

func where(path string, m protoreflect.Message) string {
	if path == "" {
		return string(m.Descriptor().Name())
	}
	return strings.TrimSuffix(path, ".")
}

func names(fields protoreflect.FieldDescriptors) string {
	var all []string
	for i := range fields.Len() {
		all = append(all, string(fields.Get(i).Name()))
	}
	return strings.Join(all, ", ")
}

// checkField checks one field by its rule. One that could be of any size has one:
// see TestEveryFieldHasALimit.
func checkField(path string, field protoreflect.FieldDescriptor, m protoreflect.Message) *Error {
	r := ruleOf(field)
	if !m.Has(field) {
		if r.required {
			return InvalidArgument("set it", "%s is missing", path)
		}
		return nil
	}
	value := m.Get(field)
	switch {
	case field.IsMap():
		return r.checkMap(path, value.Map())
	case field.IsList():
		return r.checkList(path, field, value.List())
	case field.Message() != nil:
		return r.checkNested(path, value.Message())
	case field.Kind() == protoreflect.StringKind:
		return r.checkString(path, value.String())
	case field.Kind() == protoreflect.BytesKind:
		return tooLong(path, len(value.Bytes()), r.length)
	case field.Kind() == protoreflect.Uint32Kind && r.most > 0 && value.Uint() > r.most:
		return InvalidArgument(fmt.Sprintf("%d is the most", r.most), "%s exceeds maximum (%d > %d)", path, value.Uint(), r.most)
	}
	return nil
}

func (r *rule) checkString(path, value string) *Error {
	if err := tooLong(path, len(value), r.length); err != nil {
		return err
	}
	return r.form.check(path, value)
}

func (r *rule) checkMap(path string, entries protoreflect.Map) *Error {
	if err := tooMany(path, entries.Len(), r.entries); err != nil {
		return err
	}
	var keys []string // sorted, so that the same request gets the same error
	entries.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, key.String())
		return true
	})
	slices.Sort(keys)
	total := 0
	for _, key := range keys {
		if err := tooLong(path+" key", len(key), r.key); err != nil {
			return err
		}
		if err := r.keyForm.check(fmt.Sprintf("%s key %q", path, key), key); err != nil {
			return err
		}
		value := entries.Get(protoreflect.ValueOfString(key).MapKey()).String()
		if err := r.checkString(fmt.Sprintf("%s[%q]", path, key), value); err != nil {
			return err
		}
		total += len(key) + len(value)
	}
	return tooLong(path, total, r.total)
}

func (r *rule) checkList(path string, field protoreflect.FieldDescriptor, entries protoreflect.List) *Error {
	if err := tooMany(path, entries.Len(), r.entries); err != nil {
		return err
	}
	total := 0
	for i := range entries.Len() {
		at := fmt.Sprintf("%s[%d]", path, i)
		if field.Message() != nil {
			if err := checkMessage(at+".", entries.Get(i).Message()); err != nil {
				return err
			}
			continue
		}
		value := entries.Get(i).String()
		if err := r.checkString(at, value); err != nil {
			return err
		}
		total += len(value)
	}
	return tooLong(path, total, r.total)
}

func (r *rule) checkNested(path string, m protoreflect.Message) *Error {
	if r.encoded > 0 {
		if err := tooLong(path, proto.Size(m.Interface()), r.encoded); err != nil {
			return err
		}
	}
	switch nested := m.Interface().(type) {
	case *timestamppb.Timestamp:
		if nested.CheckValid() != nil {
			return InvalidArgument("send a time between the years 1 and 9999", "%s is no time", path)
		}
	case *durationpb.Duration:
		if nested.CheckValid() != nil || nested.AsDuration() < 0 {
			return InvalidArgument("send a duration of 0 or more", "%s is no duration", path)
		}
	}
	if m.Descriptor().ParentFile().Package() != ringfencev1.File_ringfence_v1_agent_proto.Package() {
		return nil // of protobuf itself: its bound is its encoded length
	}
	return checkMessage(path+".", m)
}

// check refuses a value of another form.
func (f *form) check(path, value string) *Error {
	if f == nil {
		return nil
	}
	if problem := f.problem(value); problem != "" {
		return InvalidArgument(f.hint, "%s %s", path, problem)
	}
	return nil
}

func tooLong(path string, n, limit int) *Error {
	if n <= limit || limit == 0 {
		return nil
	}
	return InvalidArgument(fmt.Sprintf("%d bytes are the most", limit), "%s exceeds maximum length (%d > %d)", path, n, limit)
}

func tooMany(path string, n, limit int) *Error {
	if n <= limit || limit == 0 {
		return nil
	}
	return InvalidArgument(fmt.Sprintf("%d are the most", limit), "%s exceeds maximum entries (%d > %d)", path, n, limit)
}

// checkWhole checks what no field can tell by itself.
func checkWhole(request Message) *Error {
	switch r := request.(type) {
	case *ringfencev1.UpdateSandboxRequest:
		return checkMask(r.GetFields(), r.GetSpec() != nil,
			"labels", "annotations", "environment", "log_level", "policy", "providers", "ssh_authorized_keys")
	case *ringfencev1.UpdateProviderRequest:
		if err := checkMask(r.GetFields(), true, "type", "credentials", "config"); err != nil {
			return err
		}
		if slices.Contains(r.GetFields(), "type") {
			return checkType(r.GetProvider())
		}
	case *ringfencev1.ExecRequest:
		if argv := r.GetStart().GetArgv(); len(argv) > 0 && argv[0] == "" {
			return InvalidArgument("name a program, or leave argv out for the user's shell", "start.argv[0] is empty")
		}
	case *ringfencev1.CreateProviderRequest:
		return checkType(r.GetProvider())
	case *ringfencev1.QueryRecordsRequest:
		if f := r.GetFilter(); f.GetSince() != nil && f.GetUntil() != nil && f.GetUntil().AsTime().Before(f.GetSince().AsTime()) {
			return InvalidArgument("exchange them", "filter.until is before filter.since")
		}
	}
	return nil
}

func checkType(provider *ringfencev1.Provider) *Error {
	if provider.GetType() == "" {
		return InvalidArgument("set it, such as to anthropic", "provider.type is missing")
	}
	return nil
}

// checkMask checks the names of the fields that an update replaces.
func checkMask(fields []string, given bool, known ...string) *Error {
	hint := "name some of " + strings.Join(known, ", ")
	if len(fields) == 0 {
		return InvalidArgument(hint, "fields is missing")
	}
	for i, field := range fields {
		if !slices.Contains(known, field) {
			return InvalidArgument(hint, "fields[%d]: %q cannot be updated", i, field)
		}
	}
	if !given {
		return InvalidArgument("set it, if only to clear the fields that it does not have", "spec is missing")
	}
	return nil
}
