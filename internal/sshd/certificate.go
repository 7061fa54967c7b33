package sshd

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// DefaultValidity is how long a certificate lets its holder log in: long enough for a
// slow start, and useless to who finds it later. A session outlives it.
const DefaultValidity = 5 * time.Minute

// clockSkew is how much later than the issuer's a server's clock may be.
const clockSkew = time.Minute

// Extensions of certificates that are heeded here.
const (
	permitPTY        = "permit-pty"
	permitForwarding = "permit-port-forwarding"
	sourceAddress    = "source-address"
)

// CertificateRequest says what a certificate is for.
type CertificateRequest struct {
	Sandbox  string        // whom it lets in to: a name, or a Login's Principal
	KeyID    string        // who it is, for the records
	Validity time.Duration // 0 is DefaultValidity
	// Sources are the addresses or networks from which it may be used; none are all,
	// and the Unix socket is none.
	Sources []string
}

// IssueCertificate makes a user certificate for a key, as a line of a -cert.pub file.
func IssueCertificate(authority *Key, key PublicKey, request CertificateRequest) (string, error) {
	if key.key == nil || request.Sandbox == "" {
		return "", fmt.Errorf("issue certificate: it needs a key and a sandbox: %w", ErrBadKey)
	}
	if request.Validity <= 0 {
		request.Validity = DefaultValidity
	}
	var serial [8]byte
	if _, err := rand.Read(serial[:]); err != nil {
		return "", fmt.Errorf("issue certificate: %w", err)
	}
	now := time.Now()
	certificate := &ssh.Certificate{
		Key:             key.key,
		Serial:          binary.BigEndian.Uint64(serial[:]),
		CertType:        ssh.UserCert,
		KeyId:           request.KeyID,
		ValidPrincipals: []string{request.Sandbox},
		ValidAfter:      uint64(now.Add(-clockSkew).Unix()),
		ValidBefore:     uint64(now.Add(request.Validity).Unix()),
		Permissions: ssh.Permissions{
			Extensions: map[string]string{permitPTY: "", permitForwarding: ""},
		},
	}
	if len(request.Sources) > 0 {
		certificate.CriticalOptions = map[string]string{sourceAddress: strings.Join(request.Sources, ",")}
	}
	if err := certificate.SignCert(rand.Reader, authority.signer); err != nil {
		return "", fmt.Errorf("issue certificate: %w", err)
	}
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(certificate)), "\n"), nil
}

// checkCertificate returns why a certificate does not let its holder in to a sandbox;
// nil where it does, from a source that its permissions allow: those the caller hands
// to x/crypto, which knows the source.
func checkCertificate(certificate *ssh.Certificate, sandbox string, authorities []PublicKey, now time.Time) error {
	if certificate.CertType != ssh.UserCert {
		return refused("the certificate is not a user's")
	}
	authority := certificate.SignatureKey.Marshal()
	if !slices.ContainsFunc(authorities, func(a PublicKey) bool { return a.key != nil && string(a.key.Marshal()) == string(authority) }) {
		return refused("the certificate is by an authority that is not known")
	}
	for _, key := range []ssh.PublicKey{certificate.Key, certificate.SignatureKey} {
		if err := usable(key); err != nil {
			return refused(err.Error())
		}
	}
	if certificate.Signature.Format == ssh.KeyAlgoRSA {
		return refused("the certificate is signed with SHA-1")
	}
	checker := ssh.CertChecker{
		SupportedCriticalOptions: []string{sourceAddress},
		Clock:                    func() time.Time { return now },
	}
	if err := checker.CheckCert(sandbox, certificate); err != nil {
		return refused(strings.TrimPrefix(err.Error(), "ssh: "))
	}
	return nil
}
