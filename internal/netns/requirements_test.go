package netns

import (
	"testing"

	"github.com/ringfence/ringfence/internal/floor"
)

func TestRequirements(t *testing.T) {
	if got := namespaces(); got.State != floor.Met || !got.Required() {
		t.Errorf("%+v", got)
	}
	if got := ipv6(false); got.State != floor.Missing || got.Required() {
		t.Errorf("without IPv6: %+v", got)
	}
	if got := ipv6(true); got.State != floor.Met || got.Required() {
		t.Errorf("with IPv6: %+v", got)
	}
}
