package cli

import (
	"errors"
	"testing"

	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
)

func process(t *testing.T, section string) *policy.Policy {
	t.Helper()
	p, _, err := policy.Load(policy.Source{Name: "test", Data: []byte("version: 1\n" + section)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestChooseUser(t *testing.T) {
	const daemon, nobody = 1, 65534
	sudo := []string{"SUDO_UID=1"}
	tests := []struct {
		name    string
		flag    string
		process string
		environ []string
		uid     uint32 // 0: nobody is named
		gid     uint32 // 0: the user's own, and its groups
	}{
		{"nobody is named", "", "", nil, 0, 0},
		{"sudo", "", "", sudo, daemon, 0},
		{"sudo by root", "", "", []string{"SUDO_UID=0"}, 0, 0},
		{"sudo, empty", "", "", []string{"SUDO_UID="}, 0, 0},
		{"policy beats sudo", "", "process: {run_as_user: nobody}", sudo, nobody, 0},
		{"flag beats policy", "daemon", "process: {run_as_user: nobody}", sudo, daemon, 0},
		{"flag, number", "54321", "", nil, 54321, 0},
		{"policy, number", "", "process: {run_as_user: 54321}", nil, 54321, 0},
		{"policy, group", "", "process: {run_as_user: nobody, run_as_group: 4711}", nil, nobody, 4711},
		{"policy, named group", "", "process: {run_as_user: nobody, run_as_group: daemon}", nil, nobody, daemon},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := chooseUser(tt.flag, process(t, tt.process), Env{Environ: tt.environ})
			if err != nil {
				t.Fatal(err)
			}
			if tt.uid == 0 {
				if got != nil {
					t.Errorf("got %+v, want nobody", got)
				}
				return
			}
			if got == nil || got.UID != tt.uid {
				t.Fatalf("got %+v, want uid %d", got, tt.uid)
			}
			if tt.gid != 0 && (got.GID != tt.gid || len(got.Groups) > 0) {
				t.Errorf("got group %d and %v, want only %d", got.GID, got.Groups, tt.gid)
			}
		})
	}
}

func TestChooseUserRefuses(t *testing.T) {
	tests := []struct {
		name, flag, process string
		environ             []string
		is                  error
	}{
		{"root", "root", "", nil, launch.ErrRoot},
		{"uid 0", "0", "", nil, launch.ErrRoot},
		{"unknown", "no-such-user", "", nil, launch.ErrNoUser},
		{"sudo's, broken", "", "", []string{"SUDO_UID=x"}, launch.ErrNoUser},
		{"policy's, unknown", "", "process: {run_as_user: no-such-user}", nil, launch.ErrNoUser},
		{"policy's group alone", "", "process: {run_as_group: daemon}", nil, nil},
		{"policy's group, unknown", "", "process: {run_as_user: daemon, run_as_group: no-such-group}", nil, launch.ErrNoGroup},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := chooseUser(tt.flag, process(t, tt.process), Env{Environ: tt.environ})
			wantHint(t, err)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v is no %v", err, tt.is)
			}
		})
	}
	if _, err := launch.LookupGroup("root"); err == nil {
		t.Error("root's group was taken")
	}
}
