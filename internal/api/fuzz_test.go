package api

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// FuzzCheck decodes arbitrary bytes as every request, and builds requests to make a
// sandbox of fields that are n times a text of a size. Check must not panic, must
// say the same again, and must agree with a model that is written out by hand.
func FuzzCheck(f *testing.F) {
	f.Add(uint8(0), uint16(0), uint16(0), "", []byte("\x0a\x03box"))
	f.Add(uint8(1), uint16(128), uint16(256), "a", []byte{})
	f.Add(uint8(2), uint16(100), uint16(1), "RINGFENCE_", []byte("\x12\x02\x0a\x00"))
	f.Add(uint8(3), uint16(32), uint16(253), "a.", []byte("\x0a\x02\xff\xfe"))
	f.Add(uint8(4), uint16(65), uint16(4096), "/..", []byte("\xf8\x01\x01"))
	f.Add(uint8(5), uint16(64), uint16(4096), "\n", []byte{})
	f.Add(uint8(6), uint16(33), uint16(8192), "k", []byte{})
	f.Fuzz(func(t *testing.T, which uint8, n, size uint16, text string, raw []byte) {
		for _, request := range requests() {
			if proto.Unmarshal(raw, request) == nil {
				checkTwice(t, request)
			}
			if create, ok := request.(*pb.CreateSandboxRequest); ok {
				agree(t, create)
			}
		}
		agree(t, build(which, int(n)%200, int(size), text))
	})
}

// requests returns one of each that there is.
func requests() (all []Message) {
	for _, method := range methods() {
		all = append(all, newMessage(method.Input()))
	}
	return all
}

func newMessage(descriptor protoreflect.MessageDescriptor) Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		panic(err)
	}
	return kind.New().Interface()
}

// checkTwice returns whether a request passes.
func checkTwice(t *testing.T, request Message) bool {
	err := Check(request)
	again := Check(proto.Clone(request))
	if (err == nil) != (again == nil) || err != nil && err.Error() != again.Error() {
		t.Errorf("%v: first %v, then %v", request, err, again)
	}
	var e *Error
	if err != nil && (!errors.As(err, &e) || e.Code != CodeInvalidArgument || e.Message == "" || e.Hint == "") {
		t.Errorf("%v: error = %#v", request, err)
	}
	return err == nil
}

func agree(t *testing.T, request *pb.CreateSandboxRequest) {
	if passes, want := checkTwice(t, request), modelOfCreate(request); passes != want {
		t.Errorf("passes: %v, by the model %v: %v", passes, want, Check(request))
	}
}

// build makes a request of which some fields are n entries of text, repeated up to a
// size.
func build(which uint8, n, size int, text string) *pb.CreateSandboxRequest {
	text = strings.ToValidUTF8(text, "")
	long := ""
	if text != "" {
		long = strings.Repeat(text, size/len(text)+1)
		long = strings.ToValidUTF8(long[:size], "")
	}
	var list []string
	keys, values := make(map[string]string), make(map[string]string)
	for i := range n {
		list = append(list, long)
		keys[long+strings.Repeat("x", i%7)] = text
		values[text+strings.Repeat("x", i)] = long
	}
	spec := &pb.SandboxSpec{}
	request := &pb.CreateSandboxRequest{Spec: spec}
	switch which % 12 {
	case 0:
		request.Name, spec.Workdir, spec.User = text, long, text
	case 1:
		request.Name, spec.Labels = long, values
	case 2:
		spec.Environment = values
	case 3:
		spec.Environment = keys
	case 4:
		spec.Visible = list
	case 5:
		spec.SshAuthorizedKeys = list
	case 6:
		spec.Providers, spec.LogLevel = list, text
	case 7:
		spec.Annotations = keys
	case 8:
		spec.Labels, spec.ControlPlane = keys, text
	case 9:
		spec.Template = &pb.SandboxTemplate{Image: long, RuntimeClass: text, AgentSocketPath: text}
	case 10:
		spec.Policy = &pb.PolicySource{}
		for _, name := range list {
			spec.Policy.Files = append(spec.Policy.Files, &pb.PolicyFile{Name: name, Yaml: []byte(text)})
		}
	case 11:
		spec.Annotations, spec.ControlPlane, spec.User = values, long, long
	}
	return request
}

