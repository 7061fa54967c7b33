// Command demo shows the fence at work, offline: it brings up an internet of its
// own (package testenv), runs a small script in a sandbox there, and prints what
// happened in three views: the sandbox's, the records', and the far end's.
//
// It drives the real program by its command line and its records alone, as a
// user would, so it imports no room of the agent. It fails when the fence did not
// do what the demo says it does.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/ringfence/ringfence/internal/testenv"
)

// The cast. The shipped default policy lets curl reach declaredHost, and knows
// nothing of secretHost.
const (
	declaredHost = "api.github.com"
	secretHost   = "paste.example.net"
	declaredAddr = "203.0.113.10"
	secretAddr   = "203.0.113.66"
	trusted      = "203.0.113.0/24"
)

// script is what runs in the sandbox.
//
//go:embed script.sh
var script string

// limit bounds the whole demo.
const limit = 2 * time.Minute

func main() {
	ringfence := flag.String("ringfence", "bin/ringfence", "the program to show")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	colour := term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""
	err := show(ctx, *ringfence, printer{os.Stdout, colour})
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// show runs the demo from curtain to curtain.
func show(ctx context.Context, ringfence string, out printer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ringfence, err = filepath.Abs(ringfence)
	if err != nil {
		return err
	}
	env, err := testenv.Start(ctx, testenv.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	env.Zone(declaredHost, netip.MustParseAddr(declaredAddr))
	env.Zone(secretHost, netip.MustParseAddr(secretAddr))
	dir, err := stage(env.CA())
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	out.title("An internet in a namespace, with two web servers. Without the fence both answer:")
	for _, server := range []struct{ host, addr string }{{declaredHost, declaredAddr}, {secretHost, secretAddr}} {
		if err := unfenced(env, dir, server.host, server.addr, out); err != nil {
			return err
		}
	}
	before, err := env.Flows()
	if err != nil {
		return err
	}
	records := filepath.Join(dir, "records.jsonl")
	if err := fenced(env, ringfence, dir, records, out); err != nil {
		return err
	}
	return evidence(env, records, len(before), out)
}

// stage makes the directory that the sandbox works in: with the test CA, and with
// options for curl that would only distract on the command line.
func stage(ca string) (string, error) {
	// Not below /tmp or /run: a sandbox has its own.
	dir, err := os.MkdirTemp("/var/tmp", "ringfence-demo-")
	if err != nil {
		return "", err
	}
	pem, err := os.ReadFile(ca)
	if err == nil {
		err = errors.Join(
			os.Chmod(dir, 0o755),
			os.WriteFile(filepath.Join(dir, "ca.pem"), pem, 0o644),
			os.WriteFile(filepath.Join(dir, ".curlrc"), []byte("silent\nshow-error\nmax-time = 10\n"), 0o644),
		)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// curlEnviron lets curl find what stage made.
func curlEnviron(dir string) []string {
	return []string{"CURL_HOME=" + dir, "CURL_CA_BUNDLE=" + filepath.Join(dir, "ca.pem")}
}

func unfenced(env *testenv.Env, dir, host, addr string, out printer) error {
	curl := env.Command("curl", "--resolve", host+":443:"+addr, "https://"+host+"/")
	curl.Env = append(curl.Env, curlEnviron(dir)...)
	answer, err := curl.CombinedOutput()
	if err != nil {
		return fmt.Errorf("reach %s without the fence: %w: %s", host, err, answer)
	}
	out.command("curl https://" + host + "/")
	out.output(string(answer))
	return nil
}

// fenced runs the script in a sandbox.
func fenced(env *testenv.Env, ringfence, dir, records string, out printer) error {
	out.title("Now the same in a sandbox, under the policy that ships with Ringfence:")
	args := []string{
		"run", "--agent", "never", "--resolver", testenv.ResolverIPv4, "--trusted-network", trusted,
		"--records", records, "--workdir", dir,
	}
	for _, entry := range curlEnviron(dir) {
		args = append(args, "--env", entry)
	}
	cmd := env.Command(ringfence, slices.Concat(args, []string{"--", "/bin/sh", "-c", script})...)
	cmd.Stdout, cmd.Stderr = out.w, out.w
	// The agent cleans up when it is asked to end; Close would kill it.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out.command("ringfence run --records records.jsonl -- sh -c '...'")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run sandbox: %w", err)
	}
	return nil
}

// printer writes the narration.
type printer struct {
	w      io.Writer
	colour bool
}

// Escape sequences of a terminal.
const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	red   = "\x1b[31m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

func (p printer) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return code + text + plain
}

func (p printer) title(text string)   { fmt.Fprintf(p.w, "\n%s\n\n", p.paint(bold, text)) }
func (p printer) command(text string) { fmt.Fprintf(p.w, "  $ %s\n", text) }
func (p printer) output(text string)  { fmt.Fprintf(p.w, "    %s", text) }
