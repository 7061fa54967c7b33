package launch

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var errAgentGone = errors.New("the agent is gone")

// dieWithAgent makes the kernel kill this process when the agent's spawning
// thread ends. The kernel disarms it at each change of credentials, so it is
// called again after the last.
//
// It is the second line: init ends when the control socket closes, and takes the
// pid namespace with it. An init with an anchor does neither, once it is ready.
func dieWithAgent() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("arm parent death signal: %w", err)
	}
	// The agent may have died before. Its pid tells nothing (it is 0 from inside
	// the namespace), but its end of the socket does.
	fds := []unix.PollFd{{Fd: controlFD}}
	if _, err := unix.Poll(fds, 0); err != nil && err != unix.EINTR {
		return fmt.Errorf("poll control socket: %w", err)
	}
	if fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
		return errAgentGone
	}
	return nil
}

// arm is dieWithAgent for an init that is to. The change of the user has disarmed
// what was armed before; one that lives on does not rely on it.
func (in *initProcess) arm() error {
	if !in.order.Anchored {
		return dieWithAgent()
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("disarm parent death signal: %w", err)
	}
	return nil
}
