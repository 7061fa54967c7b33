package daemon

import (
	"errors"
	"strings"

	"github.com/ringfence/ringfence/internal/api"
)

const listHint = "ringfence sandbox list shows those that there are"

func noSandbox(name string) error {
	return api.NotFound(listHint, "there is no sandbox %q", name)
}

func notReady(name string) error {
	return api.FailedPrecondition("ringfence sandbox show "+name+" tells why", "sandbox %q is not ready", name)
}

func changedMeanwhile(name string, is, seen uint64) error {
	return api.Aborted("read it again and decide anew", "%q has changed meanwhile: its version is %d, not %d", name, is, seen)
}

// noField is about a field that the limits let through, and that nobody updates.
func noField(name string) error {
	return api.InvalidArgument("docs/api.md has the fields that can be updated", "field %q cannot be updated", name)
}

func badToken() error {
	return api.InvalidArgument("send the token of the page before, or none", "page_token is none that was given out")
}

func isNotFound(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Code == api.CodeNotFound
}

// errPageFull ends the way through a bucket.
var errPageFull = errors.New("the page is full")

// lastName is the token of the page after these.
func lastName[M interface{ GetName() string }](entries []M) string {
	return entries[len(entries)-1].GetName()
}

func badKeys(err error) error {
	return api.InvalidArgument("write keys as in authorized_keys, one a line and without options", "%v", err)
}

// said makes a text fit for a message, which takes no other bytes than UTF-8: errors
// have paths in them.
func said(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
