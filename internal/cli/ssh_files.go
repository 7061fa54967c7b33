package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/sshd"
)

// hostKeyAlias is the name under which ssh knows the agent's host keys, wherever the
// agent listens.
const hostKeyAlias = "ringfence"

// maxKeyFile bounds a private key of ours.
const maxKeyFile = 16 << 10

// hostOf is what a sandbox is called in ssh's configuration.
func hostOf(name string) string { return name + ".ringfence" }

// sshFiles are the files of a directory by which ssh gets into one sandbox: a key, the
// certificate of it, and the agent's host keys. Each is replaced as a whole: several
// ssh may begin at once.
type sshFiles struct{ dir string }

func (f sshFiles) key() string         { return filepath.Join(f.dir, "key") }
func (f sshFiles) certificate() string { return filepath.Join(f.dir, "key-cert.pub") } // where ssh looks for it
func (f sshFiles) knownHosts() string  { return filepath.Join(f.dir, "known_hosts") }

// refresh has the key signed anew, and makes one where there is none. The key stays,
// so that a certificate always fits it.
func (f sshFiles) refresh(ctx context.Context, c *api.Client, name string) (*ringfencev1.IssueCertificateResponse, error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, err
	}
	key, err := f.readKey()
	if errors.Is(err, fs.ErrNotExist) {
		key, err = f.makeKey()
	}
	if err != nil {
		return nil, err
	}
	signed, err := c.Sandboxes.IssueCertificate(ctx, &ringfencev1.IssueCertificateRequest{
		Sandbox: name, PublicKey: key.Public().String(),
	})
	if err != nil {
		return nil, err
	}
	known, err := knownHosts(signed.GetHostKeys())
	if err != nil {
		return nil, err
	}
	if err := replaceFile(f.knownHosts(), known); err != nil {
		return nil, err
	}
	return signed, replaceFile(f.certificate(), strings.TrimSpace(signed.GetCertificate())+"\n")
}

func (f sshFiles) readKey() (*sshd.Key, error) {
	text, err := readBounded(f.key(), maxKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := sshd.ParseKey(text)
	if err != nil {
		return nil, hint(fmt.Errorf("%s: %w", f.key(), err), "remove it: another is made")
	}
	return key, nil
}

// makeKey makes the key. Where another ssh did at the same time, that one counts.
func (f sshFiles) makeKey() (*sshd.Key, error) {
	key, err := sshd.GenerateKey("ringfence")
	if err != nil {
		return nil, err
	}
	temporary, err := writeTemporary(f.key(), string(key.Marshal()))
	if err != nil {
		return nil, err
	}
	defer os.Remove(temporary)
	if err := os.Link(temporary, f.key()); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return f.readKey()
}

// knownHosts is a known_hosts file with the agent's host keys and nothing else.
func knownHosts(keys []string) (string, error) {
	var b strings.Builder
	for _, line := range keys {
		key, err := sshd.ParsePublicKey(line)
		if err != nil {
			return "", fmt.Errorf("read the agent's host key: %w", err)
		}
		b.WriteString(sshd.KnownHosts(hostKeyAlias, 0, key) + "\n")
	}
	if b.Len() == 0 {
		return "", errors.New("the agent has no SSH host key")
	}
	return b.String(), nil
}

// writeTemporary writes a file beside path that only we may read.
func writeTemporary(path, text string) (string, error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

func replaceFile(path, text string) error {
	temporary, err := writeTemporary(path, text)
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return nil
}

// sshOption is one option of ssh_config(5).
type sshOption struct{ name, value string }

// options are ssh's for the sandbox: in by this key alone, to this host key alone.
func (f sshFiles) options(name, proxy string) []sshOption {
	return []sshOption{
		{"User", name},
		{"ProxyCommand", proxy},
		{"HostKeyAlias", hostKeyAlias},
		{"UserKnownHostsFile", sshPath(f.knownHosts())},
		{"GlobalKnownHostsFile", "none"},
		{"StrictHostKeyChecking", "yes"},
		{"UpdateHostKeys", "no"},
		{"IdentityFile", sshPath(f.key())},
		{"IdentitiesOnly", "yes"},
		{"PreferredAuthentications", "publickey"},
		{"ForwardAgent", "no"},
		{"ForwardX11", "no"},
		{"Ciphers", "^aes128-gcm@openssh.com"}, // the agent has it from the processor, unlike chacha20
	}
}

// sshPath is a path as a value of ssh's configuration.
func sshPath(path string) string { return `"` + strings.ReplaceAll(path, "%", "%%") + `"` }

// proxyCommand is the command line by which ssh reaches a socket: this program.
func proxyCommand(words ...string) (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return commandLine(append([]string{program, "ssh-proxy"}, words...)), nil
}

// commandLine quotes words for a shell, and for ssh, which replaces tokens before.
func commandLine(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = word
		if word == "" || strings.ContainsFunc(word, isSpecial) {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.ReplaceAll(strings.Join(quoted, " "), "%", "%%")
}

// isSpecial reports whether a character might mean something to some shell.
func isSpecial(r rune) bool {
	plain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !plain && !strings.ContainsRune("/._-+:@", r)
}
