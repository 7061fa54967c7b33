package bypass

import (
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// act does one thing in a process of its own, and returns what came of it.
func act(name string, args []string) string {
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
		"privileges": privileges,
		"int80":      int80, "hold": hold, "filtered": filtered,
		"raw":     func([]string) string { return open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
		"connect": func(a []string) string { return connectName(a[0], portOf(a[1])) },
		"dial":    func(a []string) string { return connect(netip.MustParseAddr(a[0]), portOf(a[1])) },
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
