package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// FuzzReply sends any message as a child would, with one descriptor, through a real
// socket: it is a reply of one reading or an error, and no descriptor stays open.
func FuzzReply(f *testing.F) {
	for _, r := range []reply{
		{},
		{Fault: &fault{Step: "drop", Text: []byte("operation not permitted"), Errno: unix.EPERM, Hint: "do", Code: ExitRingfence}},
		{Warnings: []string{"a", "b\u202e"}, Refused: "/etc"},
	} {
		text, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, message []byte) {
		ours, theirs, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		defer theirs.Close()
		if len(message) > maxReply {
			message = message[:maxReply]
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		err = unix.Sendmsg(int(theirs.Fd()), message, unix.UnixRights(int(w.Fd())), nil, 0)
		if err != nil || w.Close() != nil {
			t.Fatal(err)
		}
		got, files, err := receiveAny(ours)
		switch {
		case err == nil:
			if got == nil || got.Fault != nil || len(files) != 1 {
				t.Errorf("%q: %+v with %d files", message, got, len(files))
			}
			var again reply
			if text, err := json.Marshal(got); err != nil || json.Unmarshal(text, &again) != nil || !cmp.Equal(got, &again, cmpopts.EquateEmpty()) {
				t.Errorf("%+v reads as %+v", got, again)
			}
		case got != nil || files != nil:
			t.Errorf("%q: %+v, %d files and %v", message, got, len(files), err)
		case errors.Is(err, io.EOF) && len(message) > 0:
			t.Errorf("%q is the end", message)
		}
		if step := (*StepError)(nil); errors.As(err, &step) && step.Err == nil {
			t.Errorf("%q is a fault without an error", message)
		}
		closeAll(files)
		if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("the descriptor that came with %q is still open: %v", message, err)
		}
	})
}

// FuzzFault: an error of the child comes to the agent whatever bytes are in it, cut
// where it is long, and its errno and exit status with it.
func FuzzFault(f *testing.F) {
	f.Add("start", "no such file", "mend it", uint8(ExitNotFound), uint16(unix.ENOENT))
	f.Add("find /tmp/\xff\n", "\x00\x1b]0;x\a", "", uint8(ExitNotExec), uint16(0))
	f.Add("", strings.Repeat("\x00", maxReply), "", uint8(0), uint16(unix.EPERM))
	f.Add("", strings.Repeat("\u20ac", maxReply), "", uint8(0), uint16(unix.EPERM))
	f.Fuzz(func(t *testing.T, step, text, hint string, code uint8, errno uint16) {
		if len(step)+len(hint) > maxReply/12 {
			return // both are ours, but for a path of at most 4096 bytes
		}
		sent := faultOf(&StepError{Step: step, Err: &remoteError{text, syscall.Errno(errno)}, Hint: hint, Code: int(code)})
		line, err := json.Marshal(reply{Fault: sent})
		if err != nil || len(line) > maxReply {
			t.Fatalf("%d bytes, %v", len(line), err)
		}
		var came reply
		if err := json.Unmarshal(line, &came); err != nil || came.Fault == nil {
			t.Fatalf("%s: %v", line, err)
		}
		err = came.Fault.stepError()
		var back *StepError
		if !errors.As(err, &back) || back.Code != int(code) || back.Step != strings.ToValidUTF8(step, "\ufffd") && utf8.ValidString(step) {
			t.Fatalf("%+v came as %+v", sent, back)
		}
		if errno != 0 && !errors.Is(err, syscall.Errno(errno)) {
			t.Errorf("errno %d came as %v", errno, err)
		}
		got := back.Err.Error()
		if cut, long := strings.CutSuffix(got, " …"); got != text && (!long || !strings.HasPrefix(text, cut) || len(cut) < 2000) {
			t.Errorf("text %.100q came as %.100q", text, got)
		}
		if utf8.ValidString(text) && !utf8.ValidString(got) {
			t.Errorf("a text of %d bytes was cut within a character", len(text))
		}
	})
}

