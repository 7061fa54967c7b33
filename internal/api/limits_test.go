package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// letters returns a string of n bytes.
func letters(n int) string { return strings.Repeat("a", n) }

// dnsName returns a DNS-1123 name of n bytes.
func dnsName(n int) string {
	var parts []string
	for n > 63 {
		parts = append(parts, letters(min(63, n-2)))
		n -= len(parts[len(parts)-1]) + 1
	}
	return strings.Join(append(parts, letters(n)), ".")
}

// entries returns a map of n entries with short keys.
func entries(n int) map[string]string {
	m := make(map[string]string)
	for i := range n {
		m[fmt.Sprintf("k%d", i)] = "v"
	}
	return m
}

// environmentOf returns variables of total bytes, names and values.
func environmentOf(total int) map[string]string {
	m := make(map[string]string)
	for i := 0; total > 0; i++ {
		key := fmt.Sprintf("k%03d", i)
		value := min(total-len(key), maxValue)
		if rest := total - len(key) - value; rest > 0 && rest < len(key) {
			value -= len(key) // so that the last one is not shorter than its name
		}
		m[key] = letters(value)
		total -= len(key) + value
	}
	return m
}

func lines(n, size int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = letters(size)
	}
	return list
}

// encodedStruct returns a struct of n encoded bytes.
func encodedStruct(n int) *structpb.Struct {
	of := func(n int) *structpb.Struct {
		return &structpb.Struct{Fields: map[string]*structpb.Value{"k": structpb.NewStringValue(letters(n))}}
	}
	return of(2*n - proto.Size(of(n)))
}

// encodedPolicy returns a policy of n encoded bytes.
func encodedPolicy(n int) *pb.PolicySource {
	of := func(n int) *pb.PolicySource {
		return &pb.PolicySource{Files: []*pb.PolicyFile{{Name: "p", Yaml: make([]byte, n)}}}
	}
	return of(2*n - proto.Size(of(n)))
}

func policyFiles(n int) *pb.PolicySource {
	source := &pb.PolicySource{}
	for range n {
		source.Files = append(source.Files, &pb.PolicyFile{Name: "base"})
	}
	return source
}

// specRow is a limit of a field of SandboxSpec, which holds whenever one is sent.
type specRow struct {
	name  string
	limit int
	set   func(spec *pb.SandboxSpec, n int)
	want  string // at limit+1, without the numbers
}

