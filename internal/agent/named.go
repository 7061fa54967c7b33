package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// anchors is the directory of an instance in which its sandboxes are found again.
const anchors = "init"

const (
	// A process that was killed is seen to be dead before all that it held is free.
	lockPatience = time.Second
	lockPause    = 5 * time.Millisecond
)

// A HeldError is returned where another agent lives that has the instance.
type HeldError struct {
	Instance string
	PID      int // of that agent; 0 where it is not known
}

// Error names the instance and who has it.
func (e *HeldError) Error() string {
	text := fmt.Sprintf("instance %q is another agent's", e.Instance)
	if e.PID != 0 {
		text += fmt.Sprintf(" (process %d)", e.PID)
	}
	return text
}

// errInstanceName is returned for a name that is none.
var errInstanceName = errors.New("want up to 32 lower case letters, digits and hyphens that begin with a letter, but not with " + namePrefix + ", and not lock")

func isInstanceName(name string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyz"
	return name != "" && name != "lock" && len(name) <= 32 && strings.Trim(name, letters+"0123456789-") == "" &&
		strings.ContainsRune(letters, rune(name[0])) && !strings.HasPrefix(name, namePrefix)
}

// claimName claims an instance that outlives its agents. Whatever there is of it stays.
func claimName(ctx context.Context, name string) (*instance, error) {
	if !isInstanceName(name) {
		return nil, fmt.Errorf("claim instance %q: %w", name, errInstanceName)
	}
	i := &instance{dir: filepath.Join(stateRoot, name), named: true, found: partExists(name)}
	for _, dir := range []string{i.dir, filepath.Join(i.dir, anchors)} {
		if err := makeDir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("claim instance: %w", err)
		}
	}
	path := filepath.Join(i.dir, "lock")
	err := patiently(ctx, func() (err error) {
		i.lock, err = lockFile(path, os.O_CREATE, unix.LOCK_EX|unix.LOCK_NB)
		return err
	})
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &HeldError{Instance: name, PID: holderOf(path)}
	}
	if err != nil {
		return nil, err
	}
	if err := i.sign(); err != nil {
		return nil, errors.Join(err, i.unlock())
	}
	return i, nil
}

// patiently tries again for a moment where something is locked.
func patiently(ctx context.Context, lock func() error) error {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	ticker := time.NewTicker(lockPause)
	defer ticker.Stop()
	for {
		err := lock()
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, errCgroupHeld) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// sign writes into the lock who has it.
func (i *instance) sign() error {
	text := strconv.Itoa(os.Getpid()) + "\n"
	if err := i.lock.Truncate(0); err != nil {
		return fmt.Errorf("sign lock: %w", err)
	}
	if _, err := i.lock.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("sign lock: %w", err)
	}
	return nil
}

func holderOf(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// anchor is where a sandbox is found again; nowhere in an instance that ends.
func (i *instance) anchor(sandbox string) string {
	if !i.named {
		return ""
	}
	return filepath.Join(i.dir, anchors, sandbox)
}
