package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sockaddr returns a target that is an IPv4 address and a port.
func sockaddr(target string) *unix.SockaddrInet4 {
	addr, err := netip.ParseAddrPort(target)
	if err != nil {
		fmt.Fprintln(os.Stderr, "storm:", err)
		os.Exit(2)
	}
	return &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}
}

// connect starts a connection and does not wait for it.
func connect(to *unix.SockaddrInet4) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	err = unix.Connect(fd, to)
	if err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// burst starts some connections at once, and drops them at once.
func (s *storm) burst(target string, random *rand.Rand) string {
	var open []int
	var failed error
	to := sockaddr(target)
	for range random.IntN(64) {
		fd, err := connect(to)
		if err != nil {
			failed = err
			break
		}
		open = append(open, fd)
	}
	time.Sleep(time.Duration(random.IntN(3)) * time.Millisecond)
	for _, fd := range open {
		_ = unix.Close(fd)
	}
	time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond)
	if failed != nil {
		return s.gentle("stopped", failed)
	}
	return "ok"
}

// flood starts n connections, keeps all that it can, tells how many there are, and
// drops them when it is told to go on.
func (s *storm) flood(name, target string, n int, _ *rand.Rand) {
	to := sockaddr(target)
	var open []int
	for range n {
		fd, err := connect(to)
		if err != nil {
			s.count(name, err.Error())
			continue
		}
		s.count(name, "started")
		open = append(open, fd)
	}
	fmt.Println("flooded")
	_, _ = os.Stdin.Read(make([]byte, 1))
	for _, fd := range open {
		_ = unix.Close(fd)
	}
}

// udp sends a datagram, which must be refused.
func (s *storm) udp(target string, _ *rand.Rand) string {
	if err := datagrams(target, 1, func() bool { return true })[0]; err != nil {
		return s.gentle("refused", err)
	}
	return "LEAK"
}

// hail sends datagrams that must be refused, as fast as it can.
func (s *storm) hail(name, target string, _ int, _ *rand.Rand) {
	counts := map[string]int{}
	for !s.over() {
		for _, err := range datagrams(target, 1024, s.over) {
			outcome := "LEAK"
			if err != nil {
				outcome = err.Error()
			}
			counts[outcome]++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for outcome, n := range counts {
		s.counts[name+" "+outcome] += n
	}
}

// datagrams sends up to n, one at least, from one socket, and returns what came of
// each.
func datagrams(target string, n int, enough func() bool) []error {
	to := sockaddr(target)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return []error{err}
	}
	defer unix.Close(fd)
	var outcomes []error
	for len(outcomes) == 0 || len(outcomes) < n && !enough() {
		outcomes = append(outcomes, unix.Sendto(fd, []byte("out"), 0, to))
	}
	return outcomes
}

// forks lets each process start two more like itself, as long as there may be more
// processes of its user than there are, and for the time that is left.
func (s *storm) forks(name, limit string, _ int, random *rand.Rand) {
	var most uint64
	if _, err := fmt.Sscan(limit, &most); err != nil {
		fmt.Fprintln(os.Stderr, "storm:", err)
		os.Exit(2)
	}
	if err := syscall.Setrlimit(unix.RLIMIT_NPROC, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
		s.count(name, err.Error())
	}
	const bomb = `b() { b | b & }; b`
	for !s.over() {
		// The shell ends and what it left goes on; where it could not fork, another one
		// begins.
		_ = exec.Command("/bin/sh", "-c", bomb).Run()
		s.count(name, "bombs")
		time.Sleep(time.Duration(random.IntN(10)) * time.Millisecond)
	}
}