func specRows() []specRow {
	template := func(set func(*pb.SandboxTemplate, int)) func(*pb.SandboxSpec, int) {
		return func(spec *pb.SandboxSpec, n int) {
			spec.Template = &pb.SandboxTemplate{}
			set(spec.Template, n)
		}
	}
	const length, many = " exceeds maximum length", " exceeds maximum entries"
	return []specRow{
		{"labels", 128, func(s *pb.SandboxSpec, n int) { s.Labels = entries(n) }, "spec.labels" + many},
		{"label key", 256, func(s *pb.SandboxSpec, n int) { s.Labels = map[string]string{letters(n): "v"} }, "spec.labels key" + length},
		{"label", 8192, func(s *pb.SandboxSpec, n int) { s.Labels = map[string]string{"k": letters(n)} }, `spec.labels["k"]` + length},
		{"annotations", 128, func(s *pb.SandboxSpec, n int) { s.Annotations = entries(n) }, "spec.annotations" + many},
		{"annotation key", 256, func(s *pb.SandboxSpec, n int) { s.Annotations = map[string]string{letters(n): "v"} }, "spec.annotations key" + length},
		{"annotation", 8192, func(s *pb.SandboxSpec, n int) { s.Annotations = map[string]string{"k": letters(n)} }, `spec.annotations["k"]` + length},
		{"environment", 128, func(s *pb.SandboxSpec, n int) { s.Environment = entries(n) }, "spec.environment" + many},
		{"environment key", 256, func(s *pb.SandboxSpec, n int) { s.Environment = map[string]string{letters(n): "v"} }, "spec.environment key" + length},
		{"environment value", 8192, func(s *pb.SandboxSpec, n int) { s.Environment = map[string]string{"k": letters(n)} }, `spec.environment["k"]` + length},
		{"environment total", 262144, func(s *pb.SandboxSpec, n int) { s.Environment = environmentOf(n) }, "spec.environment" + length},
		{"log_level", 32, func(s *pb.SandboxSpec, n int) { s.LogLevel = letters(n) }, "spec.log_level" + length},
		{"policy", 262144, func(s *pb.SandboxSpec, n int) { s.Policy = encodedPolicy(n) }, "spec.policy" + length},
		{"policy files", 32, func(s *pb.SandboxSpec, n int) { s.Policy = policyFiles(n) }, "spec.policy.files" + many},
		{"policy file name", 4096, func(s *pb.SandboxSpec, n int) {
			s.Policy = &pb.PolicySource{Files: []*pb.PolicyFile{{Name: letters(n)}}}
		}, "spec.policy.files[0].name" + length},
		{"providers", 32, func(s *pb.SandboxSpec, n int) { s.Providers = lines(n, 1) }, "spec.providers" + many},
		{"provider name", 253, func(s *pb.SandboxSpec, n int) { s.Providers = []string{dnsName(n)} }, "spec.providers[0]" + length},
		{"image", 1024, template(func(m *pb.SandboxTemplate, n int) { m.Image = letters(n) }), "spec.template.image" + length},
		{"runtime_class", 1024, template(func(m *pb.SandboxTemplate, n int) { m.RuntimeClass = letters(n) }), "spec.template.runtime_class" + length},
		{"agent_socket_path", 1024, template(func(m *pb.SandboxTemplate, n int) { m.AgentSocketPath = letters(n) }), "spec.template.agent_socket_path" + length},
		{"resources", 65536, template(func(m *pb.SandboxTemplate, n int) { m.Resources = encodedStruct(n) }), "spec.template.resources" + length},
		{"pod_template", 65536, template(func(m *pb.SandboxTemplate, n int) { m.PodTemplate = encodedStruct(n) }), "spec.template.pod_template" + length},
		{"volume_claim_templates", 65536, template(func(m *pb.SandboxTemplate, n int) { m.VolumeClaimTemplates = encodedStruct(n) }), "spec.template.volume_claim_templates" + length},
		{"user", 256, func(s *pb.SandboxSpec, n int) { s.User = letters(n) }, "spec.user" + length},
		{"workdir", 4096, func(s *pb.SandboxSpec, n int) { s.Workdir = "/" + letters(n-1) }, "spec.workdir" + length},
		{"visible", 64, func(s *pb.SandboxSpec, n int) {
			for range n {
				s.Visible = append(s.Visible, "/d")
			}
		}, "spec.visible" + many},
		{"visible path", 4096, func(s *pb.SandboxSpec, n int) { s.Visible = []string{"/" + letters(n-1)} }, "spec.visible[0]" + length},
		{"ssh_authorized_keys", 128, func(s *pb.SandboxSpec, n int) { s.SshAuthorizedKeys = lines(n, 1) }, "spec.ssh_authorized_keys" + many},
		{"ssh_authorized_keys line", 16384, func(s *pb.SandboxSpec, n int) { s.SshAuthorizedKeys = lines(1, n) }, "spec.ssh_authorized_keys[0]" + length},
		{"ssh_authorized_keys total", 262144, func(s *pb.SandboxSpec, n int) {
			s.SshAuthorizedKeys = append(lines(n/4096, 4096), letters(n%4096))
		}, "spec.ssh_authorized_keys" + length},
		{"control_plane", 261, func(s *pb.SandboxSpec, n int) { s.ControlPlane = letters(n) }, "spec.control_plane" + length},
	}
}

