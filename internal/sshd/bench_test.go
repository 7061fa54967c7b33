package sshd

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/testenv"
)

// plain starts the system's sshd, with its defaults, for whoever runs the benchmark.
func (f *fixture) plain(b *testing.B) (port int, name string) {
	b.Helper()
	testenv.Require(b, "/usr/sbin/sshd")
	must(b, os.MkdirAll("/run/sshd", 0o755))
	who, err := user.Current()
	must(b, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	f.write("plain_host", string(f.host.Marshal()))
	f.write("plain_keys", f.user.Public().String()+"\n")
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", fmt.Sprint(port), "-o", "ListenAddress=127.0.0.1",
		"-h", filepath.Join(f.dir, "plain_host"), "-o", "AuthorizedKeysFile="+filepath.Join(f.dir, "plain_keys"),
		"-o", "StrictModes=no", "-o", "PidFile=none", "-o", "PermitRootLogin=yes", "-o", "UsePAM=no", "-o", "Subsystem=sftp internal-sftp")
	must(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	until(b, "sshd", func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return port, who.Username
}

// beside runs the same work against plain sshd and this server.
func beside(b *testing.B, work func(b *testing.B, f *fixture, port int, name string)) {
	f := newFixture(b, Limits{})
	f.sandbox("alpha")
	port, name := f.plain(b)
	b.Run("plain", func(b *testing.B) { work(b, f, port, name) })
	b.Run("ringfence", func(b *testing.B) { work(b, f, f.addr.Port, "alpha") })
}

func (f *fixture) client(b *testing.B, port int, name string) *ssh.Client {
	b.Helper()
	client, err := ssh.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &ssh.ClientConfig{
		User: name, Auth: []ssh.AuthMethod{ssh.PublicKeys(f.user.signer)}, HostKeyCallback: ssh.FixedHostKey(f.host.signer.PublicKey()),
	})
	must(b, err)
	b.Cleanup(func() { client.Close() })
	return client
}

// BenchmarkKeystroke is one key typed into a terminal, and its echo.
func BenchmarkKeystroke(b *testing.B) {
	beside(b, func(b *testing.B, f *fixture, port int, name string) {
		s, err := f.client(b, port, name).NewSession()
		must(b, err)
		must(b, s.RequestPty("xterm", 24, 80, ssh.TerminalModes{ssh.ECHO: 1}))
		in, err := s.StdinPipe()
		must(b, err)
		out, err := s.StdoutPipe()
		must(b, err)
		must(b, s.Start("stty raw echo; printf x; exec cat >/dev/null"))
		key := make([]byte, 1)
		_, err = io.ReadFull(out, key)
		must(b, err)
		var took []time.Duration
		for b.Loop() {
			start := time.Now()
			if _, err := in.Write(key); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(out, key); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	})
}

// BenchmarkLogin is a connection, a login and a command, by the system's ssh.
func BenchmarkLogin(b *testing.B) {
	beside(b, func(b *testing.B, f *fixture, port int, name string) {
		f.write("known_hosts", KnownHosts("127.0.0.1", uint16(port), f.host.Public())+"\n")
		for b.Loop() {
			if r := f.ssh("-p", fmt.Sprint(port), name+"@node", "true"); r.code != 0 {
				b.Fatalf("%+v", r)
			}
		}
	})
}

// BenchmarkTransfer moves 256 MiB by the system's sftp.
func BenchmarkTransfer(b *testing.B) {
	const size = 256 << 20
	beside(b, func(b *testing.B, f *fixture, port int, name string) {
		f.write("known_hosts", KnownHosts("127.0.0.1", uint16(port), f.host.Public())+"\n")
		file := filepath.Join(f.dir, "bulk")
		must(b, os.WriteFile(file, nil, 0o644))
		must(b, os.Truncate(file, size))
		remote := filepath.Join(f.home, "bulk")
		must(b, os.RemoveAll(remote))
		run := func(b *testing.B, from, to string) {
			b.SetBytes(size)
			for b.Loop() {
				if r := f.run(f.command("scp", "-q", "-P", fmt.Sprint(port), from, to)); r.code != 0 {
					b.Fatalf("%+v", r)
				}
			}
		}
		b.Run("put", func(b *testing.B) { run(b, file, name+"@node:"+remote) })
		b.Run("get", func(b *testing.B) { run(b, name+"@node:"+remote, filepath.Join(f.dir, "back")) })
	})
}

// BenchmarkPipe moves 256 MiB out of a command, and into one.
func BenchmarkPipe(b *testing.B) {
	const size = 256 << 20
	beside(b, func(b *testing.B, f *fixture, port int, name string) {
		f.write("known_hosts", KnownHosts("127.0.0.1", uint16(port), f.host.Public())+"\n")
		b.Run("out", func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				cmd := f.command("ssh", "-p", fmt.Sprint(port), name+"@node", fmt.Sprintf("head -c %d /dev/zero", size))
				null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
				must(b, err)
				cmd.Stdout = null
				if r := f.run(cmd); r.code != 0 {
					b.Fatalf("%+v", r)
				}
				null.Close()
			}
		})
		b.Run("in", func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				cmd := f.command("sh", "-c", fmt.Sprintf("head -c %d /dev/zero | ssh -F %s -p %d %s@node 'cat >/dev/null'", size, f.config, port, name))
				if r := f.run(cmd); r.code != 0 {
					b.Fatalf("%+v", r)
				}
			}
		})
	})
}
