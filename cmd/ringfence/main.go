// Command ringfence runs programs in a fenced sandbox.
package main

import (
	"os"

	"github.com/ringfence/ringfence/internal/cli"
	"github.com/ringfence/ringfence/internal/launch"
)

func main() {
	// First of all: the privileged child is this program too.
	if launch.Main(os.Args[1:]) {
		return
	}
	os.Exit(cli.Main(cli.OS(), os.Args[1:]))
}
