package datapath

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence/ringfence/internal/flow"
)

// The hooks write records whose paths and scripts a sandbox chose. A lost count, a
// stale slot or another version of the hooks must give no more than a wrong text:
// never a read beyond the record.

// kernelBytes are the bytes of a value as a map or a ring buffer has them.
func kernelBytes[T any](value *T) []byte {
	return bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(value)), int(unsafe.Sizeof(*value))))
}

// fromKernel is a value of any bytes: missing ones are zero, further ones are left
// out.
func fromKernel[T any](raw []byte) *T {
	value := new(T)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(value)), int(unsafe.Sizeof(*value))), raw)
	return value
}

// execSeed is a record with these lengths, whose path is as long as it can be.
func execSeed(path string, pathLen uint16, ancestors uint16, scriptLen uint32) []byte {
	r := agentExecRecord{
		Id: agentExecId{Tgid: 7, Time: 1}, Uid: 1000, Gid: 100, PathLen: pathLen, AncestorsLen: ancestors, ScriptLen: scriptLen,
		Taints: uint32(flow.TaintScript),
	}
	copy(r.Path[:], path)
	for i := range r.Ancestors {
		r.Ancestors[i] = agentExecId{Tgid: uint32(i + 1), Time: uint64(i + 2)}
	}
	for i := range r.Script {
		r.Script[i] = 's'
	}
	return kernelBytes(&r)
}

func FuzzExecRecord(f *testing.F) {
	f.Add(execSeed("/usr/bin/curl", 13, 2, 0), []byte(nil))
	f.Add(execSeed("/tmp/\x1b[31m\xff\n\x00", 12, 0, 5), []byte(nil))
	f.Add(execSeed(strings.Repeat("/inline", 40), uint16(pathInline), 16, 127), []byte(nil))
	f.Add(execSeed("", uint16(pathInline)+1, 0, 0), []byte("/long/ld-linux-x86-64.so.2"))
	f.Add(execSeed("", uint16(pathMax), 0, 0), []byte(strings.Repeat("/d", pathMax/2)))
	f.Add(execSeed("", uint16(pathMax)+1, 17, 129), []byte(nil))
	f.Add(execSeed("/x", 0xffff, 0xffff, 0xffffffff), []byte(nil))
	unknown := agentExecRecord{Taints: ^uint32(0), Preload: ^uint64(0)}
	f.Add(kernelBytes(&unknown), []byte(nil))
	f.Fuzz(func(t *testing.T, raw, longPath []byte) {
		r := fromKernel[agentExecRecord](raw)
		n := int(r.PathLen)
		var long agentLongPath
		if len(longPath) <= pathMax {
			copy(long.Bytes[pathMax-len(longPath):], longPath)
		}
		path, err := r.path(func() (*agentLongPath, error) { return &long, nil })
		if (n > pathMax) != (err != nil) || err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatalf("a path of %d bytes: %q, %v", n, path, err)
		}
		switch {
		case err != nil:
		case len(path) != n:
			t.Fatalf("%d bytes of a path of %d", len(path), n)
		case n <= pathInline && path != string(r.Path[:n]):
			t.Fatalf("path %q of %q", path, r.Path)
		case n > pathInline && !bytes.HasSuffix(long.Bytes[:], []byte(path)):
			t.Fatalf("path %q is no end of the long one", path)
		}
		id := execID(r.Id)
		exec := execOf(id, r, path)
		want := flow.Exec{
			Image: flow.Image{Exec: id, Path: path, File: fileID(r.File), Preload: flow.Variables(r.Preload),
				Taints: flow.Taint(r.Taints), Script: exec.Script},
			UID: r.Uid, GID: r.Gid, Ancestors: exec.Ancestors,
		}
		if flow.IsLoader(path) {
			want.Taints |= flow.TaintLoader
		}
		if diff := cmp.Diff(want, exec); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if len(exec.Ancestors) != min(int(r.AncestorsLen), flow.MaxAncestors) {
			t.Errorf("%d ancestors of %d", len(exec.Ancestors), r.AncestorsLen)
		}
		for i, a := range exec.Ancestors {
			if kernelExecID(a) != (agentExecId{Tgid: r.Ancestors[i].Tgid, Time: r.Ancestors[i].Time}) {
				t.Errorf("ancestor %d is %v, the record has %+v", i, a, r.Ancestors[i])
			}
		}
		if len(exec.Script) > len(r.Script) || !strings.HasPrefix(string(r.Script[:]), exec.Script) {
			t.Errorf("script %q of %q", exec.Script, r.Script)
		}
		// What this build does not know is no reason to trust the image.
		if len(exec.Taints.Names()) == 0 && exec.Taints != 0 {
			t.Errorf("taints %#x have no names", exec.Taints)
		}
	})
}

