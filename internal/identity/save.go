package identity

import (
	"context"
	"time"
)

const (
	// saveEvery is how often trust is saved at most, while more and more paths are used.
	saveEvery = time.Second
	// retryEvery is how often at least it is tried, while it cannot be saved.
	retryEvery = time.Minute
)

// save has what is trusted saved after it changed, in the background: at once after a
// quiet time, else with what comes within saveEvery; and at the end what is left. What
// could not be saved is tried again, after longer and longer.
func (t *Table) save(ctx context.Context, save func([]Trust) error) {
	wait := saveEvery
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-t.trust.changed:
			if t.saveNow(save) {
				wait = saveEvery
			} else {
				wait = min(2*wait, retryEvery)
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
	select {
	case <-t.trust.changed:
		t.saveNow(save)
	default:
	}
}

// saveNow saves, and reports whether that went well.
func (t *Table) saveNow(save func([]Trust) error) bool {
	if err := save(t.Trusted()); err != nil {
		t.trust.touch() // it is still to be saved
		return false
	}
	return true
}

// Trusted returns what is trusted, by path.
func (t *Table) Trusted() []Trust { return t.trust.all(t.reader.hashes) }
