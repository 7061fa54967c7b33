package bypass

import (
	"fmt"
	"os"
	"testing"

	"github.com/ringfence/ringfence/internal/cli"
	"github.com/ringfence/ringfence/internal/launch"
)

// The subcommands by which the test program is something else than the test.
const (
	ringfenceCommand = "ringfence" // the program under test
	attackCommand    = "attack"    // inside: makes all attempts of a group
	actCommand       = "act"       // inside: does one thing, under an identity of its own
)

func TestMain(m *testing.M) {
	args := os.Args[1:]
	launch.Main(args)
	if len(args) == 0 {
		os.Exit(m.Run())
	}
	switch args[0] {
	case ringfenceCommand:
		os.Exit(cli.Main(cli.OS(), args[1:]))
	case attackCommand:
		os.Exit(attack(args[1]))
	case actCommand:
		fmt.Println(act(args[1], args[2:]))
		os.Exit(0)
	}
	os.Exit(m.Run())
}
