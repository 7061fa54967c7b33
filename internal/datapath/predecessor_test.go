package datapath

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/testenv"
)

// agentProcess is an agent of its own process, which can be killed.
type agentProcess struct {
	t       testing.TB
	cmd     *exec.Cmd
	input   *os.File
	answers *bufio.Scanner
}

// order is one line to it. Its answer is one line, too.
type order struct {
	Add    *Sandbox       // to the tables
	Take   netip.AddrPort // an origin, and keep it
	Cookie uint64         // of the namespace to take from
}

type answer struct {
	Err  string
	Exec flow.ExecID
}

// predecessor is the agent's side of it: it opens the datapath and obeys.
func predecessor(config string) {
	var cfg Config
	must(json.Unmarshal([]byte(config), &cfg))
	dp, _, err := Open(cfg)
	must(err)
	out := json.NewEncoder(os.Stdout)
	must(out.Encode(answer{}))
	orders := json.NewDecoder(os.Stdin)
	for {
		var o order
		var a answer
		if err := orders.Decode(&o); err == io.EOF {
			os.Exit(0) // without a word to the hooks: all that is pinned stays
		} else if err != nil {
			must(err)
		}
		if o.Add != nil {
			err = dp.AddSandbox(*o.Add)
		}
		if o.Cookie != 0 {
			var origin flow.Origin
			origin, err = dp.Origins(o.Cookie).Take(o.Take)
			a.Exec = origin.Exec
		}
		if err != nil {
			a.Err = err.Error()
		}
		must(out.Encode(a))
	}
}

// startAgent starts the agent that program is; this test's own where it is "". It has
// opened the datapath when it is returned.
func startAgent(t testing.TB, program string, cfg Config) *agentProcess {
	t.Helper()
	p := launchAgent(t, program, cfg)
	t.Cleanup(func() {
		if err := Unpin(cfg.PinDir); err != nil {
			t.Error(err)
		}
	})
	p.answer()
	return p
}

// launchAgent does not wait for it.
func launchAgent(t testing.TB, program string, cfg Config) *agentProcess {
	t.Helper()
	if program == "" {
		program = "/proc/self/exe"
	}
	orders, input := pipe(t)
	output, answers := pipe(t)
	p := &agentProcess{t: t, input: input, answers: bufio.NewScanner(output)}
	p.cmd = exec.Command(program, "predecessor", asJSON(cfg))
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = orders, answers, os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	orders.Close()
	answers.Close()
	t.Cleanup(p.kill)
	return p
}

// otherTest names this test's program as another build, whose layout is another.
const otherTest = "RINGFENCE_OTHER_TEST"

// otherBuild returns such a program: the one that is named, or one that it compiles.
func otherBuild(t *testing.T) string {
	t.Helper()
	if program := os.Getenv(otherTest); program != "" {
		return program
	}
	testenv.Require(t, "go")
	program := filepath.Join(t.TempDir(), "other")
	build := exec.Command("go", "test", "-c", "-tags", "otherlayout", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

func (p *agentProcess) obey(o order) answer {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.input, asJSON(o)); err != nil {
		p.t.Fatal(err)
	}
	return p.answer()
}

func (p *agentProcess) answer() answer {
	p.t.Helper()
	var a answer
	if !p.answers.Scan() {
		p.t.Fatalf("agent: %v", p.answers.Err())
	}
	if err := json.Unmarshal(p.answers.Bytes(), &a); err != nil || a.Err != "" {
		p.t.Fatalf("agent: %q %v", p.answers.Text(), err)
	}
	return a
}

func (p *agentProcess) add(sb Sandbox) error {
	p.obey(order{Add: &sb})
	return nil
}

// kill ends it at once. Nothing of it runs afterwards.
func (p *agentProcess) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
