package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// How long a conversation may take: one that must succeed, and any other.
const (
	patience   = 5 * time.Second
	impatience = 2 * time.Second
)

// dial connects by IPv4, as one address is enough for what is asked here.
func dial(target string, patience time.Duration) (*net.TCPConn, error) {
	conn, err := net.DialTimeout("tcp4", target, patience)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn), nil
}

// line is what is written: who, and when.
func (s *storm) line(began time.Time) string {
	return fmt.Sprintf("%s %d %d\n", s.tag, began.UnixNano(), time.Now().UnixNano())
}

// say writes a line and wants it back.
func (s *storm) say(conn net.Conn, answers *bufio.Reader, began time.Time) error {
	text := s.line(began)
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	got, err := answers.ReadString('\n')
	if err == nil && got != text {
		return fmt.Errorf("said %q, heard %q", text, got)
	}
	return err
}

// talk has a conversation of up to half a second.
func (s *storm) talk(target string, random *rand.Rand) string {
	began := time.Now()
	conn, err := dial(target, impatience)
	if err != nil {
		return s.gentle("no connect", err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	end := began.Add(time.Duration(random.IntN(500)) * time.Millisecond)
	for {
		if err := s.say(conn, answers, began); err != nil {
			return s.gentle("cut", err)
		}
		if s.over() || !time.Now().Before(end) {
			return "ok"
		}
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
	}
}

// gentle names an error, and waits a little, so that what fails at once is not all
// that there is done.
func (s *storm) gentle(what string, err error) string {
	time.Sleep(time.Millisecond)
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return what + ": " + errno.Error()
	}
	if errors.Is(err, io.EOF) {
		return what + ": EOF"
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return what + ": timeout"
	}
	if lookup := (*net.DNSError)(nil); errors.As(err, &lookup) {
		return what + ": no address"
	}
	return what + ": " + err.Error()
}

// denied wants no answer: one is a leak.
func (s *storm) denied(target string, _ *rand.Rand) string {
	began := time.Now()
	conn, err := dial(target, impatience)
	if err != nil {
		return s.gentle("refused", err)
	}
	defer conn.Close()
	if err = s.say(conn, bufio.NewReader(conn), began); err != nil {
		return s.gentle("refused", err)
	}
	return "LEAK"
}

// begin connects and says who it is; without a connection, it returns what came of it.
func (s *storm) begin(target string) (*net.TCPConn, string) {
	conn, err := dial(target, impatience)
	if err != nil {
		return nil, s.gentle("no connect", err)
	}
	if _, err := io.WriteString(conn, s.line(time.Now())); err != nil {
		conn.Close()
		return nil, s.gentle("cut", err)
	}
	return conn, ""
}

// pull asks for much, and leaves in the middle.
func (s *storm) pull(target string, random *rand.Rand) string {
	conn, said := s.begin(target)
	if conn == nil {
		return said
	}
	defer conn.Close()
	if _, err := io.CopyN(io.Discard, conn, random.Int64N(16<<20)); err != nil {
		return s.gentle("cut", err)
	}
	return s.leave(conn, random)
}

// push sends much, and leaves in some way.
func (s *storm) push(target string, random *rand.Rand) string {
	conn, said := s.begin(target)
	if conn == nil {
		return said
	}
	defer conn.Close()
	// With pauses: what arrives is watched packet by packet.
	for range random.IntN(32) {
		if _, err := conn.Write(make([]byte, random.IntN(64<<10))); err != nil {
			return s.gentle("cut", err)
		}
		time.Sleep(time.Millisecond)
	}
	return s.leave(conn, random)
}

// leave ends a connection by a reset, by half-closing and waiting, or plainly.
func (s *storm) leave(conn *net.TCPConn, random *rand.Rand) string {
	switch random.IntN(3) {
	case 0:
		conn.SetLinger(0)
		return "reset"
	case 1:
		conn.CloseWrite()
		conn.SetDeadline(time.Now().Add(impatience / 4)) // the other side may never end
		_, _ = io.Copy(io.Discard, conn)
		return "half-closed"
	}
	return "closed"
}

// names asks for a name that is nobody's.
func (s *storm) names(target string, random *rand.Rand) string {
	if _, err := net.LookupHost(strconv.Itoa(random.IntN(1<<30)) + "." + target); err != nil {
		return s.gentle("refused", err)
	}
	return "LEAK"
}

// exec starts another program image, which talks once.
func (s *storm) exec(target string, random *rand.Rand) string {
	self, err := os.Executable()
	if err != nil {
		return s.gentle("no path", err)
	}
	seed := strconv.FormatUint(random.Uint64(), 10)
	if err := exec.Command(self, "-tag", s.tag, "-for", "1ns", "-seed", seed, "push="+target).Run(); err != nil {
		return s.gentle("failed", err)
	}
	return "ok"
}

// watch makes n connections a second, one after the other, each of which must be
// answered, and prints when each began and how many microseconds it took.
func (s *storm) watch(name, target string, n int, _ *rand.Rand) {
	for next := time.Now(); !s.over(); next = next.Add(time.Second / time.Duration(n)) {
		time.Sleep(time.Until(next))
		began := time.Now()
		outcome := s.once(target, began)
		s.count(name, outcome)
		fmt.Printf("%d %d %s\n", began.UnixNano(), time.Since(began).Microseconds(), outcome)
	}
}

func (s *storm) once(target string, began time.Time) string {
	conn, err := dial(target, patience)
	if err != nil {
		return s.gentle("no connect", err)
	}
	defer conn.Close()
	if err := s.say(conn, bufio.NewReader(conn), began); err != nil {
		return s.gentle("cut", err)
	}
	return "ok"
}
