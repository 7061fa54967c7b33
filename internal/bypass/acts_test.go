package bypass

import (
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// act does one thing in a process of its own, and returns what came of it.
func act(name string, args []string) string {
	if got, is := scriptAct(name, args); is {
		return got
	}
	do, found := acts()[name]
	if !found {
		return "no such act: " + name
	}
	return do(args)
}

// acts are what a program can be started for. Each gets the arguments after its
// name.
func acts() map[string]func([]string) string {
	return map[string]func([]string) string{
		"connect":       func(a []string) string { return connectName(a[0], portOf(a[1])) },
		"dial":          func(a []string) string { return connect(netip.MustParseAddr(a[0]), portOf(a[1])) },
		"again":         again,
		"orphan":        orphan,
		"leave":         leave,
		"privileges":    privileges,
		"raw":           func([]string) string { return open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
		"int80":         int80,
		"hold":          hold,
		"filtered":      filtered,
		"fexec":         fexec,
		"comm":          comm,
		"connect-exec":  connectExec,
		"start-exec":    startExec,
		"use":           use,
		"connect-given": connectGiven,
		"forked":        forked,
		"memfd":         runMemfd,
		"deleted":       runDeleted,
		"wait":          func([]string) string { _, _ = os.Stdin.Read(make([]byte, 1)); return ok },
	}
}

func portOf(text string) uint16 {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

func sorted(all []string) []string {
	slices.Sort(all)
	return all
}
