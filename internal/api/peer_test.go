package api

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

// What is admitted in TestPeers.
const (
	admittedUID = 61001
	admittedGID = 61002
	stranger    = 61003
)

// TestPeers calls as several users.
func TestPeers(t *testing.T) {
	requireRoot(t)
	seen := make(chan Peer, 1)
	dir := publicDir(t)
	server := serve(t, ServerConfig{
		Socket: filepath.Join(dir, "agent", "agent.sock"),
		UIDs:   []uint32{admittedUID},
		GIDs:   []uint32{admittedGID},
		Services: Services{Agent: statusOf{answer: func(ctx context.Context) (*pb.AgentStatus, error) {
			peer, ok := PeerOf(ctx)
			if !ok {
				t.Error("nobody knows who calls")
			}
			seen <- peer
			return &pb.AgentStatus{}, nil
		}}},
	})
	for _, test := range []struct {
		name       string
		credential syscall.Credential
		want       string
	}{
		{"root", syscall.Credential{}, "OK"},
		{"uid", syscall.Credential{Uid: admittedUID, Gid: stranger}, "OK"},
		{"primary group", syscall.Credential{Uid: stranger, Gid: admittedGID}, "OK"},
		{"supplementary group", syscall.Credential{Uid: stranger, Gid: stranger, Groups: []uint32{5, 6, admittedGID}}, "OK"},
		{"one of many groups", syscall.Credential{Uid: stranger, Gid: stranger, Groups: append(manyGroups(200), admittedGID)}, "OK"},
		{"stranger", syscall.Credential{Uid: stranger, Gid: stranger, Groups: manyGroups(200)}, "PERMISSION_DENIED: uid 61003 may not use the control API"},
	} {
		t.Run(test.name, func(t *testing.T) {
			callAs(t, server.Socket(), test.credential, test.want)
			if test.want != "OK" {
				if stats := server.Stats(); len(seen) > 0 || stats.RefusedCalls != 1 {
					t.Errorf("a stranger's call was made, or not counted: %+v", stats)
				}
				return
			}
			if peer := <-seen; peer.UID != test.credential.Uid || peer.GID != test.credential.Gid || peer.PID == 0 {
				t.Errorf("peer = %+v", peer)
			}
		})
	}
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.SkipOn(t, &testenv.Skip{Reason: "needs root, to be it or others"})
	}
}

func manyGroups(n uint32) (groups []uint32) {
	for i := range n {
		groups = append(groups, 70000+i)
	}
	return groups
}

// publicDir returns a directory that every user can pass.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ringfence-api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSocketModes wants a file mode as narrow as one can say.
func TestSocketModes(t *testing.T) {
	requireRoot(t)
	for _, test := range []struct {
		name       string
		uids, gids []uint32
		mode, dir  os.FileMode
		gid        uint32
	}{
		{"root alone", nil, nil, 0o600, 0o700, 0},
		{"a group", nil, []uint32{admittedGID}, 0o660, 0o711, admittedGID},
		{"two groups", nil, []uint32{admittedGID, 5}, 0o666, 0o711, 0},
		{"a user", []uint32{admittedUID}, nil, 0o666, 0o711, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(publicDir(t), "agent")
			server := serve(t, ServerConfig{Socket: filepath.Join(dir, "agent.sock"), UIDs: test.uids, GIDs: test.gids})
			info, err := os.Stat(server.Socket())
			if err != nil {
				t.Fatal(err)
			}
			if got, gid := info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Gid; got != test.mode || gid != test.gid {
				t.Errorf("socket has mode %o, gid %d, want %o, %d", got, gid, test.mode, test.gid)
			}
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != test.dir {
				t.Errorf("directory has mode %v, want %o (%v)", info.Mode(), test.dir, err)
			}
			want := "PERMISSION_DENIED: this user may not connect to "
			if test.mode == 0o666 { // the kernel lets everybody in, and the server does not
				want = "PERMISSION_DENIED: uid 61003 may not use the control API"
			}
			callAs(t, server.Socket(), syscall.Credential{Uid: stranger, Gid: stranger}, want)
		})
	}
}

