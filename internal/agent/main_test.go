package agent

import (
	"os"
	"testing"

	"github.com/ringfence/ringfence/internal/launch"
)

// TestMain makes this test binary the privileged child of its own sandboxes too, and
// agents in processes of their own.
func TestMain(m *testing.M) {
	if launch.Main(os.Args[1:]) {
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "remote" {
		os.Exit(remoteMain(os.Args[2]))
	}
	if len(os.Args) == 2 && os.Args[1] == "tryout" {
		os.Exit(tryoutMain())
	}
	os.Exit(m.Run())
}