// TestSpecLimits holds every limit of a sandbox against creation and update, at the
// limit and one above it.
func TestSpecLimits(t *testing.T) {
	for _, row := range specRows() {
		for _, over := range []int{0, 1} {
			n := row.limit + over
			spec := &pb.SandboxSpec{}
			row.set(spec, n)
			want := ""
			if over > 0 {
				want = fmt.Sprintf("%s (%d > %d)", row.want, n, row.limit)
			}
			for name, request := range map[string]Message{
				"create": &pb.CreateSandboxRequest{Spec: spec},
				"update": &pb.UpdateSandboxRequest{Name: "box", Spec: spec, Fields: []string{"labels"}},
			} {
				t.Run(fmt.Sprintf("%s/%s/%d", row.name, name, n), func(t *testing.T) { wantProblem(t, Check(request), want) })
			}
		}
	}
}

// wantProblem wants no error, or INVALID_ARGUMENT with this message and a hint.
func wantProblem(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("error = %v, want none", err)
		}
		return
	}
	if err == nil {
		t.Fatalf("no error, want %q", want)
	}
	e := ErrorOf(err)
	if e.Code != CodeInvalidArgument || e.Message != want || e.Hint == "" {
		t.Errorf("error = %v %q (hint %q), want INVALID_ARGUMENT %q", e.Code, e.Message, e.Hint, want)
	}
}

