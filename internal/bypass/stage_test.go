package bypass

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/testenv"
)

// The user of every sandbox here, and where open.test is.
const (
	userID   = 54321
	openIPv4 = "203.0.113.80"
	openIPv6 = "2001:db8:2::80"
)

// runLimit bounds one run: a virtual machine without hardware support is slow.
const runLimit = 6 * time.Minute

// stage is what is outside: an internet, files that the sandbox sees, and the run.
type stage struct {
	env *testenv.Env
	dir string // root's, as all that policies name; visible inside
	cmd *exec.Cmd
	// policies are further network_policies, and programs further ones that may reach
	// open.test.
	policies string
	programs []string
	lifted   []string // programs whose taints policy puts up with
	records  string
	stdout   io.Reader  // nil: collected
	given    []*os.File // closed here once the run has them
	// preset are addresses to which the test itself opened connections.
	preset map[netip.Addr]bool

	undo []func() error
}

// atEnd registers what is undone after the run, last first.
func (s *stage) atEnd(undo func() error) { s.undo = append(s.undo, undo) }

func (s *stage) close() error {
	var errs []error
	for i := len(s.undo) - 1; i >= 0; i-- {
		errs = append(errs, s.undo[i]())
	}
	return errors.Join(errs...)
}

// report is what one run left behind.
type report struct {
	dir      string
	outcomes map[string]string
	records  []record
	raw      []byte // the file of records
	stderr   string
	status   int
	flows    []testenv.Flow
	queries  []testenv.Query
	preset   map[netip.Addr]bool
	lifted   []string
}

// record is what is looked at in a line of --records.
type record struct {
	Verdict string   `json:"verdict"`
	Engine  string   `json:"engine"`
	Reason  string   `json:"reason"`
	Mode    string   `json:"mode"`
	Binary  string   `json:"binary"`
	UID     int      `json:"uid"`
	Host    string   `json:"host"`
	Port    int      `json:"port"`
	Taints  []string `json:"taints"`
}

// perform runs a group to its end.
func perform(ctx context.Context, g group) (_ *report, err error) {
	env, err := testenv.Start(ctx, testenv.Config{})
	if err != nil {
		return nil, err
	}
	s := &stage{env: env, preset: map[netip.Addr]bool{}}
	s.atEnd(env.Close)
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.makeDir(); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	for n, a := range g.all() {
		env.Zone(place(s.dir, n, a.label()).open, netip.MustParseAddr(openIPv4), netip.MustParseAddr(openIPv6))
	}
	if err := s.prepare(g); err != nil {
		return nil, fmt.Errorf("prepare the run: %w", err)
	}
	if g.dies {
		if err := s.runToDeath(); err != nil {
			return nil, fmt.Errorf("first run: %w", err)
		}
		if err := s.prepare(g); err != nil {
			return nil, err
		}
	}
	return s.run(g)
}

// makeDir makes the working directory with the programs. Nothing of it but own can
// be changed by the sandbox's user: a program that can is no program that a policy
// should name.
func (s *stage) makeDir() error {
	dir, err := os.MkdirTemp("", "ringfence-bypass-")
	if err != nil {
		return err
	}
	s.dir = dir
	s.atEnd(func() error { return os.RemoveAll(dir) })
	own := filepath.Join(dir, "own")
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(own, 0o755), os.Chown(own, userID, userID),
		s.program(client, 0o755), s.program(stranger, 0o755))
	return err
}

// program puts a copy of the test program below the working directory.
func (s *stage) program(name string, mode os.FileMode) error {
	return copyProgram("/proc/self/exe", filepath.Join(s.dir, name), mode)
}

func copyProgram(from, to string, mode os.FileMode) error {
	self, err := os.Open(from)
	if err != nil {
		return err
	}
	defer self.Close()
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, self)
	return errors.Join(err, file.Close(), os.Chmod(to, mode))
}

// prepare writes the policy and makes the command.
func (s *stage) prepare(g group) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.records = filepath.Join(s.dir, "records")
	policy := filepath.Join(s.dir, "policy.yaml")
	s.cmd = s.env.Command(self, ringfenceCommand, "run", "--agent=never", "--records", s.records,
		"--resolver", s.env.Resolver().String(),
		"--trusted-network", "203.0.113.0/24", "--trusted-network", "198.51.100.0/24", "--trusted-network", "2001:db8::/32",
		"--workdir", s.dir, "--user", fmt.Sprint(userID), "--policy", policy,
		"--env", "GODEBUG=asyncpreemptoff=1", // or the runtime's signals interrupt system calls
		"--", filepath.Join(s.dir, g.runner), attackCommand, g.name)
	if g.stage != nil {
		if err := g.stage(s); err != nil {
			return err
		}
	}
	var text strings.Builder
	text.WriteString("version: 1\nnetwork_policies:\n  open:\n    endpoints:\n" +
		"      - {host: \"*.open.test\", ports: [7, 25, 80, 443]}\n    binaries:\n")
	for _, path := range append([]string{filepath.Join(s.dir, client)}, s.programs...) {
		fmt.Fprintf(&text, "      - {path: %q}\n", path)
	}
	text.WriteString(s.policies)
	return os.WriteFile(policy, []byte(text.String()), 0o644)
}

// run runs the sandbox to its end, and gathers what it left.
func (s *stage) run(g group) (*report, error) {
	var stdout, stderr bytes.Buffer
	if s.cmd.Stdout == nil && s.stdout == nil {
		s.cmd.Stdout = &stdout
	}
	if s.cmd.Stderr == nil {
		s.cmd.Stderr = &stderr
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for _, f := range s.given {
		_ = f.Close() // or the reading would have no end
	}
	timer := time.AfterFunc(runLimit, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	if s.stdout != nil {
		if _, err := io.Copy(&stdout, s.stdout); err != nil {
			return nil, fmt.Errorf("read output: %w", err)
		}
	}
	var exit *exec.ExitError
	if err := s.cmd.Wait(); err != nil && !errors.As(err, &exit) && !errors.Is(err, context.Canceled) {
		return nil, err
	}
	r := &report{
		dir: s.dir, outcomes: map[string]string{}, stderr: stderr.String(), preset: s.preset, lifted: s.lifted,
		status: s.cmd.ProcessState.ExitCode(), queries: s.env.Queries(),
	}
	var err error
	if r.flows, err = s.env.Flows(); err != nil {
		return nil, err
	}
	if err := r.readOutcomes(&stdout); err != nil {
		return nil, err
	}
	return r, r.readRecords(s.records)
}

func (r *report) readOutcomes(out *bytes.Buffer) error {
	for line := range strings.Lines(out.String()) {
		var o outcome
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			continue // what a terminal echoed, or a program said
		}
		r.outcomes[o.Name] = o.Got
	}
	return nil
}

func (r *report) readRecords(path string) error {
	var err error
	if r.raw, err = os.ReadFile(path); err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	for line := range bytes.Lines(r.raw) {
		var rec record
		if err := json.Unmarshal(line, &rec); err != nil {
			return fmt.Errorf("read record %q: %w", line, err)
		}
		for _, text := range []*string{&rec.Binary, &rec.Host} {
			raw, err := event.Unescape(*text)
			if err != nil {
				return fmt.Errorf("read record %q: %w", line, err)
			}
			*text = raw
		}
		r.records = append(r.records, rec)
	}
	return nil
}
