package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

// Ports of the world's servers. All of them want a line of storm first.
const (
	portJudge = 9000 // answers every line
	portPump  = 9001 // sends without end
	portSink  = 9002 // reads, and says nothing; half of its connections it ends early
	portSlow  = 9003 // answers the first line late, and half-closes
)

// world is an internet that knows who may talk to whom, and judges every byte that
// arrives by it. Each slot stands for one sandbox at a time and has two hosts: its
// own, which its policy always allows, and one that its policy opens and shuts.
// Nobody is allowed deniedName, nor the hosts of another slot.
type world struct {
	*fixture
	storm string // the program that policies name

	mu     sync.Mutex
	hosts  map[netip.Addr]worldHost
	runs   map[string]*worldRun // by tag
	lines  int                  // that were judged
	faults []string             // the first few
}

type worldHost struct {
	slot int
	flip bool
}

// worldRun is what is known of one run of ringfence.
type worldRun struct {
	slot int
	shut time.Time // since when the second host is certainly shut; zero: it may be open
	died time.Time // when its agent was gone; zero: it may live
}

const maxFaults = 20

func newWorld(t testing.TB, slots int) *world {
	t.Helper()
	w := &world{fixture: newFixture(t), hosts: map[netip.Addr]worldHost{}, runs: map[string]*worldRun{}}
	w.storm = w.tool("storm")
	for slot := range slots {
		for _, flip := range []bool{false, true} {
			addr := netip.MustParseAddr(hostAddr(slot, flip))
			w.hosts[addr] = worldHost{slot, flip}
			w.env.Zone(hostName(slot, flip), addr)
		}
	}
	w.serve(portJudge, w.judge)
	w.serve(portPump, pump)
	w.serve(portSink, sink)
	w.serve(portSlow, slow)
	return w
}

