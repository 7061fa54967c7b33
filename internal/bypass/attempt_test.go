package bypass

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// attempt is one way around the fence that is tried.
type attempt struct {
	row  int    // of the list of ways
	name string // unique in its row
	// try makes the attempt, inside, and says in a word what came of it: the name of
	// an errno, or one of the outcomes below.
	try func(*intruder) string
	// want are the words that say that the fence held, with spaces between them.
	want string
	// told is the record that is due.
	told told
	// accepted says why the threat model leaves it: it may get through, and that is
	// told and not judged.
	accepted string
}

// Outcomes that are no errno.
const (
	ok     = "OK"     // the call succeeded
	reset  = "reset"  // it connected, and was cut before a byte came back
	data   = "data"   // what was sent came back from the far end
	silent = "silent" // sent, and nothing came back in a long time
	hung   = "hung"   // the attempt itself did not return
	quiet  = "quiet"  // nothing of what would be bad was seen
)

// refusedCall is what a call ends with that seccomp or a hook refuses, or that
// this kernel does not have.
const refusedCall = "EPERM ENOSYS"

// told says which record an attempt leaves. The zero value: none is due, because no
// hook and no service of the agent sees it (seccomp, a missing file, a capability).
type told struct {
	reason  string // one of these, with spaces between them
	verdict string // "deny" where empty
	mode    string
	by      string // the program's path, from the working directory where it is relative
	maybe   bool   // there may be one: that depends on the kernel
	taints  string // that it names at least
	// host is where to; empty: the attempt's own address or name; "-": nowhere, such
	// a record (of a socket, of a bind) can be any one of its reason.
	host string
}

func (t told) due() bool { return t.reason != "" }

// byHook is the record of a hook that refused a destination.
func byHook(reason string) told { return told{reason: reason, mode: "kernel"} }

// noSocket is the record of a hook that refused a socket or a bind.
func noSocket(reason string) told { return told{reason: reason, mode: "kernel", host: "-"} }

// nowhere is the record of something captured that leads to no address.
func nowhere(reason string) told { return told{reason: reason, host: "-"} }

// denied is the record of a connection that was captured and refused.
func denied(reason string) told { return told{reason: reason, mode: "transparent"} }

// label is what the attempt's own names begin with.
func (a attempt) label() string {
	return fmt.Sprintf("row%02d-%s", a.row, strings.ToLower(strings.ReplaceAll(a.name, "_", "-")))
}

// title is the name of the attempt's test.
func (a attempt) title() string { return fmt.Sprintf("row%02d/%s", a.row, a.name) }

// group is attempts that are made in one sandbox, one after the other.
type group struct {
	name string
	// runner is the program that makes the attempts: client, where the fence must hold
	// whatever policy says, or stranger, where identity is what it is about.
	runner   string
	attempts func() []attempt
	// stage prepares what is outside before the sandbox starts.
	stage func(*stage) error
	// dies: there is a run before, whose agent is killed.
	dies bool
}

// intruder is the world as an attempt sees it.
type intruder struct {
	dir  string     // the working directory: root's
	own  string     // a directory in it that is the user's
	v4   netip.Addr // addresses and names of this attempt alone
	v6   netip.Addr
	bad  string // in no policy
	open string // allowed to client
}

// place is the n-th attempt's own part of the internet.
func place(dir string, n int, label string) *intruder {
	return &intruder{
		dir: dir, own: filepath.Join(dir, "own"),
		v4:  netip.AddrFrom4([4]byte{198, 51, 100, byte(n + 1)}),
		v6:  netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 3, 15: byte(n + 1)}),
		bad: label + ".denied.test", open: label + ".open.test",
	}
}

// client is the program that policy allows, stranger the same under another name.
func (in *intruder) client() string   { return filepath.Join(in.dir, client) }
func (in *intruder) stranger() string { return filepath.Join(in.dir, stranger) }

const (
	client   = "client"
	stranger = "stranger"
)

// outcome is what came of an attempt, as a line of the attacker's output.
type outcome struct {
	Name string `json:"name"`
	Got  string `json:"got"`
}

// patience is how long one attempt may take.
const patience = 60 * time.Second

// attack makes the attempts of a group, and prints what came of each.
func attack(name string) int {
	dir, err := os.Getwd()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	all := groups()
	i := slices.IndexFunc(all, func(g group) bool { return g.name == name })
	if i < 0 {
		fmt.Fprintln(os.Stderr, "no such group:", name)
		return 1
	}
	out := json.NewEncoder(os.Stdout)
	for n, a := range all[i].all() {
		in := place(dir, n, a.label())
		done := make(chan string, 1)
		go func() { done <- a.try(in) }()
		got := hung
		select {
		case got = <-done:
		case <-time.After(patience):
		}
		if err := out.Encode(outcome{Name: a.title(), Got: got}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

// all returns the attempts, and after them the control.
func (g group) all() []attempt {
	control := attempt{
		row: 0, name: "control_" + g.name, want: data,
		try:  func(in *intruder) string { return in.run(in.client(), "connect", in.open, "7") },
		told: told{reason: "allowed", verdict: "allow", mode: "transparent", by: client},
	}
	if g.runner == client {
		control.try = func(in *intruder) string { return connectName(in.open, portEcho) }
	}
	return append(g.attempts(), control)
}
