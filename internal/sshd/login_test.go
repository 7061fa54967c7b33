package sshd

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ringfence/ringfence/internal/flow"
)

// keygen makes a key by ssh-keygen, and returns its path.
func (f *fixture) keygen(name string, args ...string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	args = append([]string{"-q", "-N", "", "-f", path}, args...)
	if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
	return path
}

func (f *fixture) public(path string) PublicKey {
	f.t.Helper()
	text, err := os.ReadFile(path + ".pub")
	must(f.t, err)
	key, err := ParsePublicKey(string(text))
	must(f.t, err)
	return key
}

// Keys of every kind that ssh-keygen makes and that are taken log in, by the system's ssh.
func TestKeysOfEveryKind(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	for name, args := range map[string][]string{
		"ed25519": {"-t", "ed25519"}, "ecdsa256": {"-t", "ecdsa"}, "ecdsa521": {"-t", "ecdsa", "-b", "521"}, "rsa": {"-t", "rsa", "-b", "2048"},
	} {
		t.Run(name, func(t *testing.T) {
			path := f.keygen(name, args...)
			f.login("alpha", f.public(path))
			if r := f.ssh("-i", path, "alpha@node", "echo in"); r.out != "in\n" {
				t.Errorf("%+v", r)
			}
			fingerprint := f.public(path).Fingerprint()
			r := f.ledger.await(t, flow.ReasonSSHLogin, fingerprint)
			if r.Sandbox != "alpha" || r.Source != "127.0.0.1" {
				t.Errorf("%+v", r)
			}
			out, err := exec.Command("ssh-keygen", "-lf", path+".pub").Output()
			if err != nil || !strings.Contains(string(out), fingerprint) {
				t.Errorf("ssh-keygen shows %q, not %s: %v", out, fingerprint, err)
			}
		})
	}
}

// certificate signs a key by ssh-keygen with what a test wants in it.
func (f *fixture) certificate(authority, key string, args ...string) {
	f.t.Helper()
	args = append([]string{"-q", "-s", authority, "-I", "who"}, args...)
	if out, err := exec.Command("ssh-keygen", append(args, key+".pub")...).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
}

