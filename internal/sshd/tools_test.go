package sshd

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/testenv"
)

// content makes a file of random bytes in the client's directory.
func (f *fixture) content(name string, size int) []byte {
	f.t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	f.write(name, string(data))
	return data
}

// arrived compares a file in the sandbox's home.
func (f *fixture) arrived(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(f.home, name))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes instead of %d, %v", name, len(got), len(want), err)
	}
	if info, err := os.Stat(filepath.Join(f.home, name)); err != nil || ownerOf(info) != testUID {
		t.Errorf("%s is not the sandbox's user's: %v", name, err)
	}
}

func TestTransfers(t *testing.T) {
	testenv.Require(t, "scp", "sftp", "rsync", "git")
	f := newFixture(t, Limits{})
	alpha := f.sandbox("alpha")
	data := f.content("data", 20<<20)
	small := f.content("small", 1234)
	for _, test := range []struct{ name, flag string }{{"scp by sftp", "-s"}, {"scp by itself", "-O"}} {
		t.Run(test.name, func(t *testing.T) {
			name := "copied" + test.flag
			if test.flag == "-O" { // scp itself runs for nobody whose name it cannot find
				nobody, err := launch.LookupUser("nobody")
				must(t, err)
				defer func(was *launch.User) {
					alpha.user.Store(was)
					must(t, os.Chown(f.home, testUID, testUID))
				}(alpha.user.Load())
				nobody.Home, nobody.Shell = f.home, "/bin/bash"
				alpha.user.Store(&nobody)
				must(t, os.Chown(f.home, int(nobody.UID), int(nobody.GID)))
			}
			if r := f.run(f.command("scp", "-q", test.flag, "data", "alpha@node:"+name)); r.code != 0 {
				t.Fatalf("%+v", r)
			}
			if got, err := os.ReadFile(filepath.Join(f.home, name)); err != nil || !bytes.Equal(got, data) {
				t.Errorf("another arrived: %v", err)
			}
			if r := f.run(f.command("scp", "-q", test.flag, "alpha@node:"+name, "back")); r.code != 0 {
				t.Fatalf("%+v", r)
			}
			if back, err := os.ReadFile(filepath.Join(f.dir, "back")); err != nil || !bytes.Equal(back, data) {
				t.Errorf("another came back: %v", err)
			}
		})
	}
	t.Run("sftp", func(t *testing.T) {
		cmd := f.command("sftp", "-q", "-b", "-", "alpha@node")
		cmd.Stdin = strings.NewReader("mkdir d\nput data d/one\nput small d/two\nget d/one back2\nls -l d\nrename d/two d/three\nsymlink one d/link\nrm d/three\nchmod 600 d/one\n")
		if r := f.run(cmd); r.code != 0 || !strings.Contains(r.out, "two") {
			t.Fatalf("%+v", r)
		}
		f.arrived(t, "d/one", data)
		told := func(op string, received, sent int) {
			t.Helper()
			until(t, "a record of the file", func() bool {
				return len(f.ledger.find(func(r *flow.Record) bool {
					return r.Reason == flow.ReasonSSHTransfer && r.Object == filepath.Join(f.home, "d/one") && r.Command == op &&
						r.Received == int64(received) && r.Sent == int64(sent) && r.Sandbox == "alpha"
				})) == 1
			})
		}
		told("write", len(data), 0)
		told("read", 0, len(data))
	})
	t.Run("sftp outside", func(t *testing.T) {
		secret := f.write("secret", "secret")
		cmd := f.command("sftp", "-q", "-b", "-", "alpha@node")
		cmd.Stdin = strings.NewReader("get " + secret + " stolen\n")
		if r := f.run(cmd); r.code == 0 {
			t.Errorf("it can be read: %+v", r)
		}
		for _, path := range []string{"/etc/shadow", "/root", "/etc/new"} {
			cmd := f.command("sftp", "-q", "-b", "-", "alpha@node")
			cmd.Stdin = strings.NewReader("get " + path + " stolen\nput small " + path + "\n")
			if r := f.run(cmd); r.code == 0 {
				t.Errorf("%s: %+v", path, r)
			}
		}
	})
	t.Run("rsync", func(t *testing.T) {
		tree := filepath.Join(f.dir, "tree")
		must(t, os.MkdirAll(filepath.Join(tree, "a/b"), 0o755))
		must(t, os.WriteFile(filepath.Join(tree, "a/b/c"), data, 0o644))
		must(t, os.WriteFile(filepath.Join(tree, "a/x y"), small, 0o644))
		for range 2 { // the second finds all there
			if r := f.run(f.command("rsync", "-a", "--no-owner", "--no-group", "-e", "ssh -F "+f.config, tree+"/", "alpha@node:tree/")); r.code != 0 {
				t.Fatalf("%+v", r)
			}
		}
		f.arrived(t, "tree/a/b/c", data)
		f.arrived(t, "tree/a/x y", small)
		if r := f.run(f.command("rsync", "-a", "-e", "ssh -F "+f.config, "alpha@node:tree/", "tree2/")); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		if back, err := os.ReadFile(filepath.Join(f.dir, "tree2/a/b/c")); err != nil || !bytes.Equal(back, data) {
			t.Errorf("another came back: %v", err)
		}
		f.ledger.await(t, flow.ReasonSSHExec, "exit status 0")
	})
	t.Run("git", func(t *testing.T) {
		if r := f.ssh("alpha@node", "git init -q --bare -b main repo.git && git -C repo.git config core.sharedRepository 0600"); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		git := func(args ...string) {
			t.Helper()
			cmd := f.command("git", args...)
			cmd.Env = append(cmd.Env, "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
			if r := f.run(cmd); r.code != 0 {
				t.Fatalf("git %q: %+v", args, r)
			}
		}
		git("init", "-q", "-b", "main", "work")
		must(t, os.WriteFile(filepath.Join(f.dir, "work/file"), data[:3<<20], 0o644))
		git("-C", "work", "add", "file")
		git("-C", "work", "commit", "-q", "-m", "one")
		git("-C", "work", "push", "-q", "ssh://alpha@node/"+f.home+"/repo.git", "main")
		git("clone", "-q", "ssh://alpha@node"+f.home+"/repo.git", "clone")
		if back, err := os.ReadFile(filepath.Join(f.dir, "clone/file")); err != nil || !bytes.Equal(back, data[:3<<20]) {
			t.Errorf("another came back: %v", err)
		}
	})
}

// A multiplexer lives on without its terminal, and is found again.
func TestTmux(t *testing.T) {
	testenv.Require(t, "tmux")
	f := newFixture(t, Limits{Linger: time.Second})
	f.sandbox("alpha")
	attach := func(command string) (*ssh.Session, *bufio.Reader, io.Writer, *ssh.Client) {
		client := f.mustDial("alpha")
		s, err := client.NewSession()
		must(t, err)
		must(t, s.RequestPty("xterm", 24, 80, ssh.TerminalModes{}))
		out, err := s.StdoutPipe()
		must(t, err)
		in, err := s.StdinPipe()
		must(t, err)
		must(t, s.Start(command))
		return s, bufio.NewReader(out), in, client
	}
	await := func(out *bufio.Reader, want string) {
		t.Helper()
		var seen bytes.Buffer
		for !strings.Contains(seen.String(), want) {
			c, err := out.ReadByte()
			if err != nil {
				t.Fatalf("no %q: %v\n%q", want, err, seen.String())
			}
			seen.WriteByte(c)
		}
	}
	_, out, in, client := attach("tmux new-session -s main 'PS1=: bash --norc'")
	_, err := io.WriteString(in, "echo first-$((40+2)); X=kept\n")
	must(t, err)
	await(out, "first-42")
	client.Close() // as when a laptop is closed
	until(t, "the end of the connection", func() bool { return f.server.Stats().Conns == 0 })

	if r := f.ssh("alpha@node", "tmux list-sessions"); !strings.Contains(r.out, "main:") {
		t.Fatalf("%+v", r)
	}
	s, out, in, _ := attach("tmux attach -t main")
	_, err = io.WriteString(in, "echo again-$X\n")
	must(t, err)
	await(out, "again-kept")
	_, err = io.WriteString(in, "exit\n")
	must(t, err)
	_, _ = io.Copy(io.Discard, out)
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}

// What an editor does: it pipes a long script into a shell, which starts a server in the
// background and says where, and then connects to that through the connection.
func TestEditorBootstrap(t *testing.T) {
	testenv.Require(t, "python3")
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	var script strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&script, "check_%d() { echo 'a function of a long script'; }\n", i)
	}
	script.WriteString(`
mkdir -p server && cd server && echo served > page
nohup python3 -u -c '
import http.server, socketserver
server = socketserver.TCPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print("listening on", server.server_address[1], flush=True)
server.serve_forever()' > log 2>&1 < /dev/null &
until grep -q "listening on" log; do sleep 0.05; done
echo "start: port==$(sed -n 's/listening on //p' log)== end"
`)
	cmd := f.command("ssh", "-T", "alpha@node", "bash")
	cmd.Stdin = strings.NewReader(script.String())
	r := f.run(cmd)
	_, rest, _ := strings.Cut(r.out, "port==")
	text, _, _ := strings.Cut(rest, "==")
	port, err := strconv.Atoi(text)
	if err != nil || r.code != 0 {
		t.Fatalf("%+v", r)
	}

	t.Run("one port", func(t *testing.T) {
		local := freePort(t)
		forward := f.forwarding("-L", fmt.Sprintf("127.0.0.1:%d:127.0.0.1:%d", local, port))
		defer forward()
		if page := fetch(t, local); page != "served\n" {
			t.Errorf("got %q", page)
		}
		record := f.ledger.await(t, flow.ReasonSSHForward, "")
		if record.Verdict != flow.Allow || record.Host != "127.0.0.1" || record.Port != uint16(port) || record.Sent < 100 || record.Received < 10 {
			t.Errorf("%+v", record)
		}
	})
	t.Run("any port", func(t *testing.T) {
		testenv.Require(t, "curl")
		local := freePort(t)
		forward := f.forwarding("-D", fmt.Sprintf("127.0.0.1:%d", local))
		defer forward()
		awaitPort(t, local)
		get := func(url string) result {
			return f.run(f.command("curl", "-sS", "--max-time", "20", "--socks5-hostname", fmt.Sprintf("127.0.0.1:%d", local), url))
		}
		if r := get(fmt.Sprintf("http://localhost:%d/page", port)); r.out != "served\n" {
			t.Errorf("%+v", r)
		}
		// This test's own server outside, by an address of the host's.
		if r := get("http://192.0.2.1:80/"); r.code == 0 {
			t.Errorf("a foreign host: %+v", r)
		}
		f.ledger.await(t, flow.ReasonSSHForward, `"192.0.2.1" is not the sandbox's own loopback`)
	})
	t.Run("the server lives on", func(t *testing.T) {
		if r := f.ssh("alpha@node", fmt.Sprintf("no_proxy=127.0.0.1 python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:%d/page\").read())'", port)); !strings.Contains(r.out, "served") {
			t.Errorf("%+v", r)
		}
	})
}

// forwarding starts ssh with nothing but a forwarding, and returns what ends it.
func (f *fixture) forwarding(args ...string) func() {
	f.t.Helper()
	cmd := f.command("ssh", append(args, "-N", "-o", "ExitOnForwardFailure=yes", "alpha@node")...)
	var said bytes.Buffer
	cmd.Stderr = &said
	must(f.t, cmd.Start())
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if f.t.Failed() {
			f.t.Logf("ssh said %q", said.String())
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func awaitPort(t *testing.T, port int) {
	t.Helper()
	until(t, "the forwarding", func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// fetch gets the page by HTTP, with half of the connection closed meanwhile.
func fetch(t *testing.T, port int) string {
	t.Helper()
	var conn net.Conn
	until(t, "the forwarding", func() (ok bool) {
		var err error
		conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err == nil
	})
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err := io.WriteString(conn, "GET /page HTTP/1.0\r\n\r\n")
	must(t, err)
	must(t, conn.(*net.TCPConn).CloseWrite())
	all, err := io.ReadAll(conn)
	must(t, err)
	_, body, _ := strings.Cut(string(all), "\r\n\r\n")
	return body
}