// TestRequestLimits is about the fields of requests themselves.
func TestRequestLimits(t *testing.T) {
	start := func(set func(*pb.ExecStart, int)) func(int) Message {
		return func(n int) Message {
			start := &pb.ExecStart{Sandbox: "box"}
			set(start, n)
			return &pb.ExecRequest{Message: &pb.ExecRequest_Start{Start: start}}
		}
	}
	// A provider's limits hold when it is created and when it is updated.
	providers := func(set func(*pb.Provider, int)) []func(int) Message {
		provider := func(n int) *pb.Provider {
			provider := &pb.Provider{Name: "p", Type: "t"}
			set(provider, n)
			return provider
		}
		return []func(int) Message{
			func(n int) Message { return &pb.CreateProviderRequest{Provider: provider(n)} },
			func(n int) Message { return &pb.UpdateProviderRequest{Provider: provider(n), Fields: []string{"type"}} },
		}
	}
	filter := func(set func(*pb.RecordFilter, int)) []func(int) Message {
		of := func(n int) *pb.RecordFilter {
			filter := &pb.RecordFilter{}
			set(filter, n)
			return filter
		}
		return []func(int) Message{
			func(n int) Message { return &pb.QueryRecordsRequest{Filter: of(n)} },
			func(n int) Message { return &pb.TailRecordsRequest{Filter: of(n)} },
		}
	}
	name := dnsName
	one := func(request func(int) Message) []func(int) Message { return []func(int) Message{request} }
	const length, many, most = " exceeds maximum length", " exceeds maximum entries", " exceeds maximum"
	for _, test := range []struct {
		name     string
		limit    int
		requests []func(n int) Message
		want     string
	}{
		{"sandbox name", 253, []func(int) Message{
			func(n int) Message { return &pb.CreateSandboxRequest{Name: name(n)} },
			func(n int) Message { return &pb.GetSandboxRequest{Name: name(n)} },
			func(n int) Message {
				return &pb.UpdateSandboxRequest{Name: name(n), Spec: &pb.SandboxSpec{}, Fields: []string{"labels"}}
			},
			func(n int) Message { return &pb.DeleteSandboxRequest{Name: name(n)} },
			func(n int) Message { return &pb.WatchSandboxesRequest{Name: name(n)} },
		}, "name" + length},
		{"sandbox of a request", 253, []func(int) Message{
			func(n int) Message { return &pb.AcceptProgramRequest{Sandbox: name(n), Path: "/p"} },
			func(n int) Message { return &pb.IssueCertificateRequest{Sandbox: name(n), PublicKey: "k"} },
			func(n int) Message { return &pb.SetPolicyRequest{Sandbox: name(n), Source: policyFiles(1)} },
			func(n int) Message { return &pb.GetPolicyRequest{Sandbox: name(n)} },
			func(n int) Message { return &pb.ListPolicyRevisionsRequest{Sandbox: name(n)} },
		}, "sandbox" + length},
		{"provider name of a request", 253, []func(int) Message{
			func(n int) Message { return &pb.GetProviderRequest{Name: name(n)} },
			func(n int) Message { return &pb.DeleteProviderRequest{Name: name(n)} },
		}, "name" + length},
		{"page_size", 1000, []func(int) Message{
			func(n int) Message { return &pb.ListSandboxesRequest{PageSize: uint32(n)} },
			func(n int) Message { return &pb.ListProvidersRequest{PageSize: uint32(n)} },
			func(n int) Message { return &pb.ListPolicyRevisionsRequest{Sandbox: "box", PageSize: uint32(n)} },
			func(n int) Message { return &pb.QueryRecordsRequest{PageSize: uint32(n)} },
		}, "page_size" + most},
		{"page_token", 1024, []func(int) Message{
			func(n int) Message { return &pb.ListSandboxesRequest{PageToken: letters(n)} },
			func(n int) Message { return &pb.ListProvidersRequest{PageToken: letters(n)} },
			func(n int) Message { return &pb.ListPolicyRevisionsRequest{Sandbox: "box", PageToken: letters(n)} },
			func(n int) Message { return &pb.QueryRecordsRequest{PageToken: letters(n)} },
		}, "page_token" + length},
		{"fields", 32, []func(int) Message{
			func(n int) Message {
				return &pb.UpdateSandboxRequest{Name: "box", Spec: &pb.SandboxSpec{}, Fields: slices.Repeat([]string{"labels"}, n)}
			},
			func(n int) Message {
				return &pb.UpdateProviderRequest{Provider: &pb.Provider{Name: "p", Type: "t"}, Fields: slices.Repeat([]string{"type"}, n)}
			},
		}, "fields" + many},
		{"past", 1000, one(func(n int) Message { return &pb.TailRecordsRequest{Past: uint32(n)} }), "past" + most},
		{"after", 1024, one(func(n int) Message { return &pb.TailRecordsRequest{After: letters(n)} }), "after" + length},
		{"labels of a list", 128, one(func(n int) Message { return &pb.ListSandboxesRequest{Labels: entries(n)} }), "labels" + many},
		{"label key of a list", 256, one(func(n int) Message {
			return &pb.ListSandboxesRequest{Labels: map[string]string{letters(n): ""}}
		}), "labels key" + length},
		{"label of a list", 8192, one(func(n int) Message {
			return &pb.ListSandboxesRequest{Labels: map[string]string{"k": letters(n)}}
		}), `labels["k"]` + length},
		{"path of a program", 4096, one(func(n int) Message {
			return &pb.AcceptProgramRequest{Sandbox: "box", Path: "/" + letters(n-1)}
		}), "path" + length},
		{"public_key", 16384, one(func(n int) Message {
			return &pb.IssueCertificateRequest{Sandbox: "box", PublicKey: letters(n)}
		}), "public_key" + length},
		{"policy", 262144, one(func(n int) Message {
			return &pb.SetPolicyRequest{Sandbox: "box", Source: encodedPolicy(n)}
		}), "source" + length},

		{"sandbox of exec", 253, one(start(func(s *pb.ExecStart, n int) { s.Sandbox = name(n) })), "start.sandbox" + length},
		{"argv", 1024, one(start(func(s *pb.ExecStart, n int) { s.Argv = lines(n, 1) })), "start.argv" + many},
		{"argument", 32768, one(start(func(s *pb.ExecStart, n int) { s.Argv = lines(1, n) })), "start.argv[0]" + length},
		{"environment of exec", 128, one(start(func(s *pb.ExecStart, n int) { s.Environment = entries(n) })), "start.environment" + many},
		{"environment of exec, total", 262144, one(start(func(s *pb.ExecStart, n int) { s.Environment = environmentOf(n) })), "start.environment" + length},
		{"workdir of exec", 4096, one(start(func(s *pb.ExecStart, n int) { s.Workdir = "/" + letters(n-1) })), "start.workdir" + length},
		{"columns", 65535, one(start(func(s *pb.ExecStart, n int) { s.Size = &pb.TerminalSize{Columns: uint32(n)} })), "start.size.columns" + most},
		{"rows", 65535, one(func(n int) Message {
			return &pb.ExecRequest{Message: &pb.ExecRequest_Resize{Resize: &pb.TerminalSize{Rows: uint32(n)}}}
		}), "resize.rows" + most},
		{"stdin", 1048576, one(func(n int) Message {
			return &pb.ExecRequest{Message: &pb.ExecRequest_Stdin{Stdin: make([]byte, n)}}
		}), "stdin" + length},
		{"signal", 64, one(func(n int) Message {
			return &pb.ExecRequest{Message: &pb.ExecRequest_Signal{Signal: strings.ToUpper(letters(n))}}
		}), "signal" + length},

		{"provider name", 253, providers(func(p *pb.Provider, n int) { p.Name = name(n) }), "provider.name" + length},
		{"provider type", 64, providers(func(p *pb.Provider, n int) { p.Type = letters(n) }), "provider.type" + length},
		{"credentials", 32, providers(func(p *pb.Provider, n int) { p.Credentials = entries(n) }), "provider.credentials" + many},
		{"credential key", 256, providers(func(p *pb.Provider, n int) {
			p.Credentials = map[string]string{letters(n): "v"}
		}), "provider.credentials key" + length},
		{"credential", 8192, providers(func(p *pb.Provider, n int) {
			p.Credentials = map[string]string{"k": letters(n)}
		}), `provider.credentials["k"]` + length},
		{"config", 64, providers(func(p *pb.Provider, n int) { p.Config = entries(n) }), "provider.config" + many},
		{"config key", 256, providers(func(p *pb.Provider, n int) {
			p.Config = map[string]string{letters(n): "v"}
		}), "provider.config key" + length},
		{"config value", 8192, providers(func(p *pb.Provider, n int) {
			p.Config = map[string]string{"k": letters(n)}
		}), `provider.config["k"]` + length},
		{"credential_names", 32, providers(func(p *pb.Provider, n int) { p.CredentialNames = lines(n, 1) }), "provider.credential_names" + many},
		{"credential name", 256, providers(func(p *pb.Provider, n int) { p.CredentialNames = lines(1, n) }), "provider.credential_names[0]" + length},

		{"sandbox of a filter", 253, filter(func(f *pb.RecordFilter, n int) { f.Sandbox = name(n) }), "filter.sandbox" + length},
		{"reason", 64, filter(func(f *pb.RecordFilter, n int) { f.Reason = letters(n) }), "filter.reason" + length},
		{"host", 254, filter(func(f *pb.RecordFilter, n int) { f.Host = letters(n) }), "filter.host" + length},
		{"binary", 4096, filter(func(f *pb.RecordFilter, n int) { f.Binary = letters(n) }), "filter.binary" + length},
	} {
		for i, request := range test.requests {
			t.Run(fmt.Sprintf("%s/%d/at", test.name, i), func(t *testing.T) { wantProblem(t, Check(request(test.limit)), "") })
			t.Run(fmt.Sprintf("%s/%d/over", test.name, i), func(t *testing.T) {
				wantProblem(t, Check(request(test.limit+1)), fmt.Sprintf("%s (%d > %d)", test.want, test.limit+1, test.limit))
			})
		}
	}
}

