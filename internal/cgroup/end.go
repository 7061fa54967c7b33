package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// killTimeout bounds Kill where its context has no deadline. A killed process
	// goes in milliseconds, unless it is in uninterruptible sleep.
	killTimeout = 10 * time.Second
	// pollSlice is how long a wait sleeps before it looks at its context again.
	pollSlice = 20 * time.Millisecond
	// maxDepth bounds the descent of Remove.
	maxDepth = 32
)

// ErrPopulated is returned when processes outlast the wait of Kill.
var ErrPopulated = errors.New("processes are left in the cgroup")

// Kill kills every process of the cgroup and of those below it, and returns when
// they are gone. The wait is bounded, also without a deadline.
func (g *Group) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	events, err := os.Open(filepath.Join(g.path, "cgroup.events"))
	if err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	defer events.Close()
	if err := os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	for {
		populated, err := isPopulated(events)
		if err != nil || !populated {
			return err
		}
		// The kernel reports a change of the file as POLLPRI.
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(pollSlice.Milliseconds())); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for cgroup %s: %w", g.path, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("kill cgroup %s: %w: %w", g.path, ErrPopulated, ctx.Err())
		}
	}
}

func isPopulated(events *os.File) (bool, error) {
	var buf [256]byte
	n, err := events.ReadAt(buf[:], 0)
	if n == 0 && err != nil {
		return false, fmt.Errorf("read cgroup events: %w", err)
	}
	return !strings.Contains(string(buf[:n]), "populated 0"), nil
}

// Remove removes the cgroup and, before it, those that were made inside. They
// must hold no process. A cgroup that is gone already is no error.
func (g *Group) Remove() error { return remove(g.path, maxDepth) }

func remove(path string, depth int) error {
	if depth == 0 {
		return fmt.Errorf("remove cgroup %s: nested too deeply", path)
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := remove(filepath.Join(path, e.Name()), depth-1); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(path); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove cgroup %s: %w", path, err)
	}
	return nil
}