// modelOfCreate says the same as the rules, at length and in another way.
func modelOfCreate(r *pb.CreateSandboxRequest) bool {
	s := r.GetSpec()
	if len(r.ProtoReflect().GetUnknown()) > 0 || r.GetName() != "" && !modelName(r.GetName()) {
		return false
	}
	if s == nil {
		return true
	}
	if len(s.ProtoReflect().GetUnknown()) > 0 || proto.Size(s) > 983040 {
		return false
	}
	line := func(text string) bool {
		return strings.IndexByte(text, 0) < 0 && !strings.Contains(text, "\n") && !strings.Contains(text, "\r")
	}
	scalar := func(text string, most int) bool { return len(text) <= most && line(text) }
	key := func(text string) bool {
		return text != "" && len(text) <= 256 && strings.IndexFunc(text, unicode.IsControl) < 0
	}
	all := func(m map[string]string, most int, key, value func(string) bool) bool {
		total := 0
		for k, v := range m {
			total += len(k) + len(v)
			if !key(k) || !value(v) || len(v) > 8192 {
				return false
			}
		}
		return len(m) <= 128 && total <= most
	}
	path := func(text string) bool {
		return strings.HasPrefix(text, "/") && len(text) <= 4096 && line(text) && !strings.Contains(text+"/", "/../")
	}
	keysTotal := 0
	for _, k := range s.GetSshAuthorizedKeys() {
		keysTotal += len(k)
		if !scalar(k, 16384) {
			return false
		}
	}
	return all(s.GetLabels(), math.MaxInt, key, line) &&
		all(s.GetAnnotations(), math.MaxInt, key, func(v string) bool { return strings.IndexByte(v, 0) < 0 }) &&
		all(s.GetEnvironment(), 262144, modelVariable, line) &&
		scalar(s.GetLogLevel(), 32) && scalar(s.GetUser(), 256) && scalar(s.GetControlPlane(), 261) &&
		(s.GetWorkdir() == "" || path(s.GetWorkdir())) &&
		len(s.GetVisible()) <= 64 && !slices.ContainsFunc(s.GetVisible(), func(v string) bool { return !path(v) }) &&
		len(s.GetProviders()) <= 32 && !slices.ContainsFunc(s.GetProviders(), func(p string) bool { return !modelName(p) }) &&
		len(s.GetSshAuthorizedKeys()) <= 128 && keysTotal <= 262144 &&
		modelPolicy(s.GetPolicy(), line) && modelTemplate(s.GetTemplate(), scalar)
}

func modelName(name string) bool {
	for _, part := range strings.Split(name, ".") {
		if part == "" || len(part) > 63 || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for _, r := range part {
			if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
				return false
			}
		}
	}
	return len(name) <= 253
}

func modelVariable(name string) bool {
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != "" && len(name) <= 256 && !strings.HasPrefix(name, "RINGFENCE_")
}

func modelPolicy(p *pb.PolicySource, line func(string) bool) bool {
	if p == nil {
		return true
	}
	for _, file := range p.GetFiles() {
		if file.GetName() == "" || len(file.GetName()) > 4096 || !line(file.GetName()) || len(file.GetYaml()) > 262144 ||
			len(file.ProtoReflect().GetUnknown()) > 0 {
			return false
		}
	}
	return proto.Size(p) <= 262144 && len(p.GetFiles()) > 0 && len(p.GetFiles()) <= 32 && len(p.ProtoReflect().GetUnknown()) == 0
}

func modelTemplate(m *pb.SandboxTemplate, scalar func(string, int) bool) bool {
	if m == nil {
		return true
	}
	return scalar(m.GetImage(), 1024) && scalar(m.GetRuntimeClass(), 1024) && scalar(m.GetAgentSocketPath(), 1024) &&
		proto.Size(m.GetResources()) <= 65536 && proto.Size(m.GetPodTemplate()) <= 65536 && proto.Size(m.GetVolumeClaimTemplates()) <= 65536 &&
		len(m.ProtoReflect().GetUnknown()) == 0
}
