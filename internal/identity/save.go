package identity

import (
	"context"
	"time"
)

// saveEvery is how often trust is saved at most, while more and more paths are used.
const saveEvery = time.Second

// save has what is trusted saved after it changed, in the background: at once after a
// quiet time, else with what comes within saveEvery; and at the end what is left.
func (t *Table) save(ctx context.Context, save func([]Trust) error) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-t.trust.changed:
			t.saveNow(save)
			select {
			case <-ctx.Done():
			case <-time.After(saveEvery):
			}
		}
	}
	select {
	case <-t.trust.changed:
		t.saveNow(save)
	default:
	}
}

// saveNow saves. What could not be saved is tried again with the next turn.
func (t *Table) saveNow(save func([]Trust) error) {
	if err := save(t.Trusted()); err != nil {
		t.trust.touch()
	}
}

// Trusted returns what is trusted, by path.
func (t *Table) Trusted() []Trust { return t.trust.all(t.reader.hashes) }
