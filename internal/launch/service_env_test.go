package launch

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAllowedEnv(t *testing.T) {
	for name, want := range map[string]bool{
		"LANG": true, "LC_ALL": true, "LC_CTYPE": true, "LC_TERMINAL_VERSION": true, "TERM": true, "COLORTERM": true,
		"GIT_AUTHOR_NAME": true, "GIT_AUTHOR_EMAIL": true, "GIT_COMMITTER_DATE": true, "GIT_PROTOCOL": true,

		"": false, "LC_": false, "LC_a": false, "LC_A=B": false, "LC_A\x00": false, "LC_A\n": false, "LANG\x20": false, "lc_all": false,
		"LANGUAGE": false, "TERMINFO": false, "TERMCAP": false, "TERMINFO_DIRS": false, "TERMPATH": false, "LOCPATH": false, "NLSPATH": false,
		"GIT_SSH": false, "GIT_SSH_COMMAND": false, "GIT_EXEC_PATH": false, "GIT_AUTHOR_": false, "GIT_AUTHOR": false,
		"GIT_CONFIG_COUNT": false, "GIT_CONFIG_KEY_0": false, "GIT_ASKPASS": false, "GIT_PAGER": false, "GIT_EXTERNAL_DIFF": false, "GIT_PROTOCOL_FROM_USER": false,
		"LD_PRELOAD": false, "LD_LIBRARY_PATH": false, "LD_AUDIT": false, "GCONV_PATH": false, "MALLOC_TRACE": false, "GLIBC_TUNABLES": false,
		"BASH_ENV": false, "ENV": false, "PROMPT_COMMAND": false, "PS1": false, "PS4": false, "IFS": false, "SHELLOPTS": false, "BASHOPTS": false, "BASH_FUNC_ls%%": false, "ZDOTDIR": false,
		"PYTHONSTARTUP": false, "PYTHONPATH": false, "PYTHONHOME": false, "PERL5OPT": false, "PERL5LIB": false, "RUBYOPT": false, "RUBYLIB": false,
		"NODE_OPTIONS": false, "NODE_PATH": false, "JAVA_TOOL_OPTIONS": false, "_JAVA_OPTIONS": false, "CLASSPATH": false, "GODEBUG": false,
		"PATH": false, "HOME": false, "USER": false, "LOGNAME": false, "SHELL": false, "MAIL": false, "TZ": false, "TMPDIR": false, "EDITOR": false, "PAGER": false, "VISUAL": false, "LESSOPEN": false,
		"HTTPS_PROXY": false, "https_proxy": false, "NO_PROXY": false, "no_proxy": false, "SSL_CERT_FILE": false, "NODE_EXTRA_CA_CERTS": false,
		"RINGFENCE_SANDBOX": false, "RINGFENCE_ENDPOINT": false, "NAVIGATOR_ENDPOINT": false, "SSH_AUTH_SOCK": false, "DISPLAY": false,
	} {
		if got := AllowedEnv(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestServiceEnvironment(t *testing.T) {
	t.Setenv("AGENT_SECRET", "must not get in")
	user, err := DaemonUser(5)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ServiceEnvironment(EnvConfig{
		User: user, Sandbox: "box", Proxy: "http://localhost:1", Term: "xterm-256color",
		Endpoint: "10.0.0.1:443", SandboxID: "id-1",
		Requested: []string{
			"LANG=de_DE.UTF-8", "LC_ALL=C", "TERM=linux", "GIT_AUTHOR_NAME=A = B",
			"LD_PRELOAD=/x.so", "BASH_ENV=/x", "PATH=/x", "HOME=/x", "HTTPS_PROXY=x", "RINGFENCE_SANDBOX=x",
			"LC_NAME=a\nb", "LC_TIME=a\rb", "LC_PAPER=a\x00b", "LC_NOVALUE", "=x", "",
		},
		Extra: []string{"LC_ALL=C.UTF-8", "API_URL=https://a.example", "PATH=/opt/bin:/usr/bin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"PATH=/opt/bin:/usr/bin", "LANG=de_DE.UTF-8", "LC_ALL=C.UTF-8", "TERM=xterm-256color", "GIT_AUTHOR_NAME=A = B",
		"HOME=/tmp", "USER=sandbox", "LOGNAME=sandbox", "SHELL=/bin/sh",
		"HTTPS_PROXY=http://localhost:1", "https_proxy=http://localhost:1", "grpc_proxy=http://localhost:1",
		"NO_PROXY=127.0.0.1,localhost,::1", "no_proxy=127.0.0.1,localhost,::1", "NODE_USE_ENV_PROXY=1",
		"API_URL=https://a.example",
		"RINGFENCE_ENDPOINT=10.0.0.1:443", "NAVIGATOR_ENDPOINT=10.0.0.1:443", "RINGFENCE_SANDBOX_ID=id-1", "NAVIGATOR_SANDBOX_ID=id-1",
		"RINGFENCE_SANDBOX=box",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"RINGFENCE_ENDPOINT=x", "novalue", "A=\x00"} {
		if _, err := ServiceEnvironment(EnvConfig{Extra: []string{bad}}); !errors.Is(err, ErrBadCommand) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, term := range []string{"", "a\nb", strings.Repeat("x", maxTerm+1)} {
		got, err := ServiceEnvironment(EnvConfig{Term: term})
		if err != nil || strings.Contains(strings.Join(got, "\n"), "TERM=") {
			t.Errorf("TERM %q: %q, %v", term, got, err)
		}
	}
}

func TestRequestedEnvironmentIsBounded(t *testing.T) {
	count := func(requested ...string) int {
		got, err := ServiceEnvironment(EnvConfig{Requested: requested})
		if err != nil {
			t.Fatal(err)
		}
		return len(got)
	}
	none := count()
	atLimit := "LC_A=" + strings.Repeat("x", MaxRequestedEnv-len("LC_A="))
	if got := count(atLimit); got != none+1 {
		t.Errorf("at the limit: %d", got-none)
	}
	if got := count(atLimit + "x"); got != none {
		t.Errorf("above the limit: %d", got-none)
	}
	if got := count("LC_B=", atLimit, "LC_C="); got != none+1 {
		t.Errorf("together above the limit: %d", got-none)
	}
}

func TestDaemonUsersAreApart(t *testing.T) {
	first, err := DaemonUser(0)
	if err != nil {
		t.Fatal(err)
	}
	last, err := DaemonUser(maxReserved - 1)
	if err != nil {
		t.Fatal(err)
	}
	runs, err := ReservedUser(maxReserved - 1)
	if err != nil {
		t.Fatal(err)
	}
	if first.UID != runs.UID+1 || last.UID >= 1<<31 || last.GID != last.UID {
		t.Errorf("from %d to %d, and those of run to %d", first.UID, last.UID, runs.UID)
	}
	if _, err := DaemonUser(maxReserved); !errors.Is(err, ErrNoUser) {
		t.Errorf("without end: %v", err)
	}
}
