package launch

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEnvironment(t *testing.T) {
	someone := User{Name: "ann", UID: 1000, Home: "/home/ann", Shell: "/bin/zsh"}
	base := []string{"HOME=/home/ann", "USER=ann", "LOGNAME=ann", "SHELL=/bin/zsh"}
	path := "PATH=" + defaultPath
	proxy := []string{
		"HTTPS_PROXY=http://127.0.0.1:1", "https_proxy=http://127.0.0.1:1", "grpc_proxy=http://127.0.0.1:1",
		"NO_PROXY=127.0.0.1,localhost,::1", "no_proxy=127.0.0.1,localhost,::1", "NODE_USE_ENV_PROXY=1",
	}
	name := []string{"RINGFENCE_SANDBOX=box"}
	join := func(parts ...[]string) (all []string) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	tests := []struct {
		name   string
		config EnvConfig
		want   []string
	}{
		{"nothing inherited", EnvConfig{}, join([]string{path}, base, name)},
		{
			"a person's", EnvConfig{Inherit: []string{"PATH=/mine", "TERM=xterm", "LANG=C.UTF-8", "LD_PRELOAD=x.so", "HOME=/root", "EDITOR=vi"}},
			join([]string{"PATH=/mine", "TERM=xterm", "LANG=C.UTF-8", "LD_PRELOAD=x.so", "HOME=/home/ann", "EDITOR=vi"}, base[1:], name),
		},
		{
			"what does not go in", EnvConfig{Inherit: []string{
				"RINGFENCE_TOKEN=secret", "SUDO_USER=ann", "SSH_AUTH_SOCK=/run/x", "http_proxy=x", "ALL_PROXY=x", "XDG_RUNTIME_DIR=/run/user/0", "broken", "=x",
			}},
			join([]string{path}, base, name),
		},
		{"proxy", EnvConfig{Proxy: "http://127.0.0.1:1"}, join([]string{path}, base, proxy, name)},
		{"extra wins", EnvConfig{Extra: []string{"HOME=/else", "A=b=c"}}, join([]string{path, "HOME=/else"}, base[1:], []string{"A=b=c"}, name)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.User, tt.config.Sandbox = someone, "box"
			got, err := Environment(tt.config)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, bad := range []string{"RINGFENCE_SANDBOX=x", "novalue", "1A=x", "A B=x", "=x", "A=\x00"} {
		if _, err := Environment(EnvConfig{Extra: []string{bad}}); !errors.Is(err, ErrBadCommand) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestUsers(t *testing.T) {
	for _, spec := range []string{"root", "0", "00"} {
		if _, err := LookupUser(spec); !errors.Is(err, ErrRoot) {
			t.Errorf("%s: %v", spec, err)
		}
	}
	for _, spec := range []string{"", "no-such-user", "-1", "4294967295", "99999999999", "+5", "1x", "2013265919", "2013265920", "2013331456", "2013396991"} {
		if _, err := LookupUser(spec); !errors.Is(err, ErrNoUser) {
			t.Errorf("%q: %v", spec, err)
		}
	}
	daemon, err := LookupUser("daemon")
	if err != nil || daemon.UID != 1 || daemon.Home == "" || daemon.Shell == "" {
		t.Errorf("daemon: %+v, %v", daemon, err)
	}
	byID, err := LookupUser("1")
	if diff := cmp.Diff(daemon, byID); err != nil || diff != "" {
		t.Errorf("by id: %v\n%s", err, diff)
	}
	nameless, err := LookupUser("54321")
	if want := (User{UID: 54321, GID: 54321, Home: "/tmp", Shell: defaultShell}); err != nil || !cmp.Equal(want, nameless) {
		t.Errorf("54321: %+v, %v", nameless, err)
	}
	reserved, err := ReservedUser(3)
	if want := (User{Name: "sandbox", UID: 2013265923, GID: 2013265923, Home: "/tmp", Shell: defaultShell}); err != nil || !cmp.Equal(want, reserved) {
		t.Errorf("reserved: %+v, %v", reserved, err)
	}
	if _, err := ReservedUser(maxReserved); err == nil {
		t.Error("a reserved user without end")
	}
}