func FuzzRejection(f *testing.F) {
	mapped := kernelAddress(netip.MustParseAddr("192.0.2.1"))
	seed := func(change func(*agentRejection)) []byte {
		r := agentRejection{
			Sandbox: 1, Exec: agentExecId{Tgid: 7, Time: 1}, Destination: mapped, Count: 3, Pid: 7, Uid: 1000,
			Reason: agentRejectREJECT_UDP, Port: 443, HasDestination: 1,
		}
		change(&r)
		return kernelBytes(&r)
	}
	f.Add(seed(func(*agentRejection) {}))
	f.Add(seed(func(r *agentRejection) { r.HasDestination = 0 }))
	f.Add(seed(func(r *agentRejection) { r.Destination = kernelAddress(netip.MustParseAddr("2001:db8::1")) }))
	f.Add(seed(func(r *agentRejection) { r.Reason = agentRejectREJECT_NONE }))
	f.Add(seed(func(r *agentRejection) { r.Reason = agentRejectREJECT_MAX }))
	f.Add(seed(func(r *agentRejection) { r.Reason = ^agentReject(0) }))
	f.Add(seed(func(*agentRejection) {})[1:])
	f.Add(append(seed(func(*agentRejection) {}), "another version"...))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, sampled []byte) {
		raw := sample[agentRejection](sampled)
		if short := len(sampled) < int(unsafe.Sizeof(agentRejection{})); (raw == nil) != short {
			t.Fatalf("%d bytes: %+v", len(sampled), raw)
		}
		if raw == nil {
			return
		}
		if !bytes.HasPrefix(sampled, kernelBytes(raw)) {
			t.Fatalf("%x reads as %+v", sampled, raw)
		}
		r := rejection(raw)
		// What is told says what the hook said, whichever way round.
		want := flow.Rejection{
			Exec: flow.ExecID{TGID: raw.Exec.Tgid, Time: raw.Exec.Time}, PID: raw.Pid, UID: raw.Uid,
			Reason: r.Reason, Count: raw.Count, Destination: r.Destination,
		}
		if diff := cmp.Diff(want, r, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if r.Reason == "" || (r.Reason == "unknown") != (raw.Reason == agentRejectREJECT_NONE || raw.Reason >= agentRejectREJECT_MAX) {
			t.Errorf("reason %d is told as %q", raw.Reason, r.Reason)
		}
		checkDestination(t, r.Destination, raw.HasDestination != 0, raw.Destination, raw.Port)
	})
}

func FuzzOrigin(f *testing.F) {
	for _, to := range []string{"192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "::", "::192.0.2.1", "::ffff:0:0"} {
		f.Add(kernelBytes(&agentSockOrigin{
			Exec: agentExecId{Tgid: 7, Time: 1}, Destination: kernelAddress(netip.MustParseAddr(to)), Sandbox: 1, Uid: 1000, Port: 443,
		}))
	}
	f.Add(kernelBytes(&agentSockOrigin{Proxy: 0xff, Port: 0xffff, Uid: ^uint32(0)}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		sock := fromKernel[agentSockOrigin](raw)
		origin := originOf(sock)
		if origin.Exec != execID(sock.Exec) || origin.UID != sock.Uid || origin.Proxy != (sock.Proxy != 0) {
			t.Errorf("%+v of %+v", origin, sock)
		}
		checkDestination(t, origin.Destination, true, sock.Destination, sock.Port)
		// It is judged in one form, and by it the kernel's own bytes are found again.
		target := flow.AddrTarget(origin.Destination)
		if target.Addr != origin.Destination.Addr() || target.Host != origin.Destination.Addr().String() {
			t.Errorf("%v is judged as %+v", origin.Destination, target)
		}
	})
}

// checkDestination: a destination is there exactly where the hook gave one, is in
// the one form of an address, and has the kernel's bytes.
func checkDestination(t *testing.T, got netip.AddrPort, given bool, words agentAddress, port uint16) {
	t.Helper()
	switch {
	case got.Addr().IsValid() != given:
		t.Errorf("destination %v, given: %v", got, given)
	case !given:
	case got.Addr().Is4In6() || got.Addr().Zone() != "" || got.Port() != port || kernelAddress(got.Addr()) != words:
		t.Errorf("destination %v of %+v, port %d", got, words, port)
	}
}
