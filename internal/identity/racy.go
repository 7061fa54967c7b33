package identity

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// clockTick is longer than any kernel waits before the time of a change moves on: 10
// ms where HZ is 100, and more in a virtual machine that gets no processor.
const clockTick = 100 * time.Millisecond

// racy reports whether an image that its user can write started so soon after the
// last change of its file that another one may have followed, after the start, under
// the same time. Then no hash is that of the image. (git knows the same of its index.)
func racy(image flow.Image) bool {
	if !image.Taints.Has(flow.TaintWritable) {
		return false // and root's changes are root's affair
	}
	var real, boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME, &real) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return true
	}
	started := real.Nano() - (boot.Nano() - int64(image.Exec.Time))
	changed := image.File.CtimeSec*int64(time.Second) + int64(image.File.CtimeNsec)
	// A file of the future is no race: its clock is another's.
	since := time.Duration(started - changed)
	return since < clockTick && since > -clockTick
}
