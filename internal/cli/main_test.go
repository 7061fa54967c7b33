package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ringfence/ringfence/internal/launch"
)

// TestMain makes this test binary the ringfence of the scripts, and of the
// privileged children that it starts; and of the ssh that a test starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "ssh-proxy" {
		os.Exit(Main(OS(), os.Args[1:]))
	}
	testscript.Main(m, map[string]func(){
		"ringfence": func() {
			if !launch.Main(os.Args[1:]) {
				os.Exit(Main(OS(), os.Args[1:]))
			}
		},
	})
}

// TestScripts runs the scripts of testdata: what a person types and reads.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"status": status},
		Condition: func(name string) (bool, error) {
			if name != "root" {
				return false, errors.New("unknown condition " + name)
			}
			return os.Geteuid() == 0, nil
		},
		Setup: func(env *testscript.Env) error {
			// The sandbox's user works here.
			for _, dir := range []string{filepath.Dir(env.WorkDir), env.WorkDir} {
				if err := os.Chmod(dir, 0o755); err != nil {
					return err
				}
			}
			if !strings.HasPrefix(filepath.Base(env.WorkDir), "script-service") {
				env.Setenv("RINGFENCE_SOCKET", filepath.Join(env.WorkDir, "no-agent.sock")) // this machine's is not asked
				return nil
			}
			_, socket, stop, err := startDouble(env.WorkDir)
			if err != nil {
				return err
			}
			env.Defer(stop)
			env.Setenv("RINGFENCE_SOCKET", socket)
			env.Setenv("SHELL", "/bin/sh")
			return nil
		},
	})
}

// status N COMMAND [ARG...] runs a command that must end with an exit status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}