// TestForms is about values that are wrong whatever their length.
func TestForms(t *testing.T) {
	spec := func(spec *pb.SandboxSpec) Message { return &pb.CreateSandboxRequest{Spec: spec} }
	environment := func(key, value string) Message {
		return spec(&pb.SandboxSpec{Environment: map[string]string{key: value}})
	}
	update := func(fields ...string) Message {
		return &pb.UpdateSandboxRequest{Name: "box", Spec: &pb.SandboxSpec{}, Fields: fields}
	}
	create := func(name string) Message { return &pb.CreateSandboxRequest{Name: name} }
	exec := func(start *pb.ExecStart) Message {
		return &pb.ExecRequest{Message: &pb.ExecRequest_Start{Start: start}}
	}
	now := time.Now()
	for _, test := range []struct {
		name    string
		request Message
		want    string
	}{
		{"no name", create(""), ""},
		{"name", create("a-1.b"), ""},
		{"name in capitals", create("Box"), "name is no DNS-1123 name"},
		{"name with _", create("a_b"), "name is no DNS-1123 name"},
		{"name with / in it", create("a/b"), "name is no DNS-1123 name"},
		{"name ..", create(".."), "name is no DNS-1123 name"},
		{"name with an empty part", create("a..b"), "name is no DNS-1123 name"},
		{"name that begins with -", create("-a"), "name is no DNS-1123 name"},
		{"name that ends with -", create("a-"), "name is no DNS-1123 name"},
		{"name that ends with LF", create("a\n"), "name is no DNS-1123 name"},
		{"part of 63", create(letters(63) + ".a"), ""},
		{"part of 64", create(letters(64) + ".a"), "name is no DNS-1123 name"},
		{"name is missing", &pb.GetSandboxRequest{}, "name is missing"},

		{"variable", environment("_a9", "x y"), ""},
		{"variable with a digit first", environment("9a", ""), `spec.environment key "9a" is no name of a variable`},
		{"variable with =", environment("a=b", ""), `spec.environment key "a=b" is no name of a variable`},
		{"variable without a name", environment("", "v"), `spec.environment key "" is no name of a variable`},
		{"reserved variable", environment("RINGFENCE_SANDBOX", "v"), `spec.environment key "RINGFENCE_SANDBOX" is reserved`},
		{"not quite reserved", environment("RINGFENCE", "v"), ""},
		{"variable of exec", exec(&pb.ExecStart{Sandbox: "box", Environment: map[string]string{"RINGFENCE_X": ""}}), `start.environment key "RINGFENCE_X" is reserved`},
		{"NUL in a variable", environment("a", "\x00"), `spec.environment["a"] has a NUL, CR or LF`},
		{"CR in a variable", environment("a", "b\rc"), `spec.environment["a"] has a NUL, CR or LF`},
		{"LF in a variable", environment("a", "b\n"), `spec.environment["a"] has a NUL, CR or LF`},
		{"label with ESC", spec(&pb.SandboxSpec{Labels: map[string]string{"\x1b[2J": ""}}), `spec.labels key "\x1b[2J" is empty, or has a control character`},
		{"annotation of two lines", spec(&pb.SandboxSpec{Annotations: map[string]string{"a": "b\nc"}}), ""},

		{"relative workdir", spec(&pb.SandboxSpec{Workdir: "a"}), "spec.workdir is no absolute path"},
		{"workdir with ..", spec(&pb.SandboxSpec{Workdir: "/a/../b"}), "spec.workdir has '..' in it"},
		{"workdir with ... in it", spec(&pb.SandboxSpec{Workdir: "/a...b/..."}), ""},
		{"visible with ..", spec(&pb.SandboxSpec{Visible: []string{"/a", "/b/.."}}), "spec.visible[1] has '..' in it"},
		{"empty visible", spec(&pb.SandboxSpec{Visible: []string{""}}), "spec.visible[0] is no absolute path"},
		{"key of two lines", spec(&pb.SandboxSpec{SshAuthorizedKeys: []string{"a\nb"}}), "spec.ssh_authorized_keys[0] has a NUL, CR or LF"},
		{"provider of a sandbox", spec(&pb.SandboxSpec{Providers: []string{"a b"}}), "spec.providers[0] is no DNS-1123 name"},
		{"policy without files", spec(&pb.SandboxSpec{Policy: &pb.PolicySource{}}), "spec.policy.files is missing"},
		{"policy without a name", spec(&pb.SandboxSpec{Policy: &pb.PolicySource{Files: []*pb.PolicyFile{{}}}}), "spec.policy.files[0].name is missing"},
		{"no policy to set", &pb.SetPolicyRequest{Sandbox: "box"}, "source is missing"},

		{"exec of nothing", &pb.ExecRequest{}, "message is missing"},
		{"exec of a shell", exec(&pb.ExecStart{Sandbox: "box"}), ""},
		{"exec of an empty name", exec(&pb.ExecStart{Sandbox: "box", Argv: []string{""}}), "start.argv[0] is empty"},
		{"empty argument", exec(&pb.ExecStart{Sandbox: "box", Argv: []string{"a", ""}}), ""},
		{"argument of two lines", exec(&pb.ExecStart{Sandbox: "box", Argv: []string{"a", "b\nc"}}), ""},
		{"NUL in an argument", exec(&pb.ExecStart{Sandbox: "box", Argv: []string{"a", "b\x00"}}), "start.argv[1] has a NUL"},
		{"exec without a sandbox", exec(&pb.ExecStart{}), "start.sandbox is missing"},
		{"negative timeout", exec(&pb.ExecStart{Sandbox: "box", Timeout: durationpb.New(-1)}), "start.timeout is no duration"},
		{"timeout beyond years", exec(&pb.ExecStart{Sandbox: "box", Timeout: &durationpb.Duration{Seconds: 1 << 60}}), "start.timeout is no duration"},
		{"empty input", &pb.ExecRequest{Message: &pb.ExecRequest_Stdin{}}, ""},
		{"signal", &pb.ExecRequest{Message: &pb.ExecRequest_Signal{Signal: "RTMIN+3"}}, ""},
		{"signal by number", &pb.ExecRequest{Message: &pb.ExecRequest_Signal{Signal: "9"}}, "signal is no name of a signal"},
		{"signal without a name", &pb.ExecRequest{Message: &pb.ExecRequest_Signal{}}, "signal is no name of a signal"},

		{"update", update("policy", "labels"), ""},
		{"update of nothing", update(), "fields is missing"},
		{"update of what is fixed", update("labels", "user"), `fields[1]: "user" cannot be updated`},
		{"update without a spec", &pb.UpdateSandboxRequest{Name: "box", Fields: []string{"labels"}}, "spec is missing"},
		{"provider without a type", &pb.CreateProviderRequest{Provider: &pb.Provider{Name: "a"}}, "provider.type is missing"},
		{"update to no type", &pb.UpdateProviderRequest{Provider: &pb.Provider{Name: "a"}, Fields: []string{"config", "type"}}, "provider.type is missing"},
		{"update of a provider's config", &pb.UpdateProviderRequest{Provider: &pb.Provider{Name: "a"}, Fields: []string{"config"}}, ""},
		{"update of a provider's name", &pb.UpdateProviderRequest{Provider: &pb.Provider{Name: "a"}, Fields: []string{"name"}}, `fields[0]: "name" cannot be updated`},
		{"no provider", &pb.CreateProviderRequest{}, "provider is missing"},

		{"verdict", &pb.QueryRecordsRequest{Filter: &pb.RecordFilter{Verdict: "deny"}}, ""},
		{"unknown verdict", &pb.QueryRecordsRequest{Filter: &pb.RecordFilter{Verdict: "denied"}}, "filter.verdict is no verdict"},
		{"no time", &pb.TailRecordsRequest{Filter: &pb.RecordFilter{Since: &timestamppb.Timestamp{Nanos: -1}}}, "filter.since is no time"},
		{"times", &pb.QueryRecordsRequest{Filter: &pb.RecordFilter{Since: Time(now), Until: Time(now)}}, ""},
		{"times exchanged", &pb.QueryRecordsRequest{Filter: &pb.RecordFilter{Since: Time(now), Until: Time(now.Add(-1))}}, "filter.until is before filter.since"},
	} {
		t.Run(test.name, func(t *testing.T) { wantProblem(t, Check(test.request), test.want) })
	}
}

