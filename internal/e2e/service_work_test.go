package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/launch"
)

// work is everything that a service does, one task at a time, in two sandboxes:
// "plain", and "files" with a filesystem_policy.
type work struct {
	*service
	network string // policy: the programs of curl may reach allowedName
}

// private is a directory that is the user's of a sandbox, and closed to all others.
func (w *work) private(sandbox string) string { return filepath.Join(w.dir, sandbox) }

// curl is a program in there.
func (w *work) curl(sandbox string) string { return filepath.Join(w.private(sandbox), "curl") }

// task is one thing that a service does.
type task struct {
	name string
	do   func(context.Context) error
}

// newWork prepares a service that is not started, and what it is to work on.
func newWork(f *fixture) *work {
	f.t.Helper()
	text, err := os.ReadFile(realPath(f.t, "curl"))
	if err != nil {
		f.t.Fatal(err)
	}
	w := &work{service: f.prepareService()}
	sum := sha256.Sum256(text)
	w.network = fmt.Sprintf("network_policies:\n  allowed:\n    endpoints: [{host: %q, port: 443}]\n    binaries:\n", allowedName)
	for number, name := range []string{"plain", "files"} { // in the order in which they are made
		user, err := launch.DaemonUser(uint32(number))
		if err != nil {
			f.t.Fatal(err)
		}
		if err := os.Mkdir(w.private(name), 0o700); err != nil {
			f.t.Fatal(err)
		}
		f.file(name+"/curl", string(text), 0o700)
		for _, path := range []string{w.private(name), w.curl(name)} {
			if err := os.Chown(path, int(user.UID), int(user.GID)); err != nil {
				f.t.Fatal(err)
			}
		}
		w.network += fmt.Sprintf("      - {path: %q, sha256: %q, allow_taints: [writable]}\n", w.curl(name), hex.EncodeToString(sum[:]))
	}
	return w
}

// failures does all tasks, and returns what failed by their names.
func (w *work) failures(t *testing.T, tasks []task) map[string]error {
	t.Helper()
	failed := map[string]error{}
	for _, s := range tasks {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := s.do(ctx); err != nil {
			failed[s.name] = err
		}
		cancel()
	}
	return failed
}

// makes are the tasks that make the sandboxes.
func (w *work) makes() []task {
	missing := filepath.Join(w.private("files"), "missing")
	return []task{
		{"create plain", func(ctx context.Context) error { return w.make(ctx, "plain", "") }},
		{"create files", func(ctx context.Context) error {
			return w.make(ctx, "files", "filesystem_policy:\n  include_workdir: true\n  read_only: [/usr, /lib, /bin, /etc, /proc]\n"+
				"  read_write: [/tmp, /dev, "+missing+"]\n")
		}},
		{"use a directory that was made", func(ctx context.Context) error {
			return w.shell(ctx, "files", "echo ok > "+missing+"/new")
		}},
	}
}

// uses are the tasks that can be done again and again.
func (w *work) uses(t *testing.T) []task {
	var tasks []task
	for _, name := range []string{"plain", "files"} {
		tasks = append(tasks,
			task{"exec in " + name, func(ctx context.Context) error { return w.shell(ctx, name, "test $(id -u) -gt 65534") }},
			task{"terminal in " + name, func(ctx context.Context) error {
				return ended(w.tryStart(ctx, &pb.ExecStart{
					Sandbox: name, Argv: []string{"/bin/sh", "-c", "test -t 0 && echo ok > $(tty)"}, Terminal: true,
				}))
			}},
			task{"cancel in " + name, func(ctx context.Context) error { return w.cancel(ctx, name) }},
			task{"reach a host from " + name, func(ctx context.Context) error { return w.get(ctx, name) }},
			task{"set the policy of " + name, func(ctx context.Context) error { return w.reload(ctx, name) }},
		)
		tasks = append(tasks, w.sshUses(t, name)...)
	}
	return tasks
}

