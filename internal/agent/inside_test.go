package agent

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/testenv"
)

// listenInside starts a server in the sandbox that sends back what comes.
func listenInside(t *testing.T, sb *Sandbox, user launch.User) {
	t.Helper()
	const script = `
import socket
l = socket.create_server(("127.0.0.1", 8001))
print("ready", flush=True)
while True:
    c, _ = l.accept()
    while b := c.recv(4096):
        c.sendall(b)
    c.close()
`
	pipes, err := launch.PipeStdio()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pipes.Close)
	_, err = sb.Exec(t.Context(), launch.Command{
		Argv: []string{"python3", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/",
		UID: user.UID, GID: user.GID, Stdio: pipes.Stdio,
	})
	pipes.Started()
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(pipes.Stdout).ReadString('\n'); err != nil || line != "ready\n" {
		why, _ := io.ReadAll(pipes.Stderr)
		t.Fatalf("%q, %v, %s", line, err, why)
	}
}

// execRecords reads the kernel's record of every program image.
func execRecords(t *testing.T, a *Agent) map[flow.ExecID]flow.Exec {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(a.instance.pinDir(), "gen_*", "map_execs"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("maps %v, %v", paths, err)
	}
	m, err := ebpf.LoadPinnedMap(paths[0], &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	all := map[flow.ExecID]flow.Exec{}
	it := m.Iterate()
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	for it.Next(&key, &value) {
		id := flow.ExecID{TGID: binary.NativeEndian.Uint32(key), Time: binary.NativeEndian.Uint64(key[8:])}
		if all[id], err = a.datapath.ReadExec(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// Our own programs are no program of a policy to the hooks: their image is outside the
// sandbox's view, so it has no path. What they dial on the loopback passes all the same.
func TestOwnProgramsInside(t *testing.T) {
	testenv.Require(t, "python3")
	sink := &tally{count: make(map[string]int)}
	a := startAgent(t, sink)
	sb, err := a.CreateSandbox(t.Context(), SandboxConfig{Name: "box", Engine: emptyPolicy(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close()
	user, err := launch.ReservedUser(a.Number())
	if err != nil {
		t.Fatal(err)
	}
	listenInside(t, sb, user)
	for _, address := range []string{"127.0.0.1", "localhost", "198.18.0.1"} {
		conn, err := sb.Dial(t.Context(), launch.DialConfig{UID: user.UID, GID: user.GID, Network: "tcp", Address: address, Port: 8001})
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		if err := echoes(conn); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, port := range []uint16{15001, 15053, 15128, 53} {
		_, err := sb.Dial(t.Context(), launch.DialConfig{UID: user.UID, GID: user.GID, Network: "tcp", Address: "localhost", Port: port})
		if !errors.Is(err, launch.ErrNotOwn) {
			t.Errorf("port %d: %v", port, err)
		}
	}
	pipes, err := launch.PipeStdio()
	if err != nil {
		t.Fatal(err)
	}
	defer pipes.Close()
	sftp, err := sb.Exec(t.Context(), launch.Command{Builtin: launch.BuiltinSFTP, Dir: "/", UID: user.UID, GID: user.GID, Stdio: pipes.Stdio})
	pipes.Started()
	if err != nil {
		t.Fatal(err)
	}
	var own []int
	for id, record := range execRecords(t, a) {
		if strings.HasPrefix(record.Path, "/usr/bin/") {
			continue // python
		}
		own = append(own, int(id.TGID))
		if record.Path != "" || record.Taints&flow.TaintNoPath == 0 || record.UID != user.UID || len(record.Ancestors) != 0 {
			t.Errorf("%+v", record)
		}
	}
	if len(own) != 2 || !slices.Contains(own, sftp.PID) {
		t.Errorf("processes %v have a record, SFTP is %d", own, sftp.PID)
	}
	sink.mu.Lock()
	defer sink.mu.Unlock()
	if len(sink.count) != 0 {
		t.Errorf("records %v", sink.count)
	}
}

func echoes(conn net.Conn) error {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("there and back")); err != nil {
		return err
	}
	back := make([]byte, len("there and back"))
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if string(back) != "there and back" {
		return os.ErrInvalid
	}
	return nil
}
