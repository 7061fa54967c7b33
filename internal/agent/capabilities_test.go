package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/testenv"
)

// Each capability that an agent asks for is needed: without the question something goes
// wrong for want of it, and with all of them nothing does.
func TestCapabilitiesAreNeeded(t *testing.T) {
	testenv.Require(t, "setpriv")
	unit, err := os.ReadFile("../../deploy/systemd/ringfence.service")
	if err != nil {
		t.Fatal(err)
	}
	set := strings.Fields(string(regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindSubmatch(unit)[1]))
	// What one that could not end its processes leaves is removed by the next start.
	t.Cleanup(func() { startAgent(t, &tally{count: make(map[string]int)}) })
	for _, dropped := range append([]string{"none"}, set...) {
		t.Run(dropped, func(t *testing.T) {
			bounding := "-all"
			for _, c := range set {
				if c != dropped {
					bounding += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
				}
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir() // of a user that closes it to all others
			if err := os.Chown(dir, 65534, 65534); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "setpriv", "--bounding-set", bounding, self, "tryout")
			cmd.Env = append(os.Environ(), "TRYOUT_DIR="+dir)
			out, err := cmd.CombinedOutput()
			if (dropped == "none") != (err == nil) {
				t.Errorf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

// tryoutMain does what needs capabilities, and tells what does not work.
func tryoutMain() int {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := tryout(ctx, os.Getenv("TRYOUT_DIR")); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func tryout(ctx context.Context, dir string) (err error) {
	a, err := start(ctx, Config{MaxSandboxes: 1, Sink: nowhere{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	made := filepath.Join(dir, "made")
	text := "version: 1\nfilesystem_policy: {read_only: [/usr, /lib, /bin, /etc], read_write: [/tmp, /dev, " + made + "]}\n" +
		"landlock: {compatibility: hard_requirement}\nnetwork_policies: {}\n"
	p, _, err := policy.Load(policy.Source{Name: "tryout", Data: []byte(text)})
	if err != nil {
		return err
	}
	engine, err := policy.NewEngine(ctx, p, policy.Config{})
	if err != nil {
		return err
	}
	user, err := launch.ReservedUser(a.Number())
	if err != nil {
		return err
	}
	sb, err := a.CreateSandbox(ctx, SandboxConfig{Name: "tryout", Engine: engine, Workdir: dir, Visible: []string{dir}, User: rootfs.User{UID: user.UID, GID: user.GID}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sb.Close()) }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	run := func(script string, terminal bool) (*launch.Process, error) {
		return sb.Exec(ctx, launch.Command{
			Argv: []string{"/bin/sh", "-c", script}, Dir: "/", UID: user.UID, GID: user.GID, Env: []string{"PATH=/usr/bin:/bin"},
			Stdio: [3]*os.File{null, null, null}, Terminal: [3]bool{terminal, terminal, terminal},
		})
	}
	process, err := run("echo ok > $(tty)", true)
	if err != nil {
		return err
	}
	if status, err := process.Wait(ctx); err != nil || status.Code != 0 {
		return fmt.Errorf("in a terminal: status %+v, %v", status, err)
	}
	if process, err = run("exec sleep 1000", false); err != nil {
		return err
	}
	if err := process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("signal: %w", err)
	}
	if status, err := process.Wait(ctx); err != nil || status.Signal != syscall.SIGTERM {
		return fmt.Errorf("signal: status %+v, %v", status, err)
	}
	return nil
}
