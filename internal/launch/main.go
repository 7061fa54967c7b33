package launch

import (
	"fmt"
	"os"
)

// The hidden subcommands.
const (
	initCommand = "sandbox-init"
	execCommand = "sandbox-exec"
	sftpCommand = "sandbox-sftp"
	dialCommand = "sandbox-dial"
)

// Main runs a hidden subcommand, if args (without the program's name) ask for
// one, and then never returns. A program that calls Start must call Main first of
// all, before flags are parsed or anything is opened.
func Main(args []string) (handled bool) {
	if len(args) != 1 {
		return false
	}
	switch args[0] {
	case initCommand:
		os.Exit(initMain())
	case execCommand:
		os.Exit(execMain())
	case sftpCommand:
		os.Exit(builtinMain(serveSFTP))
	case dialCommand:
		os.Exit(builtinMain(serveDials))
	}
	return false
}

// report tells the agent what failed, and returns the exit status that says the
// same. Without the socket of an agent it speaks to stderr.
func report(err error) int {
	f := faultOf(err)
	if sendErr := sendReply(reply{Fault: f}); sendErr != nil {
		fmt.Fprintf(os.Stderr, "ringfence: %s: %q\n", f.Step, f.Text) // quoted: paths are in it
	}
	return f.Code
}
