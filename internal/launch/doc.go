// Package launch is the privileged child: it makes the namespaces of a local
// sandbox, and starts commands in them with nothing that a command must not have.
//
// Two hidden subcommands of the agent's own program do the work, each a process
// of its own. "sandbox-init" is PID 1: it builds the sandbox's view of the file
// system, gives up what it has, and stays to reap and to forward signals.
// "sandbox-exec" joins the finished namespaces, drops every privilege on the one
// thread that then calls execve, and becomes the command. Both take their orders
// from an inherited socket, never from arguments or the environment, and report
// each failure as a StepError that names the step.
//
// The order in a sandbox's life is Start, Exec …, Close. One with an anchor may go on
// after Detach, or after the agent's death: Adopt, Exec …, Close. The agent never
// opens /proc of any process but itself: what it has to hold (the namespaces, the root
// directory, a terminal) is sent to it over the socket.
//
// Which user, which policy and what listens in the network namespace are decided
// elsewhere.
package launch