// TestSpecAsAWhole keeps many updates from making a sandbox that is no message any
// more.
func TestSpecAsAWhole(t *testing.T) {
	of := func(n int) *pb.SandboxSpec {
		spec := &pb.SandboxSpec{Labels: make(map[string]string)}
		for i := range 120 {
			spec.Labels[fmt.Sprintf("k%03d", i)] = letters(8000)
		}
		spec.LogLevel = "a"
		spec.Annotations = map[string]string{"a": letters(8000), "b": letters(6000), "c": letters(1000)}
		spec.Annotations["c"] = letters(1000 + n - proto.Size(spec))
		return spec
	}
	wantProblem(t, CheckSpec(of(983040)), "")
	wantProblem(t, CheckSpec(of(983041)), "spec exceeds maximum length (983041 > 983040)")
}

// TestUnknownField refuses what a newer client says and this agent would not do.
func TestUnknownField(t *testing.T) {
	spec := &pb.SandboxSpec{}
	spec.ProtoReflect().SetUnknown(protoreflect.RawFields{0xf8, 0x01, 0x01}) // field 31 = 1
	wantProblem(t, Check(&pb.CreateSandboxRequest{Spec: spec}), "spec has fields that this agent does not know")
	request := &pb.GetSandboxRequest{Name: "box"}
	request.ProtoReflect().SetUnknown(protoreflect.RawFields{0xf8, 0x01, 0x01})
	wantProblem(t, Check(request), "GetSandboxRequest has fields that this agent does not know")
}

