package launch

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzTransfer: what a process of the sandbox says of a file is one of two things that
// were done to an absolute path, or an error; and what is told comes as it was sent.
func FuzzTransfer(f *testing.F) {
	for _, r := range []transferReport{
		{Op: TransferRead, Path: []byte("/caf\u00e9 \xff\n"), Bytes: 1<<64 - 1},
		{Op: TransferWrite, Path: []byte("/a"), Cut: true},
		{Op: "delete", Path: []byte("/a")},
		{Op: TransferRead, Path: []byte("relative")},
		{Op: TransferRead, Path: bytes.Repeat([]byte("/"), maxTransferPath+1)},
	} {
		text, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(nil))
	f.Add([]byte(`{"op":"read","path":"Lw==","bytes":-1}`))
	f.Add([]byte(`{"op":"read","path":"Lw==","bytes":1e30}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		got, err := parseTransfer(message)
		if err != nil {
			if !errors.Is(err, errBadTransfer) || got != (Transfer{}) {
				t.Errorf("%q: %+v, %v", message, got, err)
			}
			return
		}
		if got.Op != TransferRead && got.Op != TransferWrite || !path.IsAbs(got.Path) || len(got.Path) > maxTransferPath || got.Last {
			t.Errorf("%q: %+v", message, got)
		}
		text, err := json.Marshal(transferReport{Op: got.Op, Path: []byte(got.Path), Bytes: got.Bytes, Cut: got.Cut})
		if err != nil || len(text) > 2*maxTransferPath {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
		if again, err := parseTransfer(text); err != nil || again != got {
			t.Errorf("%+v came as %+v, %v", got, again, err)
		}
	})
}

// FuzzSession feeds any bytes as both sides of a session, in pieces of any size: it is
// bounded, tells of no more files than were opened, and of the same however it is cut.
func FuzzSession(f *testing.F) {
	requests := bytes.Join([][]byte{
		packet(sftpOpen, 1, "/a \xff", uint32(sftpForWriting), uint32(0)), packet(sftpWrite, 2, "7", uint64(0), "data"),
		packet(sftpRead, 3, "7", uint64(0), uint32(9)), packet(sftpClose, 4, "7"), packet(sftpOpen, 5, "b", uint32(1), uint32(0)),
	}, nil)
	responses := bytes.Join([][]byte{
		packet(sftpHandle, 1, "7"), packet(sftpStatus, 2, uint32(0), "", ""), packet(sftpData, 3, "nine char"),
		packet(sftpStatus, 4, uint32(0), "", ""), packet(sftpHandle, 5, "8"),
	}, nil)
	f.Add(requests, responses, uint8(1))
	f.Add(requests, responses, uint8(200))
	f.Add(responses, requests, uint8(3))
	f.Add([]byte("\xff\xff\xff\xff\x03"), []byte("\x00\x00\x00\x00\x00\x00\x00\x01\x66"), uint8(2))
	f.Fuzz(func(t *testing.T, requests, responses []byte, size uint8) {
		whole := watch(t, requests, responses, len(requests)+len(responses)+1)
		pieces := watch(t, requests, responses, int(size)+1)
		if diff := cmp.Diff(whole, pieces); diff != "" {
			t.Errorf("cut into %d bytes (-whole +cut):\n%s", int(size)+1, diff)
		}
		if most := 2 * len(requests) / 17; len(whole) > most { // the shortest open
			t.Errorf("%d files were told of at most %d", len(whole), most)
		}
	})
}

// watch returns how often each transfer was told.
func watch(t *testing.T, requests, responses []byte, size int) map[Transfer]int {
	all := map[Transfer]int{}
	w := newTransfers("/home", func(told Transfer) {
		all[told]++
		if !path.IsAbs(told.Path) || len(told.Path) > len("/home/")+maxHead {
			t.Errorf("path %q", told.Path)
		}
	})
	feed := func(p *packets, b []byte) {
		for len(b) > 0 {
			n := min(size, len(b))
			p.feed(b[:n])
			b = b[n:]
			if len(p.head) > maxHead {
				t.Fatalf("%d bytes of a packet are held", len(p.head))
			}
		}
	}
	feed(&w.requests, requests)
	feed(&w.responses, responses)
	if len(w.pending) > maxWatched || len(w.files) > maxWatched {
		t.Errorf("%d requests and %d files are watched", len(w.pending), len(w.files))
	}
	w.end()
	return all
}

// packet makes a packet of SFTP: a string is one with its length.
func packet(kind byte, id uint32, values ...any) []byte {
	body := binary.BigEndian.AppendUint32([]byte{kind}, id)
	for _, v := range values {
		switch v := v.(type) {
		case uint32:
			body = binary.BigEndian.AppendUint32(body, v)
		case uint64:
			body = binary.BigEndian.AppendUint64(body, v)
		case string:
			body = append(binary.BigEndian.AppendUint32(body, uint32(len(v))), v...)
		}
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestTransfersOfASession(t *testing.T) {
	ok := func(id uint32) []byte { return packet(sftpStatus, id, uint32(0), "", "") }
	failed := func(id uint32) []byte { return packet(sftpStatus, id, uint32(4), "no", "") }
	var told []Transfer
	w := newTransfers("/home", func(t Transfer) { told = append(told, t) })
	for _, step := range []struct{ request, response []byte }{
		{packet(1, 3), packet(2, 3)}, // init, version
		{packet(sftpOpen, 1, "/both", uint32(3), uint32(0)), packet(sftpHandle, 1, "a")},
		{packet(sftpWrite, 2, "a", uint64(0), "four"), ok(2)},
		{packet(sftpWrite, 2, "a", uint64(4), "more, but the disk is full"), failed(2)},
		{packet(sftpRead, 3, "a", uint64(0), uint32(100)), packet(sftpData, 3, "four")},
		{packet(sftpRead, 3, "a", uint64(4), uint32(100)), failed(3)}, // the end of the file
		{packet(sftpOpen, 1, "/refused", uint32(1), uint32(0)), failed(1)},
		{packet(11, 4, "/directory"), packet(sftpHandle, 4, "b")}, // opendir
		{packet(sftpRead, 5, "unknown", uint64(0), uint32(1)), packet(sftpData, 5, "x")},
		{packet(sftpClose, 6, "b"), ok(6)},
		{packet(sftpOpen, 7, "empty", uint32(1), uint32(0)), packet(sftpHandle, 7, "c")},
		{packet(sftpClose, 8, "c"), ok(8)},
		{packet(sftpClose, 9, "a"), ok(9)},
		{packet(sftpClose, 10, "a"), failed(10)},
	} {
		w.requests.feed(step.request)
		w.responses.feed(step.response)
	}
	w.end()
	want := []Transfer{
		{Op: TransferRead, Path: "/home/empty"},
		{Op: TransferWrite, Path: "/both", Bytes: 4},
		{Op: TransferRead, Path: "/both", Bytes: 4},
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(w.pending) != 0 || len(w.files) != 0 {
		t.Errorf("left: %v, %v", w.pending, w.files)
	}
}

// messages are read one by one, as from a socket that keeps their bounds.
type messages struct{ left [][]byte }

func (m *messages) Read(p []byte) (int, error) {
	if len(m.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.left[0])
	m.left = m.left[1:]
	return n, nil
}

func TestReportsAreBounded(t *testing.T) {
	report := []byte(`{"op":"read","path":"L2E=","bytes":1}`)
	count := func(all ...[]byte) (told int, last bool) {
		readTransfers(&messages{all}, func(t Transfer) { told, last = told+1, t.Last })
		return told, last
	}
	if told, last := count(report, report); told != 2 || last {
		t.Errorf("%d, %v", told, last)
	}
	if told, _ := count(report, []byte("hello"), report); told != 1 {
		t.Errorf("%d after something else", told)
	}
	var many [][]byte
	for range MaxTransfers + 5 {
		many = append(many, report)
	}
	if told, last := count(many...); told != MaxTransfers || !last {
		t.Errorf("%d, %v", told, last)
	}
}

// FuzzDialTarget: whatever is asked for, only the loopback, no listener's port and no
// abstract socket is dialled.
func FuzzDialTarget(f *testing.F) {
	f.Add("tcp", "localhost", uint16(80))
	f.Add("tcp", "::ffff:192.0.2.1", uint16(80))
	f.Add("tcp", "fd52:696e:67fe:1::1", uint16(15001))
	f.Add("tcp", "127.0.0.1%lo", uint16(1))
	f.Add("unix", "/tmp/x", uint16(0))
	f.Add("unix", "@x\x00", uint16(0))
	f.Fuzz(func(t *testing.T, network, address string, port uint16) {
		config := dialConfig(network, address, port)
		order, err := config.order()
		if err != nil {
			if !errors.Is(err, ErrNotOwn) {
				t.Error(err)
			}
			return
		}
		if (network == "tcp") != (len(order.Targets) > 0) || (network == "unix") != (len(order.Path) > 0) {
			t.Fatalf("%+v", order)
		}
		for _, target := range order.Targets {
			loopback := netip.MustParsePrefix("127.0.0.0/8").Contains(target.Addr()) || target.Addr() == netip.IPv6Loopback()
			if !loopback || target.Port() != port || port == 0 || port == 53 || port == 15001 || port == 15053 || port == 15128 {
				t.Errorf("%q leads to %s", address, target)
			}
		}
		if p := string(order.Path); p != "" && (p != address || p[0] != '/' || strings.Contains(p, "\x00") || len(p) > 107) {
			t.Errorf("path %q", p)
		}
		// On its way nothing changes.
		text, err := json.Marshal(order)
		var came dialOrder
		if err != nil || json.Unmarshal(text, &came) != nil || came.check() != nil || string(came.Path) != string(order.Path) || len(came.Targets) != len(order.Targets) {
			t.Errorf("%+v came as %+v, %v", order, came, err)
		}
	})
}
