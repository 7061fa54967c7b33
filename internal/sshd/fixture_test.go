package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/agent"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/launch"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rootfs"
	"github.com/ringfence/ringfence/internal/testenv"
)

// testUID is who runs in every sandbox here.
const testUID = 54321

// patience bounds every wait of a test.
const patience = 30 * time.Second

// ledger keeps records.
type ledger struct {
	mu      sync.Mutex
	records []flow.Record
	told    chan struct{} // gets a value after each
}

func newLedger() *ledger { return &ledger{told: make(chan struct{}, 1)} }

func (l *ledger) Emit(r *flow.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, *r)
	select {
	case l.told <- struct{}{}:
	default:
	}
}

func (l *ledger) find(match func(*flow.Record) bool) []flow.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []flow.Record
	for i := range l.records {
		if match(&l.records[i]) {
			found = append(found, l.records[i])
		}
	}
	return found
}

// await returns the first record of a reason whose detail or key has a text.
func (l *ledger) await(t testing.TB, reason flow.Reason, detail string) flow.Record {
	t.Helper()
	deadline := time.After(patience)
	for {
		found := l.find(func(r *flow.Record) bool { return r.Reason == reason && strings.Contains(r.Detail+" "+r.Key, detail) })
		if len(found) > 0 {
			return found[0]
		}
		select {
		case <-l.told:
		case <-deadline:
			t.Fatalf("no record %s with %q: %+v", reason, detail, l.records)
		}
	}
}

// box is a sandbox of the agent as the server sees it.
type box struct {
	*agent.Sandbox
	user atomic.Pointer[launch.User]
	done chan struct{}
}

func (b *box) Exec(ctx context.Context, command Command) (*launch.Process, error) {
	user := b.user.Load()
	c, err := command.For(launch.EnvConfig{User: *user, Sandbox: b.Name(), Proxy: "http://localhost:15128"}, user.Home)
	if err != nil {
		return nil, err
	}
	return b.Sandbox.Exec(ctx, c)
}

func (b *box) Dial(ctx context.Context, network, address string, port uint16) (net.Conn, error) {
	return b.Sandbox.Dial(ctx, launch.DialConfig{
		UID: testUID, GID: testUID, Network: network, Address: address, Port: port,
	})
}

func (b *box) Done() <-chan struct{} { return b.done }

// boxes are the sandboxes by name. One without a box is being made.
type boxes struct {
	mu      sync.Mutex
	logins  map[string]*Login
	made    map[string]*box
	changed chan struct{} // closed and made anew at each change
	asked   func()        // called when a login asks for its sandbox; may be nil
}

func newBoxes() *boxes {
	return &boxes{logins: map[string]*Login{}, made: map[string]*box{}, changed: make(chan struct{})}
}

func (b *boxes) change(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *boxes) Login(_ context.Context, name string) (*Login, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	login, ok := b.logins[name]
	if !ok {
		return nil, ErrNoSandbox
	}
	return login, nil
}

func (b *boxes) Sandbox(ctx context.Context, name string) (Sandbox, error) {
	b.mu.Lock()
	asked := b.asked
	b.mu.Unlock()
	if asked != nil {
		asked()
	}
	for {
		b.mu.Lock()
		_, known := b.logins[name]
		made, changed := b.made[name], b.changed
		b.mu.Unlock()
		switch {
		case !known:
			return nil, ErrNoSandbox
		case made != nil:
			return made, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// fixture is an agent with a server in front of it, and a client's files.
type fixture struct {
	t      testing.TB
	agent  *agent.Agent
	boxes  *boxes
	ledger *ledger
	server *Server
	addr   *net.TCPAddr
	socket string
	host   *Key
	ca     *Key
	user   *Key // who may log in to every sandbox
	dir    string
	home   string // of the user inside, and visible outside
	config string
}

// newFixture makes a server without a sandbox.
func newFixture(t testing.TB, limits Limits) *fixture {
	t.Helper()
	testenv.Require(t, "ssh", "ssh-keygen")
	f := &fixture{t: t, boxes: newBoxes(), ledger: newLedger(), dir: t.TempDir()}
	for d := f.dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o755)) // the sandbox's user goes through it
	}
	f.home = filepath.Join(f.dir, "home")
	must(t, errors.Join(os.Mkdir(f.home, 0o755), os.Chown(f.home, testUID, testUID)))
	f.host, f.ca, f.user = newKey(t), newKey(t), newKey(t)
	var err error
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	f.agent, err = agent.Start(t.Context(), agent.Config{MaxSandboxes: 8, Sink: f.ledger, Log: log})
	must(t, err)
	t.Cleanup(func() { must(t, f.agent.Close()) })
	f.server, err = New(Config{Sandboxes: f.boxes, HostKeys: []*Key{f.host}, Sink: f.ledger, Log: log, Limits: limits})
	must(t, err)
	f.serve()
	f.writeConfig()
	return f
}