// FuzzOrder: a command's strings are bytes, and come as they were.
func FuzzOrder(f *testing.F) {
	f.Add("/bin/echo", "caf\u00e9 \xff\x1b[31m\n", "V=\x80", "/tmp/\xff")
	f.Add("sh", "", "=", "/")
	f.Add("a\x00", "", "", "relative")
	f.Fuzz(func(t *testing.T, program, arg, env, dir string) {
		c := &Command{Argv: []string{program, arg}, Env: []string{env}, Dir: dir, UID: testUID}
		order, err := c.order()
		bad := program == "" || !strings.HasPrefix(dir, "/") || strings.Contains(program+arg+env+dir, "\x00")
		if bad != (err != nil) || err != nil && !errors.Is(err, ErrBadCommand) {
			t.Fatalf("%+v: %v", c, err)
		}
		if err != nil {
			return
		}
		memory, err := orderFile(order)
		if err != nil {
			t.Fatal(err)
		}
		defer memory.Close()
		text, err := io.ReadAll(io.NewSectionReader(memory, 0, maxOrder))
		if err != nil {
			t.Fatal(err)
		}
		var got execOrder
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if diff := cmp.Diff(c.Argv, textStrings(got.Argv)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(c.Env, textStrings(got.Env)); diff != "" {
			t.Error(diff)
		}
		if string(got.Dir) != dir || got.UID != testUID {
			t.Errorf("%+v", got)
		}
	})
}

// FuzzRights: no control message is more than the descriptors in it.
func FuzzRights(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(unix.UnixRights())
	f.Add(unix.UnixRights(3, 4, 5))
	f.Add(append(unix.UnixRights(3), unix.UnixRights(4)...))
	f.Add(unix.UnixCredentials(&unix.Ucred{Pid: 1}))
	f.Add(unix.UnixRights(1)[:unix.CmsgLen(0)])
	f.Fuzz(func(t *testing.T, oob []byte) {
		fds, _ := rights(oob) // with an error too there may be some, which are the caller's to close
		if 4*len(fds) > len(oob) {
			t.Fatalf("%d descriptors in %d bytes", len(fds), len(oob))
		}
	})
}

// FuzzPasswdShell: the shell is the last field of a line of seven, as os/user reads
// it, and never another user's.
func FuzzPasswdShell(f *testing.F) {
	const file = "root:x:0:0:root:/root:/bin/bash\nu:x:1000:1000::/home/u:/bin/zsh\n"
	f.Add([]byte(file), "u")
	f.Add([]byte(file), "x")
	f.Add([]byte(file), "")
	f.Add([]byte(file), "root:x")
	f.Add([]byte("u:x:1:1:a:b\nu:x:1:1::/:/bin/sh:more\n#u:x:1:1::/:/bin/no\nu:x:1:1::/:/bin/yes"), "u")
	f.Add([]byte("u:x:1:1::/:/first\nu:x:1:1::/:/second\r\n"), "u")
	f.Add([]byte("+::::::\n:x:1:1::/:/bin/empty\n"), "")
	f.Add([]byte(strings.Repeat("l", 70_000)+"\nu:x:1:1::/:/bin/far\n"), "u")
	f.Fuzz(func(t *testing.T, file []byte, name string) {
		got := passwdShell(bytes.NewReader(file), name)
		if got == "" {
			return
		}
		if strings.ContainsAny(name, ":\n") || strings.ContainsAny(got, ":\n") {
			t.Errorf("user %q has the shell %q", name, got)
		}
		for line := range strings.Lines(string(file)) {
			fields := strings.Split(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), ":")
			if len(fields) != 7 || fields[0] != name {
				continue
			}
			if fields[6] != got {
				t.Errorf("user %q has the shell %q, the first line says %q", name, got, fields[6])
			}
			return
		}
		t.Errorf("user %q is in no line, and has the shell %q", name, got)
	})
}

// FuzzRewriteHosts: of any nsswitch.conf, one hosts line is left, at the end, where the
// C library takes it for the last word; the rest is as it was.
func FuzzRewriteHosts(f *testing.F) {
	for _, s := range []string{"", "hosts: files resolve\n", "passwd: files\n  hosts:mdns\npasswd", "hosts files\n", "#hosts: x\r\nhosts:\n\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		const last = "hosts: files dns\n"
		got := rewriteHosts(text)
		rest, found := strings.CutSuffix(got, last)
		if !found || rest != "" && !strings.HasSuffix(rest, "\n") {
			t.Fatalf("%q became %q", text, got)
		}
		for line := range strings.Lines(rest) {
			if strings.HasPrefix(strings.TrimSpace(line), "hosts:") || !strings.Contains(text, strings.TrimSuffix(line, "\n")) {
				t.Errorf("line %q of %q", line, text)
			}
		}
		if again := rewriteHosts(got); again != got {
			t.Errorf("%q became %q, which becomes %q", text, got, again)
		}
	})
}