func TestCertificates(t *testing.T) {
	f := newFixture(t, Limits{Failures: 1000})
	f.login("alpha")
	f.login("beta")
	f.make("alpha")
	f.make("beta")
	ca, other := f.write("ca", string(f.ca.Marshal())), f.keygen("other-ca", "-t", "ed25519")
	f.keygen("rsa-ca", "-t", "rsa", "-b", "2048")
	for _, test := range []struct {
		name string
		by   string
		args []string
		why  string // of the refusal; empty where it lets in
	}{
		{"valid", ca, []string{"-n", "alpha"}, ""},
		{"of several", ca, []string{"-n", "beta,alpha"}, ""},
		{"this source", ca, []string{"-n", "alpha", "-O", "source-address=127.0.0.0/8"}, ""},
		{"another source", ca, []string{"-n", "alpha", "-O", "source-address=192.0.2.0/24"}, "source-address"},
		{"another sandbox", ca, []string{"-n", "beta"}, "principal"},
		{"no principal", ca, nil, "principal"},
		{"foreign authority", other, []string{"-n", "alpha"}, "authority that is not known"},
		{"expired", ca, []string{"-n", "alpha", "-V", "-2h:-1h"}, "expired"},
		{"not yet valid", ca, []string{"-n", "alpha", "-V", "+1h:+2h"}, "not yet valid"},
		{"a host's", ca, []string{"-h", "-n", "alpha"}, "not a user's"},
		{"forced command", ca, []string{"-n", "alpha", "-O", "force-command=id"}, "critical option"},
		{"unknown option", ca, []string{"-n", "alpha", "-O", "critical:x@example.com=1"}, "critical option"},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := strings.ReplaceAll(test.name, " ", "-")
			key := f.keygen(name, "-t", "ed25519")
			f.certificate(test.by, key, test.args...)
			fingerprint := f.public(key).Fingerprint()
			r := f.ssh("-i", key, "alpha@node", "echo in")
			if test.why == "" {
				if r.out != "in\n" {
					t.Fatalf("%+v", r)
				}
				if record := f.ledger.await(t, flow.ReasonSSHLogin, fingerprint); !strings.Contains(record.Detail, `certificate "who"`) {
					t.Errorf("%+v", record)
				}
				return
			}
			if r.code != 255 || r.out != "" || !strings.Contains(r.err, "Permission denied") {
				t.Fatalf("%+v", r)
			}
			// ssh offers the bare key after the certificate: that is refused too, and is what
			// the record would tell. The certificate's own refusal is looked at directly.
			line, err := os.ReadFile(key + "-cert.pub")
			must(t, err)
			parsed, _, _, _, err := ssh.ParseAuthorizedKey(line)
			must(t, err)
			c := newConn(f.server, f.pipe(), source{})
			_, err = c.admit(t.Context(), "alpha", parsed)
			if test.why == "source-address" {
				must(t, err) // x/crypto holds it against the address
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.why) {
				t.Errorf("refused because %v", err)
			}
		})
	}
	t.Run("without extensions", func(t *testing.T) {
		key := f.keygen("cleared", "-t", "ed25519")
		f.certificate(ca, key, "-n", "alpha", "-O", "clear")
		if r := f.ssh("-i", key, "alpha@node", "echo in"); r.out != "in\n" {
			t.Errorf("%+v", r)
		}
		if r := f.ssh("-i", key, "-tt", "alpha@node", "tty"); !strings.Contains(r.err, "PTY allocation request failed") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("issued here", func(t *testing.T) {
		key := newKey(t)
		line, err := IssueCertificate(f.ca, key.Public(), CertificateRequest{Sandbox: "alpha", KeyID: "me"})
		must(t, err)
		path := f.write("issued", string(key.Marshal()))
		f.write("issued-cert.pub", line+"\n")
		if r := f.ssh("-i", path, "-tt", "alpha@node", "tty"); !strings.HasPrefix(r.out, "/dev/pts/") {
			t.Errorf("%+v", r)
		}
		if r := f.ssh("-i", path, "beta@node", "echo in"); r.code != 255 {
			t.Errorf("%+v", r)
		}
		f.ledger.await(t, flow.ReasonSSHLogin, `certificate "me"`)
	})
}

// pipe returns a connection to nobody.
func (f *fixture) pipe() net.Conn {
	a, b := net.Pipe()
	f.t.Cleanup(func() { a.Close(); b.Close() })
	return a
}

// What is refused looks the same from outside, whatever the reason, and is told apart
// in the records.
func TestRefusedLogins(t *testing.T) {
	f := newFixture(t, Limits{Failures: 1000})
	f.sandbox("alpha")
	f.login("beta", newKey(t).Public())
	stranger := f.keygen("stranger", "-t", "ed25519")
	weakKey, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	weak, err := ssh.NewSignerFromKey(weakKey)
	must(t, err)
	for _, test := range []struct{ name, user, identity, why string }{
		{"another key", "alpha", stranger, "none of the sandbox's"},
		{"a key of another sandbox", "beta", filepath.Join(f.dir, "id"), "none of the sandbox's"},
		{"no such sandbox", "gamma", filepath.Join(f.dir, "id"), ErrNoSandbox.Error()},
		{"root", "root", filepath.Join(f.dir, "id"), ErrNoSandbox.Error()},
		{"long name", strings.Repeat("a", 300), filepath.Join(f.dir, "id"), "so long a name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := f.run(f.bare("-l", test.user, "-i", test.identity, "node", "echo in"))
			if r.code != 255 || !strings.Contains(r.err, "Permission denied (publickey).") {
				t.Errorf("%+v", r)
			}
			record := f.ledger.await(t, flow.ReasonSSHRefused, test.why)
			if record.Verdict.Passes() || record.Source != "127.0.0.1" || !strings.HasPrefix(record.Key, "SHA256:") {
				t.Errorf("%+v", record)
			}
		})
	}
	t.Run("password", func(t *testing.T) {
		if _, err := f.dial("alpha", ssh.Password("alpha")); err == nil {
			t.Error("a password logs in")
		}
		r := f.run(f.bare("-o", "PreferredAuthentications=password,none", "-l", "alpha", "node"))
		if r.code != 255 || !strings.Contains(r.err, "Permission denied (publickey).") {
			t.Errorf("%+v", r)
		}
		f.ledger.await(t, flow.ReasonSSHRefused, "no key was offered")
	})
	t.Run("hostile name", func(t *testing.T) {
		if _, err := f.dial("x\x1b[31m\n\xff"); err == nil {
			t.Error("logs in")
		}
		until(t, "a record with the name as it was sent", func() bool {
			return len(f.ledger.find(func(r *flow.Record) bool { return r.User == "x\x1b[31m\n\xff" })) == 1
		})
	})
	t.Run("keyboard-interactive", func(t *testing.T) {
		_, err := f.dial("alpha", ssh.KeyboardInteractive(func(_, _ string, q []string, _ []bool) ([]string, error) {
			return make([]string, len(q)), nil
		}))
		if err == nil {
			t.Error("answers log in")
		}
	})
	t.Run("nothing", func(t *testing.T) {
		if _, err := f.dial("alpha", ssh.PublicKeys()); err == nil {
			t.Error("nothing logs in")
		}
	})
	t.Run("weak key that is listed", func(t *testing.T) {
		f.boxes.change(func() {
			f.boxes.logins["alpha"] = &Login{Keys: []PublicKey{f.user.Public(), {key: weak.PublicKey()}}}
		})
		if _, err := f.dial("alpha", ssh.PublicKeys(weak)); err == nil {
			t.Error("an RSA key of 1024 bits logs in")
		}
		f.ledger.await(t, flow.ReasonSSHRefused, "1024 bits")
	})
	t.Run("SHA-1", func(t *testing.T) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		must(t, err)
		signer, err := ssh.NewSignerFromKey(key)
		must(t, err)
		f.login("alpha", PublicKey{key: signer.PublicKey()}, f.user.Public())
		old, err := ssh.NewSignerWithAlgorithms(signer.(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSA})
		must(t, err)
		if _, err := f.dial("alpha", ssh.PublicKeys(old)); err == nil {
			t.Error("a signature with SHA-1 logs in")
		}
		if _, err := f.dial("alpha", ssh.PublicKeys(signer)); err != nil {
			t.Errorf("one with SHA-2 does not: %v", err)
		}
	})
}

