package sshd

import (
	"os"
	"testing"

	"github.com/ringfence/ringfence/internal/launch"
)

// TestMain makes this test binary the privileged child of its own sandboxes too.
func TestMain(m *testing.M) {
	if !launch.Main(os.Args[1:]) {
		os.Exit(m.Run())
	}
}
