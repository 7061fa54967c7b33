package sshd

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Bounds of what a sandbox's authorized keys may be.
const (
	MaxAuthorizedKeys     = 256
	MaxAuthorizedKeysText = 128 << 10
	minRSABits            = 2048
	maxRSABits            = 16384
)

// Key is a private key: a host's, a certificate authority's or a user's.
type Key struct {
	signer ssh.Signer
	pem    []byte
}

// GenerateKey makes an ed25519 key. The comment goes into its text.
func GenerateKey(comment string) (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return ParseKey(pem.EncodeToMemory(block))
}

// ParseKey reads a private key without a passphrase, in OpenSSH's form or PEM.
func ParseKey(text []byte) (*Key, error) {
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		// Never what the text is: it may be half of a key.
		return nil, fmt.Errorf("read private key: %w: %w", ErrBadKey, err)
	}
	if err := usable(signer.PublicKey()); err != nil {
		return nil, err
	}
	if rsaSigner, ok := signer.(ssh.AlgorithmSigner); ok && signer.PublicKey().Type() == ssh.KeyAlgoRSA {
		signer, err = ssh.NewSignerWithAlgorithms(rsaSigner, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
		if err != nil {
			return nil, fmt.Errorf("read private key: %w: %w", ErrBadKey, err)
		}
	}
	return &Key{signer: signer, pem: bytes.Clone(text)}, nil
}

// Marshal returns the key's text, which is a secret.
func (k *Key) Marshal() []byte { return bytes.Clone(k.pem) }

// Public returns the key's public part.
func (k *Key) Public() PublicKey { return PublicKey{key: k.signer.PublicKey()} }

// PublicKey is a public key, and the comment that it came with.
type PublicKey struct {
	key     ssh.PublicKey
	Comment string
}

// ParsePublicKey reads one public key, as a line of a .pub file has it.
func ParsePublicKey(line string) (PublicKey, error) {
	keys, err := ParseAuthorizedKeys([]byte(line))
	if err != nil {
		return PublicKey{}, err
	}
	if len(keys) != 1 {
		return PublicKey{}, fmt.Errorf("%d public keys where there must be one: %w", len(keys), ErrBadKey)
	}
	return keys[0], nil
}

// ParseAuthorizedKeys reads public keys, one a line, in the form of an authorized_keys
// file. Options (from=, command= …) are refused by name: one that was passed over
// would let in whom it keeps out. So are weak keys, and text that is no key.
func ParseAuthorizedKeys(text []byte) ([]PublicKey, error) {
	if len(text) > MaxAuthorizedKeysText {
		return nil, fmt.Errorf("authorized keys of %d bytes, more than %d: %w", len(text), MaxAuthorizedKeysText, ErrBadKey)
	}
	var keys []PublicKey
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("authorized keys, line %d: %w", number, err)
		}
		if keys = append(keys, key); len(keys) > MaxAuthorizedKeys {
			return nil, fmt.Errorf("more than %d authorized keys: %w", MaxAuthorizedKeys, ErrBadKey)
		}
	}
	return keys, nil
}

func parseLine(line []byte) (PublicKey, error) {
	// By itself it would pass over what it does not understand, and take a later line.
	key, comment, options, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	if len(options) > 0 {
		name, _, _ := strings.Cut(options[0], "=")
		return PublicKey{}, fmt.Errorf("option %q is not known: %w", name, ErrBadKey)
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return PublicKey{}, fmt.Errorf("a certificate is no key: %w", ErrBadKey)
	}
	if err := usable(key); err != nil {
		return PublicKey{}, err
	}
	return PublicKey{key: key, Comment: comment}, nil
}

// usable refuses kinds of keys that no login may be with.
func usable(key ssh.PublicKey) error {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return nil
	case ssh.KeyAlgoRSA:
		holder, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			break
		}
		public, ok := holder.CryptoPublicKey().(*rsa.PublicKey)
		if !ok {
			break
		}
		if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("an RSA key of %d bits, which must have %d to %d: %w", bits, minRSABits, maxRSABits, ErrBadKey)
		}
		return nil
	}
	return fmt.Errorf("keys of type %q are not taken: %w", key.Type(), ErrBadKey)
}

// String returns the key as a line of a .pub file, without the newline.
func (p PublicKey) String() string {
	if p.key == nil {
		return ""
	}
	line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(p.key)), "\n")
	if p.Comment != "" {
		line += " " + p.Comment
	}
	return line
}

// Fingerprint returns the key's SHA-256 fingerprint, as ssh-keygen -l shows it.
func (p PublicKey) Fingerprint() string {
	if p.key == nil {
		return ""
	}
	return ssh.FingerprintSHA256(p.key)
}

// KnownHosts returns the line of a known_hosts file by which ssh knows a server at
// host and port again. The host is a name or an address, or the HostKeyAlias of
// ssh's configuration, where the port is 0.
func KnownHosts(host string, port uint16, key PublicKey) string {
	address := host
	if port != 0 {
		address = net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	return knownhosts.Line([]string{address}, key.key)
}
