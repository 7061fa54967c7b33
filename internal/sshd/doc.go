// Package sshd is the SSH server of an agent: one for all of its sandboxes, where
// the user name chooses the sandbox.
//
// It speaks the protocol and nothing else: who may log in (Login), what a sandbox
// is (Sandbox) and how a command starts in it are asked for by interfaces. Nothing
// that a client sends starts, dials or opens anything here in the agent: a command, a
// file transfer and the far end of a forwarding are processes and sockets of the
// sandbox's, inside its fence. A connection gets no session before its sandbox says
// that the fence stands.
//
// What may be done is listed; all else is refused: other ways to log in than keys,
// other channels than sessions and forwards into the sandbox, other variables than
// those of the list.
//
// golang.org/x/crypto/ssh is imported nowhere else, and its types do not leave: keys
// come and go as Key and PublicKey, or as text.
package sshd