// sshUses are the tasks of a client of SSH.
func (w *work) sshUses(t *testing.T, name string) []task {
	with := func(input, program string, args ...string) func(context.Context) error {
		return func(context.Context) error {
			cmd := withInput(w.sshTo(t, name).command(program, args...), input)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", program, err, out)
			}
			return nil
		}
	}
	put := filepath.Join(t.TempDir(), "put")
	return []task{
		{"ssh to " + name, with("", "ssh", "sandbox", "test $(id -u) -gt 65534")},
		{"ssh in a terminal to " + name, with("", "ssh", "-tt", "sandbox", "test -t 0 && echo ok > $(tty)")},
		{"sftp to " + name, func(ctx context.Context) error {
			if err := os.WriteFile(put, []byte("content"), 0o600); err != nil {
				return err
			}
			return with("put "+put+" /tmp/put\nget /tmp/put "+put+".back\nrm /tmp/put\n", "sftp", "-b", "-", "sandbox")(ctx)
		}},
		{"forward to " + name, func(ctx context.Context) error { return w.forward(ctx, t, name) }},
	}
}

func (w *work) make(ctx context.Context, name, files string) error {
	_, err := w.client.Sandboxes.CreateSandbox(ctx, &pb.CreateSandboxRequest{Name: name, Spec: &pb.SandboxSpec{
		Workdir: w.dir, Environment: map[string]string{"CURL_CA_BUNDLE": filepath.Join(w.dir, "ca.pem")},
		Policy: policySource("version: 1\n" + files + w.network),
	}})
	return asError(err)
}

// asError is an error of a call, with its code and hint.
func asError(err error) error {
	if e := api.ErrorOf(err); e != nil {
		return e
	}
	return nil
}

func ended(out, errOut string, status int, err error) error {
	if err != nil {
		return asError(err)
	}
	if status != 0 {
		return fmt.Errorf("status %d\n%s%s", status, out, errOut)
	}
	return nil
}

// shell runs a script that must succeed.
func (w *work) shell(ctx context.Context, name, script string) error {
	return ended(w.tryExec(ctx, name, script))
}

func (w *work) get(ctx context.Context, name string) error {
	return w.shell(ctx, name, w.curl(name)+" -sS --max-time 20 -o /dev/null https://"+allowedName+"/")
}

// cancel ends a command by going away from it.
func (w *work) cancel(ctx context.Context, name string) error {
	going, goAway := context.WithCancel(ctx)
	defer goAway()
	left := make(chan error, 1)
	go func() {
		_, _, _, err := w.tryExec(going, name, "echo $$ > /tmp/pid.new; mv /tmp/pid.new /tmp/pid; exec sleep 1000")
		left <- err
	}()
	if err := w.shell(ctx, name, "until test -e /tmp/pid; do sleep .05; done"); err != nil {
		return err
	}
	goAway()
	<-left
	return w.shell(ctx, name, "while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep .05; done; rm /tmp/pid")
}

// reload takes the policy away, and gives it back.
func (w *work) reload(ctx context.Context, name string) error {
	set := func(network string) error {
		now, err := w.client.Policies.GetPolicy(ctx, &pb.GetPolicyRequest{Sandbox: name})
		if err != nil {
			return asError(err)
		}
		text := string(now.GetSource().GetFiles()[0].GetYaml())
		files, _, _ := strings.Cut(text, "network_policies:")
		_, err = w.client.Policies.SetPolicy(ctx, &pb.SetPolicyRequest{Sandbox: name, Source: policySource(files + network)})
		return asError(err)
	}
	if err := set("network_policies: {}\n"); err != nil {
		return err
	}
	if w.get(ctx, name) == nil {
		return errors.New("the host is still reached")
	}
	if err := set(w.network); err != nil {
		return err
	}
	return w.get(ctx, name)
}

// forward connects to what listens inside.
func (w *work) forward(ctx context.Context, t *testing.T, name string) error {
	const listen = `import socket
s = socket.create_server(("127.0.0.1", 7777))
open("/tmp/up", "w").close()
c, _ = s.accept()
c.sendall(b"from inside")`
	w.detach(name, "exec /usr/bin/python3 -c '"+listen+"'")
	if err := w.shell(ctx, name, "until test -e /tmp/up; do sleep .05; done; rm /tmp/up"); err != nil {
		return err
	}
	out, err := w.sshTo(t, name).command("ssh", "-W", "127.0.0.1:7777", "sandbox").Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("ssh -W: %w\n%s", err, exit.Stderr)
	}
	if string(out) != "from inside" {
		return fmt.Errorf("ssh -W: %q, %w", out, err)
	}
	return nil
}