// Old algorithms find no common one.
func TestOldAlgorithms(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	for _, option := range []string{
		"KexAlgorithms=diffie-hellman-group14-sha1", "KexAlgorithms=diffie-hellman-group14-sha256",
		"Ciphers=aes128-cbc", "Ciphers=3des-cbc", "HostKeyAlgorithms=ssh-rsa",
	} {
		if r := f.ssh("-o", option, "alpha@node", "true"); r.code != 255 || !strings.Contains(r.err, "no matching") {
			t.Errorf("%s: %+v", option, r)
		}
	}
	for _, option := range []string{"KexAlgorithms=curve25519-sha256", "KexAlgorithms=ecdh-sha2-nistp521", "Ciphers=aes256-ctr", "Ciphers=aes256-gcm@openssh.com", "Ciphers=chacha20-poly1305@openssh.com"} {
		if r := f.ssh("-o", option, "alpha@node", "echo in"); r.out != "in\n" {
			t.Errorf("%s: %+v", option, r)
		}
	}
	if r := f.ssh("-o", "Ciphers=aes256-ctr", "-o", "MACs=hmac-sha1", "alpha@node", "true"); r.code != 255 {
		t.Errorf("%+v", r)
	}
}

// Logins while the sandbox is being made get no session before it is there, and then
// get one.
func TestNoSessionBeforeTheFence(t *testing.T) {
	f := newFixture(t, Limits{})
	f.login("alpha", f.user.Public())
	var early sync.Map
	var logins sync.WaitGroup
	ready := make(chan struct{})
	for i := range 12 {
		logins.Go(func() {
			client, err := f.dial("alpha")
			if err != nil {
				t.Error(err)
				return
			}
			defer client.Close()
			session, err := client.NewSession()
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case <-ready:
			default:
				early.Store(i, true)
			}
			// The network namespace is the sandbox's: it has a loopback only.
			out, err := session.Output("cat /proc/net/dev | tail -n +3 | cut -d: -f1")
			if err != nil || strings.TrimSpace(string(out)) != "lo" {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
	until(t, "logins", func() bool { return f.server.Stats().Conns == 12 && f.server.Stats().Handshakes == 0 })
	if n := f.server.Stats().Logins; n != 0 {
		t.Errorf("%d are in before the sandbox is there", n)
	}
	close(ready) // before make: a channel may be opened from its end on
	f.make("alpha")
	logins.Wait()
	early.Range(func(i, _ any) bool {
		t.Errorf("login %v had a session before the sandbox was there", i)
		return true
	})
}

// A sandbox that does not come, or goes meanwhile, is told of.
func TestSandboxThatDoesNotCome(t *testing.T) {
	f := newFixture(t, Limits{Ready: 300 * time.Millisecond})
	f.login("alpha", f.user.Public())
	start := time.Now()
	r := f.ssh("alpha@node", "echo in")
	if r.code != 255 || r.out != "" || !strings.Contains(r.err, "not ready") || time.Since(start) > patience {
		t.Errorf("%+v", r)
	}
	f.ledger.await(t, flow.ReasonSSHRefused, context.DeadlineExceeded.Error())
}

// The sandbox of a name becomes another's while a login waits for it.
func TestSandboxReplacedDuringLogin(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	f.boxes.change(func() {
		f.boxes.asked = func() { f.login("alpha", newKey(t).Public()) }
	})
	if r := f.ssh("alpha@node", "echo in"); r.out != "" || r.code != 255 {
		t.Errorf("who could log in to the one of before is in the new one: %+v", r)
	}
}

// The Unix socket serves like the port, and certificates for addresses do not count there.
func TestUnixSocket(t *testing.T) {
	f := newFixture(t, Limits{})
	f.sandbox("alpha")
	conn, err := net.Dial("unix", f.socket)
	must(t, err)
	config := func(signer ssh.Signer) *ssh.ClientConfig {
		return &ssh.ClientConfig{User: "alpha", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(f.host.signer.PublicKey())}
	}
	sc, chans, reqs, err := ssh.NewClientConn(conn, "", config(f.user.signer))
	must(t, err)
	client := ssh.NewClient(sc, chans, reqs)
	defer client.Close()
	session, err := client.NewSession()
	must(t, err)
	if out, err := session.Output("echo in"); string(out) != "in\n" {
		t.Errorf("%q, %v", out, err)
	}
	if r := f.ledger.await(t, flow.ReasonSSHLogin, ""); r.Source != fmt.Sprintf("uid %d", os.Getuid()) || r.UID != uint32(os.Getuid()) {
		t.Errorf("%+v", r)
	}

	key := newKey(t)
	line, err := IssueCertificate(f.ca, key.Public(), CertificateRequest{Sandbox: "alpha", Sources: []string{"0.0.0.0/0", "::/0"}})
	must(t, err)
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	must(t, err)
	signer, err := ssh.NewCertSigner(parsed.(*ssh.Certificate), key.signer)
	must(t, err)
	if conn, err = net.Dial("unix", f.socket); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, _, _, err := ssh.NewClientConn(conn, "", config(signer)); err == nil {
		t.Error("a certificate for addresses lets in where there is none")
	}
	if _, err := f.dial("alpha", ssh.PublicKeys(signer)); err != nil {
		t.Errorf("it does not at the port: %v", err)
	}
}

func TestKeyText(t *testing.T) {
	key := newKey(t)
	again, err := ParseKey(key.Marshal())
	must(t, err)
	if again.Public().String() != key.Public().String() {
		t.Error("a key is another after it was written and read")
	}
	good := key.Public().String()
	keys, err := ParseAuthorizedKeys([]byte("# people\n\n" + good + " a b c\r\n" + good))
	must(t, err)
	if len(keys) != 2 || keys[0].Comment != "a b c" {
		t.Errorf("%+v", keys)
	}
	for name, text := range map[string]string{
		"option":      `command="id" ` + good,
		"from":        `from="192.0.2.1" ` + good,
		"authority":   "cert-authority " + good,
		"not a key":   "ssh-ed25519 AAAA",
		"one bad":     good + "\nnonsense\n",
		"private":     string(key.Marshal()),
		"too much":    strings.Repeat("#\n", MaxAuthorizedKeysText),
		"DSA":         "ssh-dss AAAAB3NzaC1kc3MAAACBAJ",
		"certificate": mustIssue(t, key),
	} {
		if keys, err := ParseAuthorizedKeys([]byte(text)); !errors.Is(err, ErrBadKey) {
			t.Errorf("%s: %v, %v", name, keys, err)
		}
	}
	if _, err := ParsePublicKey(good + "\n" + good); !errors.Is(err, ErrBadKey) {
		t.Errorf("two keys are one: %v", err)
	}
	if _, err := ParseKey([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n")); !errors.Is(err, ErrBadKey) || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

func mustIssue(t *testing.T, key *Key) string {
	t.Helper()
	line, err := IssueCertificate(key, key.Public(), CertificateRequest{Sandbox: "x"})
	must(t, err)
	return line
}