// TestClaim is about what may be where the socket is to be.
func TestClaim(t *testing.T) {
	claim := func(socket string) error {
		server, err := NewServer(ServerConfig{Socket: socket})
		if err != nil {
			return err
		}
		return server.Shutdown(t.Context())
	}
	t.Run("of a living agent", func(t *testing.T) {
		server := serve(t, ServerConfig{})
		wantError(t, claim(server.Socket()), CodeFailedPrecondition, "another agent is serving on "+server.Socket())
		answers(t, server)
	})
	t.Run("of something that lives and has no lock", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "agent.sock")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		wantError(t, claim(socket), CodeFailedPrecondition, "another agent is serving")
	})
	t.Run("of a living agent whose socket is gone", func(t *testing.T) {
		server := serve(t, ServerConfig{})
		if err := os.Remove(server.Socket()); err != nil {
			t.Fatal(err)
		}
		wantError(t, claim(server.Socket()), CodeFailedPrecondition, "another agent is serving")
	})
	t.Run("of one that is just starting", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "agent.sock")
		lock, err := os.Create(socket + ".lock")
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		wantError(t, claim(socket), CodeFailedPrecondition, "another agent is serving")
	})
	t.Run("of a dead agent", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "agent.sock")
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
		if err != nil {
			t.Fatal(err)
		}
		listener.SetUnlinkOnClose(false)
		listener.Close()
		if err := claim(socket); err != nil {
			t.Error(err)
		}
	})
	t.Run("a file", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "agent.sock")
		if err := os.WriteFile(socket, []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, claim(socket), CodeFailedPrecondition, "exists and is no socket")
		if kept, err := os.ReadFile(socket); string(kept) != "kept" {
			t.Errorf("the file is %q, %v", kept, err)
		}
	})
	t.Run("in a directory of everybody's", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
			t.Fatal(err)
		}
		wantError(t, claim(filepath.Join(dir, "agent.sock")), CodeFailedPrecondition, "others than root can put a socket into "+dir)
	})
	t.Run("with a lock that is a link", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Symlink("elsewhere", filepath.Join(dir, "agent.sock.lock")); err != nil {
			t.Fatal(err)
		}
		if err := claim(filepath.Join(dir, "agent.sock")); err == nil {
			t.Error("the link was followed")
		}
		if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); err == nil {
			t.Error("the link was followed")
		}
	})
}

// TestDial is about what a person is told where there is no agent.
func TestDial(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	none := filepath.Join(dir, "none.sock")
	_, err = Dial(none)
	if e := wantError(t, err, CodeUnavailable, "the agent is not running (no "+none+")"); e.Hint != "sudo systemctl start ringfence, or sudo ringfence agent" {
		t.Errorf("hint = %q", e.Hint)
	}
	_, err = Dial(dead)
	wantError(t, err, CodeUnavailable, "the agent is not running (nobody answers on "+dead+")")
	for _, socket := range []string{none, dead} {
		if there, err := Probe(socket); there || err != nil {
			t.Errorf("Probe = %v, %v", there, err)
		}
	}
	server := serve(t, ServerConfig{})
	if there, err := Probe(server.Socket()); !there || err != nil {
		t.Errorf("Probe = %v, %v", there, err)
	}
}

// TestClientFindsRestartedAgent keeps a client over a restart.
func TestClientFindsRestartedAgent(t *testing.T) {
	first := serve(t, ServerConfig{})
	client := dial(t, first)
	first.SetServing(true)
	if err := client.Serving(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantError(t, client.Serving(t.Context()), CodeUnavailable, "the agent ")
	second := serve(t, ServerConfig{Socket: first.Socket()})
	second.SetServing(true)
	client.conn.ResetConnectBackoff()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := client.Serving(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestPeerOfNoCall is the zero value, which may nothing.
func TestPeerOfNoCall(t *testing.T) {
	if peer, ok := PeerOf(t.Context()); ok || peer != (Peer{}) {
		t.Errorf("peer = %v", peer)
	}
	c := &calls{count: make(map[uint32]int)}
	err := c.call(t.Context(), "a/b", func() error { return nil })
	wantError(t, err, CodePermissionDenied, "not known who calls")
}

// TestNoDescriptorLeft counts descriptors around a life of a server.
func TestNoDescriptorLeft(t *testing.T) {
	life := func() {
		server, err := NewServer(ServerConfig{Socket: filepath.Join(t.TempDir(), "agent.sock")})
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error)
		go func() { served <- server.Serve() }()
		client := dial(t, server)
		wantError(t, client.Serving(t.Context()), CodeUnavailable, "not serving")
		client.Close()
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		<-served
	}
	life() // what is opened once stays
	before := descriptors(t)
	life()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
