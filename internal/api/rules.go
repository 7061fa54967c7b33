package api

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Limits of fields, in bytes where nothing else is said.
const (
	maxName         = 253
	maxProviders    = 32
	maxLogLevel     = 32
	maxEntries      = 128 // of environment, labels, annotations
	maxKey          = 256
	maxValue        = 8192
	maxEnvironment  = 256 << 10 // all names and values
	maxTemplate     = 1024      // image, runtime class, socket path
	maxEncoded      = 64 << 10  // resources, pod template, volume claim templates
	maxPolicy       = 256 << 10 // encoded
	maxPolicyFiles  = 32
	maxProviderType = 64
	maxCredentials  = 32
	maxConfig       = 64
	maxArguments    = 1024
	maxArgument     = 32 << 10
	maxPath         = 4096
	maxVisible      = 64
	maxUser         = 256
	maxSSHKeys      = 128
	maxSSHKey       = 16 << 10
	maxSSHKeysTotal = 256 << 10
	maxHostPort     = maxName + len(":65535") + len("[]")
	maxToken        = 1024
	maxWord         = 64 // a verdict, a reason, the name of a field or signal
	maxFields       = 32
	maxCells        = 65535 // of a terminal, each way

	// What a sandbox is made from, as a whole. It is less than a message, so that a
	// sandbox with its status is one.
	maxSpec = MaxMessage - 64<<10
)

// prefix of the names of this protocol's fields.
const fieldPrefix = "ringfence.v1."

func ruleOf(field protoreflect.FieldDescriptor) rule {
	return rules[strings.TrimPrefix(string(field.FullName()), fieldPrefix)]
}

// rules are the limits of fields in all requests, by message and field. What is
// used by several requests, such as SandboxSpec, so has the same limits when it is
// created and when it is updated.
var rules = map[string]rule{
	"SandboxSpec.labels":              {entries: maxEntries, key: maxKey, length: maxValue, keyForm: formKey, form: formLine},
	"SandboxSpec.annotations":         {entries: maxEntries, key: maxKey, length: maxValue, keyForm: formKey, form: formText},
	"SandboxSpec.environment":         ruleEnvironment,
	"SandboxSpec.log_level":           {length: maxLogLevel, form: formLine},
	"SandboxSpec.policy":              {encoded: maxPolicy},
	"SandboxSpec.providers":           {entries: maxProviders, length: maxName, form: formName},
	"SandboxSpec.user":                {length: maxUser, form: formLine},
	"SandboxSpec.workdir":             {length: maxPath, form: formPath},
	"SandboxSpec.visible":             {entries: maxVisible, length: maxPath, form: formPath},
	"SandboxSpec.ssh_authorized_keys": {entries: maxSSHKeys, length: maxSSHKey, total: maxSSHKeysTotal, form: formLine},
	"SandboxSpec.control_plane":       {length: maxHostPort, form: formLine},

	"SandboxTemplate.image":                  {length: maxTemplate, form: formLine},
	"SandboxTemplate.runtime_class":          {length: maxTemplate, form: formLine},
	"SandboxTemplate.agent_socket_path":      {length: maxTemplate, form: formLine},
	"SandboxTemplate.resources":              {encoded: maxEncoded},
	"SandboxTemplate.pod_template":           {encoded: maxEncoded},
	"SandboxTemplate.volume_claim_templates": {encoded: maxEncoded},

	"PolicySource.files": {required: true, entries: maxPolicyFiles},
	"PolicyFile.name":    {required: true, length: maxPath, form: formLine},
	"PolicyFile.yaml":    {length: maxPolicy},

	"CreateSandboxRequest.name":       {length: maxName, form: formName},
	"CreateSandboxRequest.spec":       {encoded: maxSpec},
	"GetSandboxRequest.name":          ruleName,
	"ListSandboxesRequest.page_size":  rulePageSize,
	"ListSandboxesRequest.page_token": rulePageToken,
	"ListSandboxesRequest.labels":     {entries: maxEntries, key: maxKey, length: maxValue, keyForm: formKey, form: formLine},
	"UpdateSandboxRequest.name":       ruleName,
	"UpdateSandboxRequest.spec":       {encoded: maxSpec},
	"UpdateSandboxRequest.fields":     ruleFields,
	"DeleteSandboxRequest.name":       ruleName,
	"WatchSandboxesRequest.name":      {length: maxName, form: formName},
	"AcceptProgramRequest.sandbox":    ruleName,
	"AcceptProgramRequest.path":       {required: true, length: maxPath, form: formPath},
	"IssueCertificateRequest.sandbox": ruleName,
	"IssueCertificateRequest.public_key": {
		required: true, length: maxSSHKey, form: formLine,
	},

	"ExecRequest.stdin":     {length: MaxMessage},
	"ExecRequest.signal":    {length: maxWord, form: formSignal},
	"ExecStart.sandbox":     ruleName,
	"ExecStart.argv":        {entries: maxArguments, length: maxArgument, form: formText},
	"ExecStart.environment": ruleEnvironment,
	"ExecStart.workdir":     {length: maxPath, form: formPath},
	"TerminalSize.columns":  {most: maxCells},
	"TerminalSize.rows":     {most: maxCells},

	"SetPolicyRequest.sandbox":              ruleName,
	"SetPolicyRequest.source":               {required: true, encoded: maxPolicy},
	"GetPolicyRequest.sandbox":              ruleName,
	"ListPolicyRevisionsRequest.sandbox":    ruleName,
	"ListPolicyRevisionsRequest.page_size":  rulePageSize,
	"ListPolicyRevisionsRequest.page_token": rulePageToken,

	"CreateProviderRequest.provider":  {required: true},
	"UpdateProviderRequest.provider":  {required: true},
	"UpdateProviderRequest.fields":    ruleFields,
	"GetProviderRequest.name":         ruleName,
	"DeleteProviderRequest.name":      ruleName,
	"ListProvidersRequest.page_size":  rulePageSize,
	"ListProvidersRequest.page_token": rulePageToken,
	"Provider.name":                   ruleName,
	"Provider.type":                   {length: maxProviderType, form: formLine},
	"Provider.credentials":            {entries: maxCredentials, key: maxKey, length: maxValue, keyForm: formKey, form: formText},
	"Provider.config":                 {entries: maxConfig, key: maxKey, length: maxValue, keyForm: formKey, form: formText},
	"Provider.credential_names":       {entries: maxCredentials, length: maxKey, form: formLine},

	"RecordFilter.sandbox":           {length: maxName, form: formName},
	"RecordFilter.verdict":           {length: maxWord, form: formVerdict},
	"RecordFilter.reason":            {length: maxWord, form: formLine},
	"RecordFilter.host":              {length: maxName + len("."), form: formLine},
	"RecordFilter.binary":            {length: maxPath, form: formText},
	"QueryRecordsRequest.page_size":  rulePageSize,
	"QueryRecordsRequest.page_token": rulePageToken,
	"TailRecordsRequest.past":        {most: MaxPage},
	"TailRecordsRequest.after":       rulePageToken,
}