// serve has a first line heard of each connection, before handle has its turn.
func (w *world) serve(port int, handle func(conn net.Conn, reader *bufio.Reader, line string)) {
	w.t.Helper()
	err := w.env.Serve(port, func(conn net.Conn) {
		reader := bufio.NewReader(conn)
		if line := w.hear(conn, reader); line != "" {
			handle(conn, reader, line)
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func hostName(slot int, flip bool) string {
	if flip {
		return fmt.Sprintf("flip%d.test", slot)
	}
	return fmt.Sprintf("own%d.test", slot)
}

func hostAddr(slot int, flip bool) string {
	if flip {
		return fmt.Sprintf("203.0.113.%d", 100+slot)
	}
	return fmt.Sprintf("203.0.113.%d", 10+slot)
}

// policyOf returns the network policies of a slot. Every version is another text.
func (w *world) policyOf(slot, version int, open bool) string {
	v := strconv.Itoa(version)
	text := allowBlock("own_"+v, hostName(slot, false), []int{portJudge, portPump, portSink, portSlow}, w.storm)
	if open {
		text += allowBlock("flip_"+v, hostName(slot, true), []int{portJudge}, w.storm)
	}
	return text
}

// begin registers a run under its tag.
func (w *world) begin(tag string, slot int) *worldRun {
	w.mu.Lock()
	defer w.mu.Unlock()
	run := &worldRun{slot: slot}
	w.runs[tag] = run
	return run
}

// set changes what is known of a run.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// hear reads a line of storm and judges it; "" where no whole line arrives any more.
func (w *world) hear(conn net.Conn, reader *bufio.Reader) string {
	line, err := reader.ReadString('\n')
	if err != nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines++
	if fault := w.faultOf(conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), line); fault != "" {
		w.fault(fmt.Sprintf("%v: %q: %s", conn.LocalAddr(), line, fault))
	}
	return line
}

// faultOf returns why a line may not have arrived. The caller holds mu.
//
// What is known is of the moment when the line is read, which is after it arrived:
// so a line that was written in a state which still lasts, arrived in that state.
func (w *world) faultOf(to netip.Addr, line string) string {
	var tag string
	var began, wrote int64
	if _, err := fmt.Sscanf(line, "%s %d %d\n", &tag, &began, &wrote); err != nil {
		return "no line of storm: " + err.Error()
	}
	host, known := w.hosts[to]
	run := w.runs[tag]
	at := time.Unix(0, wrote)
	switch {
	case !known:
		return "a denied host"
	case run == nil:
		return "of no run"
	case run.slot != host.slot:
		return fmt.Sprintf("slot %d at a host of slot %d", run.slot, host.slot)
	case !run.died.IsZero() && at.After(run.died):
		return fmt.Sprintf("written %v after the agent's end", at.Sub(run.died))
	case host.flip && !run.shut.IsZero() && at.After(run.shut):
		return fmt.Sprintf("written %v after the host was shut", at.Sub(run.shut))
	}
	return ""
}

// fault notes what may not be. The caller holds mu.
func (w *world) fault(text string) {
	if len(w.faults) < maxFaults {
		w.faults = append(w.faults, text)
	}
}

// judge answers line by line.
func (w *world) judge(conn net.Conn, reader *bufio.Reader, line string) {
	for ; line != ""; line = w.hear(conn, reader) {
		if _, err := io.WriteString(conn, line); err != nil {
			return
		}
	}
}

// pump sends until the other side has enough.
func pump(conn net.Conn, _ *bufio.Reader, _ string) {
	buf := make([]byte, 64<<10)
	for {
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

// sink reads all, or leaves after a while.
func sink(conn net.Conn, reader *bufio.Reader, _ string) {
	if conn.RemoteAddr().(*net.TCPAddr).Port%2 == 0 {
		_, _ = io.CopyN(io.Discard, reader, 64<<10)
		return
	}
	_, _ = io.Copy(io.Discard, reader)
}

// slow keeps its client waiting, says a little, and then nothing more.
func slow(conn net.Conn, reader *bufio.Reader, _ string) {
	time.Sleep(200 * time.Millisecond)
	if _, err := io.WriteString(conn, "late\n"); err == nil {
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, reader)
	}
}

// check fails the test for all that arrived and was not allowed, and returns how
// much was looked at.
func (w *world) check(t testing.TB) (flows int) {
	t.Helper()
	arrived, err := w.env.TakeFlows()
	if err != nil {
		t.Errorf("read witness: %v", err)
	}
	for _, flow := range arrived {
		if !w.expects(flow) {
			t.Errorf("arrived in the internet: %v, %q", flow, flow.Payload)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, fault := range w.faults {
		t.Errorf("arrived at %s", fault)
	}
	w.faults = nil
	return len(arrived)
}

// expects reports whether some policy, at some time, allows a flow; and the agent's
// own questions, with what its kernel says of late answers.
func (w *world) expects(flow testenv.Flow) bool {
	to := flow.Destination
	if to.Addr() == w.env.Resolver().Addr() {
		return flow.Protocol == unix.IPPROTO_UDP || flow.Protocol == unix.IPPROTO_ICMP
	}
	host, known := w.hosts[to.Addr()]
	return known && flow.Protocol == unix.IPPROTO_TCP &&
		(to.Port() == portJudge || !host.flip && to.Port() > portJudge && to.Port() <= portSlow)
}

// deeds are arguments of storm for a slot: what it may do and what it may not.
func deeds(slot int) []string {
	own, flip := hostName(slot, false), hostName(slot, true)
	other := hostName(slot^1, false)
	at := func(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
	return []string{
		"talk=" + at(own, portJudge), "talk=" + at(flip, portJudge),
		"pull=" + at(own, portPump), "push=" + at(own, portSink), "push=" + at(own, portSlow),
		"denied=" + at(deniedName, portJudge), "denied=" + at(other, portJudge),
		"denied=" + at(deniedIPv4, portJudge), "denied=" + at(hostAddr(slot, false), portJudge),
		"burst=" + at(deniedIPv4, portJudge), "udp=" + at(deniedIPv4, portJudge),
		"names=" + own, "exec=" + at(own, portSink),
	}
}

// leaks returns what storm says that it may not have done.
func leaks(counts map[string]int) []string {
	var found []string
	for what, n := range counts {
		if strings.Contains(what, "LEAK") {
			found = append(found, fmt.Sprintf("%d times %s", n, what))
		}
	}
	return found
}
