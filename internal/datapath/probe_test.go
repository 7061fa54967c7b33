package datapath

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probe is the program inside the sandbox: it does each step with bare system
// calls and prints one line of what came of it.
func probe(steps []string) {
	for _, step := range steps {
		if arg, ok := strings.CutPrefix(step, "until="); ok {
			probeUntil(arg)
			continue
		}
		times, rest, ok := strings.Cut(step, "*") // TIMES*STEP prints its last outcome
		if !ok {
			times, rest = "1", step
		}
		name, arg, _ := strings.Cut(rest, "=")
		n, err := strconv.Atoi(times)
		must(err)
		var outcome string
		for range n {
			outcome = probeSteps[name](arg)
		}
		fmt.Println(outcome)
	}
	os.Exit(0)
}

var probeSteps = map[string]func(arg string) string{
	"tcp":      func(arg string) string { return probeTCP(arg, false) },
	"mapped":   func(arg string) string { return probeTCP(arg, true) },
	"udp":      probeUDPConnect,
	"sendto":   func(arg string) string { return probeSend(unix.AF_INET, arg) },
	"sendto6":  func(arg string) string { return probeSend(unix.AF_INET6, arg) },
	"bind":     probeBind,
	"socket":   probeSocket,
	"exec":     probeExec,
	"memfd":    probeMemfd,
	"unlinked": probeUnlinked,
	"spawn":    probeSpawn,
	"filtered": probeFiltered,
	"reset":    probeReset,
	"deferred": probeDeferred,
	"defer":    probeDefer,
	"line":     probeLine,
	"sleep": func(arg string) string {
		d, _ := time.ParseDuration(arg)
		time.Sleep(d)
		return "slept"
	},
}

// probeUntil does a step again and again until a file is there, and prints how often
// there was which outcome: FILE,STEP.
func probeUntil(arg string) {
	file, step, _ := strings.Cut(arg, ",")
	name, arg, _ := strings.Cut(step, "=")
	outcomes := map[string]int{}
	for {
		if _, err := os.Stat(file); err == nil {
			break
		}
		outcomes[probeSteps[name](arg)]++
		time.Sleep(2 * time.Millisecond)
	}
	for outcome, n := range outcomes {
		fmt.Printf("%d*%s\n", n, outcome)
	}
}

// probeLine waits for a line of its input.
func probeLine(string) string {
	var b [1]byte
	for b[0] != '\n' {
		if n, err := os.Stdin.Read(b[:]); n == 0 {
			return err.Error()
		}
	}
	return "line"
}

func sockaddr(ap netip.AddrPort, mapped bool) unix.Sockaddr {
	if ap.Addr().Is4() && !mapped {
		return &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
	}
	return &unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())}
}

func addrPort(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String()
	}
	return fmt.Sprintf("%T", sa)
}

func family(sa unix.Sockaddr) int {
	if _, ok := sa.(*unix.SockaddrInet4); ok {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func probeTCP(arg string, mapped bool) string {
	sa := sockaddr(netip.MustParseAddrPort(arg), mapped)
	s, err := unix.Socket(family(sa), unix.SOCK_STREAM, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(s)
	if err := unix.Connect(s, sa); err != nil {
		return err.Error()
	}
	peer, err := unix.Getpeername(s)
	if err != nil {
		return err.Error()
	}
	return "peer " + addrPort(peer)
}

func probeUDPConnect(arg string) string {
	sa := sockaddr(netip.MustParseAddrPort(arg), false)
	s, err := unix.Socket(family(sa), unix.SOCK_DGRAM, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(s)
	if err := unix.Connect(s, sa); err != nil {
		return err.Error()
	}
	peer, err := unix.Getpeername(s)
	if err != nil {
		return err.Error()
	}
	if _, err := unix.Write(s, []byte("q")); err != nil {
		return err.Error()
	}
	return "peer " + addrPort(peer) + " from " + receive(s)
}

// probeSend asks several servers from one unconnected socket.
func probeSend(domain int, arg string) string {
	s, err := unix.Socket(domain, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(s)
	var out []string
	servers := strings.Split(arg, ",")
	for _, server := range servers {
		if err := unix.Sendto(s, []byte("q"), 0, sockaddr(netip.MustParseAddrPort(server), domain == unix.AF_INET6)); err != nil {
			out = append(out, err.Error())
		}
	}
	for range len(servers) - len(out) {
		out = append(out, receive(s))
	}
	return strings.Join(out, " ")
}

func receive(s int) string {
	must(unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}))
	buf := make([]byte, 64)
	_, from, err := unix.Recvfrom(s, buf, 0)
	if err != nil {
		return err.Error()
	}
	return addrPort(from)
}

func probeBind(arg string) string {
	sa := sockaddr(netip.MustParseAddrPort(arg), false)
	s, err := unix.Socket(family(sa), unix.SOCK_STREAM, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(s)
	if err := unix.Bind(s, sa); err != nil {
		return err.Error()
	}
	return "bound"
}

func probeSocket(arg string) string {
	var domain, kind, protocol int
	fmt.Sscanf(arg, "%d,%d,%d", &domain, &kind, &protocol)
	s, err := unix.Socket(domain, kind, protocol)
	if err != nil {
		return err.Error()
	}
	unix.Close(s)
	return "made"
}

// probeSpawn runs a program to its end.
func probeSpawn(path string) string {
	if err := exec.Command(path).Run(); err != nil {
		return err.Error()
	}
	return "ran"
}

// probeExec becomes a program under a name of its own choice: FILE,ARGV0,STEP.
func probeExec(arg string) string {
	file, rest, _ := strings.Cut(arg, ",")
	name, step, _ := strings.Cut(rest, ",")
	return unix.Exec(file, []string{name, "probe", step}, os.Environ()).Error()
}

// probeFiltered becomes itself under a seccomp filter of its own, and does STEP.
func probeFiltered(step string) string {
	runtime.LockOSThread() // whose filter it is, and who execs
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	filter := unix.SockFprog{Len: 1, Filter: &allow}
	must(unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0))
	return probeExec("/proc/self/exe,probe," + step)
}

// probeMemfd becomes a copy of itself that never had a name.
func probeMemfd(step string) string {
	image, err := os.ReadFile("/proc/self/exe")
	must(err)
	fd, err := unix.MemfdCreate("x", 0)
	must(err)
	_, err = unix.Write(fd, image)
	must(err)
	return probeExec(fmt.Sprintf("/proc/self/fd/%d,x,%s", fd, step))
}

// probeUnlinked becomes a program whose name it removed just before: FILE,STEP.
func probeUnlinked(arg string) string {
	file, step, _ := strings.Cut(arg, ",")
	fd, err := unix.Open(file, unix.O_PATH, 0)
	must(err)
	must(unix.Unlink(file))
	return probeExec(fmt.Sprintf("/proc/self/fd/%d,x,%s", fd, step))
}