// Rules of several fields.
var (
	ruleName        = rule{required: true, length: maxName, form: formName}
	rulePageSize    = rule{most: MaxPage}
	rulePageToken   = rule{length: maxToken}
	ruleFields      = rule{entries: maxFields, length: maxWord}
	ruleEnvironment = rule{entries: maxEntries, key: maxKey, length: maxValue, total: maxEnvironment, keyForm: formVariable, form: formLine}
)

// Forms of strings.
var (
	formName = &form{
		unless(hostnames.MatchString, "is no DNS-1123 name"),
		"lower-case letters, digits and '-', in parts of at most 63 with '.' between them; each begins and ends with a letter or digit",
	}
	formVariable = &form{problemOfVariable, "letters, digits and '_', no digit first; names that begin with RINGFENCE_ are the agent's"}
	formKey      = &form{unless(isKey, "is empty, or has a control character"), "give it a name that can be printed"}
	formLine     = &form{unless(isLine, "has a NUL, CR or LF"), "make it one line"}
	formText     = &form{unless(isText, "has a NUL"), "leave it out: no program takes one"}
	formPath     = &form{problemOfPath, "write the whole path, from /"}
	formSignal   = &form{unless(signals.MatchString, "is no name of a signal"), "such as TERM or INT, without SIG"}
	formVerdict  = &form{unless(isVerdict, "is no verdict"), "allow, deny or audit"}

	hostnames = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$`)
	variables = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	signals   = regexp.MustCompile(`^[A-Z][A-Z0-9+-]*$`)
)

// reserved begins the names of the agent's own variables.
const reserved = "RINGFENCE_"

// unless is the problem of strings that are not ok.
func unless(ok func(string) bool, problem string) func(string) string {
	return func(s string) string {
		if ok(s) {
			return ""
		}
		return problem
	}
}

func isKey(s string) bool     { return s != "" && !strings.ContainsFunc(s, unicode.IsControl) }
func isLine(s string) bool    { return !strings.ContainsAny(s, "\x00\r\n") }
func isText(s string) bool    { return !strings.Contains(s, "\x00") }
func isVerdict(s string) bool { return s == "allow" || s == "deny" || s == "audit" }

func problemOfVariable(s string) string {
	switch {
	case !variables.MatchString(s):
		return "is no name of a variable"
	case strings.HasPrefix(s, reserved):
		return "is reserved"
	}
	return ""
}

func problemOfPath(s string) string {
	switch {
	case !path.IsAbs(s):
		return "is no absolute path"
	case slices.Contains(strings.Split(s, "/"), ".."):
		return "has '..' in it"
	case !isLine(s):
		return "has a NUL, CR or LF"
	}
	return ""
}
