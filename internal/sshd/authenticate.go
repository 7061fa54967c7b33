package sshd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// refusal is why a login is refused: for the record, never for the client.
type refusal struct{ why string }

func (r *refusal) Error() string { return r.why }

func refused(why string) error { return &refusal{why} }

// admitted is who has logged in, and what may be done.
type admitted struct {
	fingerprint string // of the key that was proven
	how         string // for a record
	terminals   bool
	forwards    bool
}

// admittedKey is where a connection's permissions have the admitted.
type admittedKey struct{}

// serverConfig is what is the same for all connections but the callbacks.
func serverConfig(limits Limits, keys []*Key) (*ssh.ServerConfig, error) {
	config := &ssh.ServerConfig{
		Config: ssh.Config{
			KeyExchanges: []string{
				ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519,
				ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384, ssh.KeyExchangeECDHP521,
			},
			Ciphers: []string{
				ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305,
				ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR,
			},
			MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
		},
		PublicKeyAuthAlgorithms: []string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
			ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
			ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512,
		},
		MaxAuthTries:  limits.Tries,
		ServerVersion: "SSH-2.0-Ringfence",
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no host key: %w", ErrBadKey)
	}
	kinds := make(map[string]bool)
	for _, key := range keys {
		kind := key.signer.PublicKey().Type()
		if kinds[kind] {
			return nil, fmt.Errorf("two host keys of type %s: %w", kind, ErrBadKey)
		}
		kinds[kind] = true
		config.AddHostKey(key.signer)
	}
	return config, nil
}

// authenticate is asked about each key that a client offers, before the client has
// proven that it holds it.
func (c *conn) authenticate(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	name := meta.User()
	c.offered = offer{user: clip(name, maxName), fingerprint: fingerprintOf(key)}
	ctx, cancel := context.WithDeadline(c.ctx, c.start.Add(c.server.limits.Grace))
	defer cancel()
	permissions, err := c.admit(ctx, name, key)
	if err != nil {
		c.offered.why = err.Error()
		return nil, errKey
	}
	return permissions, nil
}

// errKey is all that x/crypto is told, whatever the reason was: a name that no sandbox
// has is refused as a key is.
var errKey = errors.New("the key is refused")

// admit returns what the holder of a key may do in a sandbox; an error says why nothing.
func (c *conn) admit(ctx context.Context, name string, key ssh.PublicKey) (*ssh.Permissions, error) {
	if len(name) > maxName {
		return nil, refused("no sandbox has so long a name")
	}
	login, err := c.server.cfg.Sandboxes.Login(ctx, name)
	if err != nil {
		return nil, err
	}
	if certificate, ok := key.(*ssh.Certificate); ok {
		principal, authorities := name, login.Authorities
		if login.isOwn(certificate) {
			principal, authorities = login.Principal, []PublicKey{login.Own}
		}
		if err := checkCertificate(certificate, principal, authorities, time.Now()); err != nil {
			return nil, err
		}
		_, terminals := certificate.Extensions[permitPTY]
		_, forwards := certificate.Extensions[permitForwarding]
		return permit(admitted{
			fingerprint: fingerprintOf(key),
			how: fmt.Sprintf("certificate %q, serial %d, by %s", clip(certificate.KeyId, maxName), certificate.Serial,
				ssh.FingerprintSHA256(certificate.SignatureKey)),
			terminals: terminals, forwards: forwards,
		}, certificate.CriticalOptions), nil
	}
	if err := usable(key); err != nil {
		return nil, err
	}
	text := string(key.Marshal())
	for _, k := range login.Keys {
		if k.key != nil && string(k.key.Marshal()) == text {
			return permit(admitted{
				fingerprint: fingerprintOf(key), how: fmt.Sprintf("key %q", clip(k.Comment, maxName)),
				terminals: true, forwards: true,
			}, nil), nil
		}
	}
	return nil, refused("the key is none of the sandbox's")
}

// isOwn reports whether a certificate says that it is by the authority whose certificates
// are for one sandbox and not for a name. Whether it is, its signature tells.
func (l *Login) isOwn(certificate *ssh.Certificate) bool {
	return l.Own.key != nil && l.Principal != "" && string(certificate.SignatureKey.Marshal()) == string(l.Own.key.Marshal())
}

// permit makes permissions. Of the critical options only source-address is left here,
// which x/crypto holds against the client's address.
func permit(who admitted, critical map[string]string) *ssh.Permissions {
	return &ssh.Permissions{CriticalOptions: critical, ExtraData: map[any]any{admittedKey{}: who}}
}

// proven is asked when the client has proven that it holds a key.
func (c *conn) proven(_ ssh.ConnMetadata, key ssh.PublicKey, permissions *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	c.key = key
	return permissions, nil
}

// tried is told of each attempt: those that are no key are answered by x/crypto, and
// refused.
func (c *conn) tried(meta ssh.ConnMetadata, method string, err error) {
	if err == nil {
		return
	}
	c.tries++
	switch {
	case method == "none" && c.offered.user == "": // how clients ask what there is
		c.offered = offer{user: clip(meta.User(), maxName), why: "no key was offered"}
	case method == "none":
	case method != "publickey":
		c.offered.why = fmt.Sprintf("logins by %q are not taken", clip(method, 64))
	case c.offered.why == "":
		c.offered.why = err.Error() // such as a source that a certificate does not allow
	}
}

// fingerprintOf returns the fingerprint of a key, or of the key in a certificate.
func fingerprintOf(key ssh.PublicKey) string {
	if certificate, ok := key.(*ssh.Certificate); ok {
		key = certificate.Key
	}
	return ssh.FingerprintSHA256(key)
}
