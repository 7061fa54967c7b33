package sshd

import (
	"fmt"
	"math"
	"net/netip"
	"path"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/tty"
)

// Bounds of what a client may send.
const (
	maxVariables     = 128
	maxVariableName  = 256
	maxVariableValue = 8192
	maxTerm          = 64
	maxHost          = 253
	maxSocketPath    = 107 // what sockaddr_un has room for, with its NUL
	maxModes         = 1024
)

// terminalRequest is the payload of pty-req (RFC 4254, 6.2).
type terminalRequest struct {
	Term                      string
	Cols, Rows, Width, Height uint32
	Modes                     string
}

// parseTerminal returns the terminal that pty-req asks for.
func parseTerminal(payload []byte) (*terminal, error) {
	var r terminalRequest
	if err := ssh.Unmarshal(payload, &r); err != nil {
		return nil, fmt.Errorf("read pty-req: %w", err)
	}
	if len(r.Term) > maxTerm || !isPlain(r.Term) {
		return nil, fmt.Errorf("read pty-req: %q is no kind of terminal", clip(r.Term, maxTerm))
	}
	modes, err := parseModes([]byte(r.Modes))
	if err != nil {
		return nil, err
	}
	return &terminal{term: r.Term, size: sizeOf(r.Cols, r.Rows), modes: modes}, nil
}

// parseWindow returns the size that window-change tells.
func parseWindow(payload []byte) (tty.Size, error) {
	var r struct{ Cols, Rows, Width, Height uint32 }
	if err := ssh.Unmarshal(payload, &r); err != nil {
		return tty.Size{}, fmt.Errorf("read window-change: %w", err)
	}
	return sizeOf(r.Cols, r.Rows), nil
}

// sizeOf bounds a size: the kernel's has 16 bits, and what is beyond is nobody's screen.
func sizeOf(cols, rows uint32) tty.Size {
	return tty.Size{Cols: uint16(min(cols, math.MaxInt16)), Rows: uint16(min(rows, math.MaxInt16))}
}

// parseString returns the one string of exec and subsystem.
func parseString(payload []byte) (string, error) {
	var r struct{ Text string }
	if err := ssh.Unmarshal(payload, &r); err != nil {
		return "", err
	}
	return r.Text, nil
}

// parseVariable returns the K=V of env; an error where no session may have it.
func parseVariable(payload []byte) (string, error) {
	var r struct{ Name, Value string }
	if err := ssh.Unmarshal(payload, &r); err != nil {
		return "", fmt.Errorf("read env: %w", err)
	}
	if len(r.Name) > maxVariableName || len(r.Value) > maxVariableValue || !launch.AllowedEnv(r.Name) ||
		strings.ContainsAny(r.Value, "\x00\r\n") {
		return "", fmt.Errorf("variable %q is not for a session", clip(r.Name, maxVariableName))
	}
	return r.Name + "=" + r.Value, nil
}

// isPlain reports whether a text has only what the name of a terminal may have.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// parseSignal returns the signal that a client asks to be sent.
func parseSignal(payload []byte) (syscall.Signal, error) {
	name, err := parseString(payload)
	if err != nil {
		return 0, fmt.Errorf("read signal: %w", err)
	}
	for _, s := range signals() {
		if s.name == name {
			return s.number, nil
		}
	}
	return 0, fmt.Errorf("signal %q is not known", clip(name, 32))
}

type namedSignal struct {
	name   string
	number syscall.Signal
}

// signals are those that the protocol names (RFC 4254, 6.10).
func signals() []namedSignal {
	return []namedSignal{
		{"ABRT", syscall.SIGABRT}, {"ALRM", syscall.SIGALRM}, {"FPE", syscall.SIGFPE}, {"HUP", syscall.SIGHUP},
		{"ILL", syscall.SIGILL}, {"INT", syscall.SIGINT}, {"KILL", syscall.SIGKILL}, {"PIPE", syscall.SIGPIPE},
		{"QUIT", syscall.SIGQUIT}, {"SEGV", syscall.SIGSEGV}, {"TERM", syscall.SIGTERM},
		{"USR1", syscall.SIGUSR1}, {"USR2", syscall.SIGUSR2},
	}
}

// signalName returns a signal's name on the wire: others than those of the protocol
// must have an @, and OpenSSH has one name for all of them.
func signalName(number syscall.Signal) string {
	for _, s := range signals() {
		if s.number == number {
			return s.name
		}
	}
	return "SIG@openssh.com"
}

// target is where a forwarding leads to inside the sandbox, as it was asked for.
type target struct {
	network string
	host    string // or the path
	port    uint16
}

// parseDirectTCP returns the target of direct-tcpip (RFC 4254, 7.2). The port is
// looked at in its full width: cut to 16 bits, 65536+22 would be 22.
func parseDirectTCP(payload []byte) (target, error) {
	var r struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(payload, &r); err != nil {
		return target{}, fmt.Errorf("read direct-tcpip: %w", err)
	}
	t := target{network: "tcp", host: clip(r.Host, maxHost)}
	if r.Port == 0 || r.Port > math.MaxUint16 {
		return t, fmt.Errorf("%d is no port", r.Port)
	}
	t.port = uint16(r.Port)
	if strings.EqualFold(r.Host, "localhost") {
		t.host = "localhost"
		return t, nil
	}
	addr, err := netip.ParseAddr(r.Host)
	if err != nil || addr.Zone() != "" || !addr.Unmap().IsLoopback() {
		return t, fmt.Errorf("%q is not the sandbox's own loopback", t.host)
	}
	t.host = addr.Unmap().String()
	return t, nil
}

// parseDirectUnix returns the target of direct-streamlocal@openssh.com.
func parseDirectUnix(payload []byte) (target, error) {
	var r struct {
		Path       string
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(payload, &r); err != nil {
		return target{}, fmt.Errorf("read direct-streamlocal: %w", err)
	}
	t := target{network: "unix", host: clip(r.Path, maxHost)}
	if len(r.Path) > maxSocketPath || strings.IndexByte(r.Path, 0) >= 0 || !path.IsAbs(r.Path) {
		return t, fmt.Errorf("%q is no path of a socket", t.host)
	}
	return t, nil
}

// clip bounds a text for a message or a record.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return text[:most] + " …"
}