func (f *fixture) serve() {
	t := f.t
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	f.addr = tcp.Addr().(*net.TCPAddr)
	f.socket = filepath.Join(f.dir, "ssh.sock")
	unix, err := net.Listen("unix", f.socket)
	must(t, err)
	var serving sync.WaitGroup
	for _, l := range []net.Listener{tcp, unix} {
		serving.Go(func() {
			if err := f.server.Serve(context.Background(), l); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f.server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		serving.Wait()
	})
}

// writeConfig writes what the client needs to know of the server.
func (f *fixture) writeConfig() {
	f.write("known_hosts", KnownHosts("127.0.0.1", uint16(f.addr.Port), f.host.Public())+"\n")
	f.write("id", string(f.user.Marshal()))
	bare := fmt.Sprintf(`Host *
	HostName 127.0.0.1
	Port %d
	IdentitiesOnly yes
	IdentityAgent none
	UserKnownHostsFile %s/known_hosts
	GlobalKnownHostsFile none
	StrictHostKeyChecking yes
	UpdateHostKeys no
	ConnectTimeout 20
	PasswordAuthentication yes
	NumberOfPasswordPrompts 1
	BatchMode yes
`, f.addr.Port, f.dir)
	f.write("bare", bare)
	f.config = f.write("config", bare+"\tIdentityFile "+f.dir+"/id\n")
}

// bare makes ssh without the key that logs in everywhere.
func (f *fixture) bare(args ...string) *exec.Cmd {
	cmd := f.command("ssh", args...)
	cmd.Args[2] = filepath.Join(f.dir, "bare")
	return cmd
}

func (f *fixture) write(name, text string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	must(f.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// login lets keys and the authority in to a sandbox that need not be there yet.
func (f *fixture) login(name string, keys ...PublicKey) {
	f.boxes.change(func() { f.boxes.logins[name] = &Login{Keys: keys, Authorities: []PublicKey{f.ca.Public()}} })
}

// sandbox makes a sandbox.
func (f *fixture) sandbox(name string) *box {
	f.t.Helper()
	f.login(name, f.user.Public())
	return f.make(name)
}

// make makes a sandbox that login has announced.
func (f *fixture) make(name string) *box {
	t := f.t
	t.Helper()
	p, _, err := policy.Load(policy.Source{Name: "test", Data: []byte("version: 1\nnetwork_policies: {}\n")})
	must(t, err)
	engine, err := policy.NewEngine(t.Context(), p, policy.Config{})
	must(t, err)
	sb, err := f.agent.CreateSandbox(t.Context(), agent.SandboxConfig{
		Name: name, Engine: engine, User: rootfs.User{UID: testUID, GID: testUID},
		Visible: []string{f.home}, Workdir: f.home,
	})
	must(t, err)
	b := &box{Sandbox: sb, done: make(chan struct{})}
	b.user.Store(&launch.User{UID: testUID, GID: testUID, Home: f.home, Shell: "/bin/bash"})
	f.boxes.change(func() { f.boxes.made[name] = b })
	return b
}

// delete ends a sandbox.
func (f *fixture) delete(name string) {
	var b *box
	f.boxes.change(func() {
		b = f.boxes.made[name]
		delete(f.boxes.made, name)
		delete(f.boxes.logins, name)
	})
	close(b.done)
	must(f.t, b.Close())
}

// result is how a client ended.
type result struct {
	out, err string
	code     int
}

// command makes a client: ssh with the fixture's configuration, or another tool.
func (f *fixture) command(name string, args ...string) *exec.Cmd {
	if name == "ssh" || name == "scp" || name == "sftp" {
		args = append([]string{"-F", f.config}, args...)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = f.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + f.dir, "TERM=dumb", "LC_ALL=C", "GIT_SSH_COMMAND=ssh -F " + f.config}
	return cmd
}

// run runs a client to its end.
func (f *fixture) run(cmd *exec.Cmd) result {
	f.t.Helper()
	var out, err bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	cmd.Stderr = &err
	must(f.t, cmd.Start())
	timer := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
	return result{out.String(), err.String(), cmd.ProcessState.ExitCode()}
}

func (f *fixture) ssh(args ...string) result {
	f.t.Helper()
	return f.run(f.command("ssh", args...))
}

// dial makes a connection of the library's client, to send what ssh never would.
func (f *fixture) dial(name string, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	if len(auth) == 0 {
		auth = []ssh.AuthMethod{ssh.PublicKeys(f.user.signer)}
	}
	return ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(f.addr.Port)), &ssh.ClientConfig{
		User: name, Auth: auth, HostKeyCallback: ssh.FixedHostKey(f.host.signer.PublicKey()), Timeout: patience,
	})
}

func (f *fixture) mustDial(name string) *ssh.Client {
	f.t.Helper()
	client, err := f.dial(name)
	must(f.t, err)
	f.t.Cleanup(func() { client.Close() })
	return client
}

func newKey(t testing.TB) *Key {
	t.Helper()
	key, err := GenerateKey("someone")
	must(t, err)
	return key
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for something that tells nobody of it.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
