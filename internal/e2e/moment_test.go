package e2e

import (
	"bufio"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

// TestIdentityIsOfTheConnect stops the agent while a program connects, and lets it
// go on only when that program is gone or has become another: what decides is who
// connected.
func TestIdentityIsOfTheConnect(t *testing.T) {
	testenv.Require(t, "gcc")
	f := newFixture(t)
	client, denied := f.tool(toolC), f.copyOf(f.tool(toolC), "denied")
	python := realPath(t, "/usr/bin/python3")
	takeOver := "/bin/sh -c 'echo executed; head -n1'"
	takeOverAllowed := python + " -c 'import os; print(\"executed\", flush=True); print(os.read(0, 99))'"
	arrived := make(chan string, 16)
	err := f.env.Serve(9002, func(conn net.Conn) {
		data, _ := io.ReadAll(conn)
		arrived <- string(data)
	})
	if err != nil {
		t.Fatal(err)
	}
	policy := f.allow([]int{25, 9002}, client, python)
	tests := []struct {
		name, command string
		until         string // the output after which the agent goes on
		output        string // that follows
		want          record
		arrived       string // at port 9002
	}{
		{"connect, send, close, exit", client + " -w -c -s hello " + allowedName + " 9002", `"stage":"closed"`, "",
			record{Verdict: "allow", Reason: "allowed", Binary: client, Sent: 5}, "hello"},
		{"allowed program becomes another", client + " -w " + allowedName + " 25 " + takeOver, "executed", testenv.Banner,
			record{Verdict: "allow", Reason: "allowed", Binary: client}, ""},
		{"denied program becomes an allowed one", denied + " -w " + allowedName + " 25 " + takeOverAllowed, "executed", "",
			record{Verdict: "deny", Reason: "wrong_binary", Binary: denied}, ""},
		{"denied program is gone", denied + " -w -c -s hello " + allowedName + " 9002", `"stage":"closed"`, "",
			record{Verdict: "deny", Reason: "wrong_binary", Binary: denied}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			running := f.prepare("--policy", policy, "--", "/bin/sh", "-c", tt.command)
			rest, r := running.connectUnheard(t, tt.until)
			if strings.TrimSpace(rest) != strings.TrimSpace(tt.output) {
				t.Errorf("output after the accept = %q, want %q", rest, tt.output)
			}
			r.one(t, allowedName).check(t, tt.want)
			if tt.arrived == "" {
				return
			}
			select {
			case data := <-arrived:
				if data != tt.arrived {
					t.Errorf("%q arrived, want %q", data, tt.arrived)
				}
			case <-time.After(5 * time.Second):
				t.Error("nothing arrived")
			}
		})
	}
	if n := len(arrived); n != 0 {
		t.Errorf("%d more connections arrived", n)
	}
}

// TestLastWords: what a program sent before it ended arrives, although its sandbox
// ends with it and the server takes its time.
func TestLastWords(t *testing.T) {
	const size = 8 << 20
	f := newFixtureWith(t, testenv.Config{NoWitness: true})
	python := realPath(t, "/usr/bin/python3")
	arrived := make(chan int64, 1)
	err := f.env.Serve(9002, func(conn net.Conn) {
		time.Sleep(300 * time.Millisecond) // the program is gone meanwhile
		n, _ := io.Copy(io.Discard, conn)
		arrived <- n
	})
	if err != nil {
		t.Fatal(err)
	}
	r := f.run("--policy", f.allow([]int{9002}, python), "--", python, "-c",
		`import socket; s = socket.create_connection(("allowed.test", 9002)); s.sendall(bytes(8 << 20)); s.close()`)
	if r.status != 0 {
		t.Fatalf("status %d: %s", r.status, r.stderr)
	}
	select {
	case n := <-arrived:
		if n != size {
			t.Errorf("%d bytes arrived, want %d", n, size)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing arrived")
	}
	r.one(t, allowedName).check(t, record{Verdict: "allow", Reason: "allowed", Binary: python, Sent: size})
}

// connectUnheard runs a client that waits with -w, and stops the agent while it
// connects and does what it does until the line of output given. It returns the
// output after that.
func (r *running) connectUnheard(t *testing.T, until string) (string, *result) {
	t.Helper()
	r.cmd.Stdout = nil
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := r.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = r.cmd.Process.Kill() })
	defer timer.Stop()
	output := bufio.NewReader(stdout)
	r.readUntil(t, output, "ready")
	if err := r.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, "go\n"); err != nil {
		t.Fatal(err)
	}
	r.readUntil(t, output, until)
	if err := r.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	line, _ := output.ReadString('\n')
	stdin.Close()
	more, _ := io.ReadAll(output)
	return line + string(more), r.wait()
}

func (r *running) readUntil(t *testing.T, output *bufio.Reader, text string) {
	t.Helper()
	for {
		line, err := output.ReadString('\n')
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("%q did not come: %v\n%s", text, err, r.stderr.String())
		}
	}
}
