package sshd

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/launch"
)

// FuzzForward: what is let through is the sandbox's own loopback or a path, and the
// port is the one that was sent.
func FuzzForward(f *testing.F) {
	add := func(host string, port uint32) { f.Add(ssh.Marshal(directTCP{host, port, "192.0.2.1", 1})) }
	add("127.0.0.1", 22)
	add("127.0.0.1", 65536+22)
	add("localhost", 0)
	add("::ffff:127.0.0.1", 1)
	add("example.com", 80)
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add(ssh.Marshal(struct {
		Path, Reserved string
		Port           uint32
	}{"/tmp/x", "", 0}))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if to, err := parseDirectTCP(payload); err == nil {
			var sent directTCP
			if err := ssh.Unmarshal(payload, &sent); err != nil {
				t.Fatal(err)
			}
			if uint32(to.port) != sent.Port || sent.Port == 0 || to.network != "tcp" {
				t.Errorf("port %d became %d", sent.Port, to.port)
			}
			if to.host != "localhost" && !netip.MustParseAddr(to.host).IsLoopback() {
				t.Errorf("%q is let through as %q", sent.Host, to.host)
			}
		} else if len(to.host) > maxHost+len(" …") {
			t.Errorf("a record would have a host of %d bytes", len(to.host))
		}
		if to, err := parseDirectUnix(payload); err == nil {
			if to.host[0] != '/' || len(to.host) > maxSocketPath || strings.ContainsRune(to.host, 0) || to.network != "unix" {
				t.Errorf("path %q is let through", to.host)
			}
		}
	})
}

// FuzzSession: what the requests of a session mean is bounded and safe to pass on.
func FuzzSession(f *testing.F) {
	f.Add(ssh.Marshal(terminalRequest{"xterm", 80, 24, 0, 0, "\x35\x00\x00\x00\x00\x03\x00\x00\x00\x7f\x00"}))
	f.Add(ssh.Marshal(terminalRequest{"x\n", 1 << 31, 1 << 16, 0, 0, "\x01\x00"}))
	f.Add(ssh.Marshal(struct{ Name, Value string }{"LANG", "C"}))
	f.Add(ssh.Marshal(struct{ Name, Value string }{"LD_PRELOAD", "/x"}))
	f.Add(ssh.Marshal(struct{ Name string }{"TERM"}))
	f.Add(ssh.Marshal(struct{ A, B, C, D uint32 }{80, 24, 0, 0}))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if terminal, err := parseTerminal(payload); err == nil {
			if strings.ContainsAny(terminal.term, "\x00\n\r\x1b ") || len(terminal.term) > maxTerm || len(terminal.modes) > maxModes {
				t.Errorf("%+v", terminal)
			}
			var state unix.Termios
			apply(&state, terminal.modes)
			if state.Cflag != 0 || state.Ospeed != 0 {
				t.Errorf("modes change the line: %+v", state)
			}
		}
		if size, err := parseWindow(payload); err == nil && (size.Rows > math.MaxInt16 || size.Cols > math.MaxInt16) {
			t.Errorf("%+v", size)
		}
		if variable, err := parseVariable(payload); err == nil {
			name, value, _ := strings.Cut(variable, "=")
			if !launch.AllowedEnv(name) || strings.ContainsAny(value, "\x00\r\n") || len(variable) > maxVariableName+maxVariableValue+1 {
				t.Errorf("%q", variable)
			}
		}
		if number, err := parseSignal(payload); err == nil && signalName(number) == "SIG@openssh.com" {
			t.Errorf("signal %d has no name", number)
		}
	})
}

// FuzzAuthorizedKeys: what is read is written as the same keys, and none is weak.
func FuzzAuthorizedKeys(f *testing.F) {
	key, err := GenerateKey("a comment")
	if err != nil {
		f.Fatal(err)
	}
	line := key.Public().String()
	f.Add([]byte(line + " a comment\n# x\n\n" + line))
	f.Add([]byte(`command="id" ` + line))
	f.Add([]byte("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ== x"))
	f.Add([]byte("ssh-ed25519-cert-v01@openssh.com AAAA"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := ParseAuthorizedKeys(text)
		if err != nil {
			return
		}
		var lines []string
		for _, k := range keys {
			if err := usable(k.key); err != nil {
				t.Error(err)
			}
			lines = append(lines, k.String())
		}
		again, err := ParseAuthorizedKeys([]byte(strings.Join(lines, "\n")))
		if err != nil || len(again) != len(keys) {
			t.Fatalf("%q becomes %q: %v", text, lines, err)
		}
		for i := range keys {
			if again[i].Fingerprint() != keys[i].Fingerprint() {
				t.Errorf("%q becomes %q", text, lines)
			}
		}
	})
}