// TestEveryFieldHasALimit walks the requests of all services: what can be of any
// size has a limit, and no limit is of a field that is not there.
func TestEveryFieldHasALimit(t *testing.T) {
	seen := make(map[string]bool)
	var walk func(m protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[string(m.FullName())] || m.ParentFile().Package() != "ringfence.v1" {
			return
		}
		seen[string(m.FullName())] = true
		for i := range m.Fields().Len() {
			field := m.Fields().Get(i)
			seen[string(field.FullName())] = true
			r := ruleOf(field)
			nested := field.Message() != nil && !field.IsMap()
			ours := nested && field.Message().ParentFile().Package() == "ringfence.v1"
			if (field.IsMap() || field.IsList()) && r.entries == 0 {
				t.Errorf("%s has no limit of entries", field.FullName())
			}
			if field.IsMap() && (r.key == 0 || field.MapKey().Kind() != protoreflect.StringKind || field.MapValue().Kind() != protoreflect.StringKind) {
				t.Errorf("%s has no limit of keys, or is no map of strings", field.FullName())
			}
			sized := field.Kind() == protoreflect.StringKind || field.Kind() == protoreflect.BytesKind || field.IsMap()
			if sized && r.length == 0 {
				t.Errorf("%s has no limit of length", field.FullName())
			}
			if nested && !ours && r.encoded == 0 && field.Message().Fields().Len() != 2 { // a Timestamp or Duration
				t.Errorf("%s has no limit of its encoded length", field.FullName())
			}
			if field.Kind() == protoreflect.EnumKind {
				t.Errorf("%s is an enum, and Check does not look whether its number is known", field.FullName())
			}
			if field.IsList() && nested && !ours {
				t.Errorf("%s is a list of messages that Check does not know", field.FullName())
			}
			if ours {
				walk(field.Message())
			}
		}
	}
	all := methods()
	if len(all) < 20 {
		t.Errorf("%d methods: these are not all", len(all))
	}
	for _, method := range all {
		walk(method.Input())
	}
	for name := range rules {
		if !seen[fieldPrefix+name] {
			t.Errorf("a rule for %s, which is no field of a request", name)
		}
	}
}

// methods returns those of all services.
func methods() (all []protoreflect.MethodDescriptor) {
	for _, file := range []protoreflect.FileDescriptor{
		pb.File_ringfence_v1_agent_proto, pb.File_ringfence_v1_policies_proto, pb.File_ringfence_v1_providers_proto,
		pb.File_ringfence_v1_records_proto, pb.File_ringfence_v1_sandboxes_proto,
	} {
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				all = append(all, file.Services().Get(i).Methods().Get(j))
			}
		}
	}
	return all
}
