package daemon

import (
	"context"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// ephemeralWait is how long an ephemeral sandbox waits for its first command.
const ephemeralWait = 30 * time.Second

// expire deletes an ephemeral sandbox when its command has ended, or never came: who
// made it may have been killed.
func (d *Daemon) expire(b *box) {
	timer := time.NewTimer(ephemeralWait)
	defer timer.Stop()
	select {
	case <-b.begun:
		select {
		case <-b.over:
		case <-d.stopping:
			return
		}
	case <-timer.C:
	case <-d.stopping:
		return
	}
	b.turn.Lock()
	defer b.turn.Unlock()
	if d.fleet.find(b.name) != b {
		return // deleted by who made it
	}
	ctx := context.Background()
	err := d.remove(ctx, b)
	d.recordChange(ctx, flow.ReasonSandboxDeleted, b.name, "ephemeral", err)
	if err != nil {
		d.log.Error("an ephemeral sandbox could not be deleted", "sandbox", b.name, "error", err)
	}
}

// dropEphemeral forgets the ephemeral sandboxes of the agent before: their commands
// ended with it. What is left of them is nobody's. One that the store does not let go
// of, because the disk is full, is dropped by the next start again.
func (d *Daemon) dropEphemeral() {
	boxes, _ := d.fleet.all()
	for _, b := range boxes {
		message, _, _ := d.fleet.look(b)
		if !message.GetSpec().GetEphemeral() {
			continue
		}
		if err := d.forget(b.name); err != nil {
			d.log.Warn("an ephemeral sandbox is not forgotten", "sandbox", b.name, "error", err)
		}
		d.fleet.remove(b)
	}
}
