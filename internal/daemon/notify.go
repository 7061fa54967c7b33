package daemon

import (
	"github.com/coreos/go-systemd/v22/daemon"
)

// notify tells the service manager how the service is, where there is one that
// listens (NOTIFY_SOCKET).
func (d *Daemon) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.log.Warn("the service manager is not told", "state", state, "error", err)
	}
}
