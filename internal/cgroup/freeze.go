package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotFrozen is returned when a process does not stop within the wait of Freeze.
var ErrNotFrozen = errors.New("not every process is frozen")

// Freeze stops every process of the cgroup and of those below it, and returns when they
// stand still. They can still be killed. Those that do not stop before the context ends
// are an ErrNotFrozen; the others stay frozen then, too. The caller thaws, in any case.
func (g *Group) Freeze(ctx context.Context) error {
	events, err := os.Open(filepath.Join(g.path, "cgroup.events"))
	if err != nil {
		return fmt.Errorf("freeze cgroup: %w", err)
	}
	defer events.Close()
	if err := g.writeFreeze("1"); err != nil {
		return err
	}
	for {
		var buf [256]byte
		n, err := events.ReadAt(buf[:], 0)
		if n == 0 && err != nil {
			return fmt.Errorf("read cgroup events: %w", err)
		}
		if strings.Contains(string(buf[:n]), "frozen 1") {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("freeze cgroup %s: %w: %w", g.path, ErrNotFrozen, ctx.Err())
		}
		// The kernel reports a change of the file as POLLPRI.
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(pollSlice.Milliseconds())); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for cgroup %s: %w", g.path, err)
		}
	}
}

// Thaw lets the processes go on that Freeze stopped; those of a cgroup below that is
// frozen itself stay so.
func (g *Group) Thaw() error { return g.writeFreeze("0") }

func (g *Group) writeFreeze(value string) error {
	if err := os.WriteFile(filepath.Join(g.path, "cgroup.freeze"), []byte(value), 0); err != nil {
		return fmt.Errorf("freeze or thaw cgroup: %w", err)
	}
	return nil
}
