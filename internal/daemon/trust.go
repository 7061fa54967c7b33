package daemon

import (
	"errors"

	"github.com/ringfence/ringfence/internal/identity"
	"github.com/ringfence/ringfence/internal/store"
)

// trusted returns which files a sandbox's programs were first used from.
func (d *Daemon) trusted(name string) ([]identity.Trust, error) {
	value, err := d.store.Get(store.Trust, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return identity.DecodeTrust(value)
}

// saveTrust returns what keeps a sandbox's trust.
func (d *Daemon) saveTrust(name string) func([]identity.Trust) error {
	return func(all []identity.Trust) error {
		value, err := identity.EncodeTrust(all)
		if err == nil {
			err = d.store.Put(store.Trust, name, value)
		}
		if err != nil {
			d.log.Error("which programs are trusted is not kept", "sandbox", name, "error", err)
		}
		return err
	}
}
