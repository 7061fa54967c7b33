package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

// record is the part of a JSON record that the demo shows.
type record struct {
	Time    string `json:"time"` // RFC 3339, so it sorts as text
	Verdict string `json:"verdict"`
	Policy  string `json:"policy"`
	Reason  string `json:"reason"`
	Hint    string `json:"hint"`
	Binary  string `json:"binary"`
	Host    string `json:"host"`
	Port    uint16 `json:"port"`
}

// act is a line of the script, as it must show in the records.
type act struct {
	verdict, binary, host string
}

var acts = []act{
	{"allow", "/usr/bin/curl", declaredHost},
	{"deny", "/usr/bin/curl", secretHost},
	{"deny", "/usr/bin/curl", secretAddr},
	{"deny", "/usr/bin/curl", testenv.Metadata},
	{"deny", "/tmp/updater", declaredHost},
}

// evidence shows the records, and what arrived at the far end since there were
// seen flows. It returns an error where they tell another story than the demo.
func evidence(env *testenv.Env, file string, seen int, out printer) error {
	records, err := readRecords(file)
	if err != nil {
		return err
	}
	out.title("The records say which program it was, and why:")
	for _, r := range records {
		out.record(r)
	}

	flows, err := env.Flows()
	if err != nil {
		return err
	}
	out.title("And the witness on the far side of the wire saw, from the sandbox's side:")
	arrived := destinations(flows[seen:])
	for _, destination := range arrived {
		fmt.Fprintf(out.w, "  %s\n", destination)
	}
	fmt.Fprintln(out.w)
	return errors.Join(checkRecords(records), checkArrived(arrived))
}

func readRecords(file string) ([]record, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	var records []record
	for line := range bytes.Lines(data) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("parse record %q: %w", line, err)
		}
		records = append(records, r)
	}
	// Each is written when its connection ends; the story goes by their starts.
	slices.SortStableFunc(records, func(a, b record) int { return strings.Compare(a.Time, b.Time) })
	// A name is asked for twice at once, for IPv4 and IPv6.
	return slices.CompactFunc(records, func(a, b record) bool {
		a.Time = b.Time
		return a == b
	}), nil
}

func (p printer) record(r record) {
	verdict := p.paint(red, fmt.Sprintf("%-5s", r.Verdict))
	if r.Verdict == "allow" {
		verdict = p.paint(green, fmt.Sprintf("%-5s", r.Verdict))
	}
	why := r.Reason
	if r.Policy != "" {
		why += " (policy " + r.Policy + ")"
	}
	target := r.Host
	if r.Port != 0 { // a question to the DNS server has none
		target += fmt.Sprintf(":%d", r.Port)
	}
	fmt.Fprintf(p.w, "  %s  %-14s  %-22s  %s\n", verdict, printable(r.Binary), printable(target), printable(why))
	if r.Hint != "" {
		fmt.Fprintf(p.w, "         %s\n", p.paint(dim, printable("hint: "+r.Hint)))
	}
}

// printable replaces what a terminal would obey: the text came from a sandbox.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

func checkRecords(records []record) error {
	var errs []error
	for _, a := range acts {
		if !slices.ContainsFunc(records, func(r record) bool {
			return r.Verdict == a.verdict && r.Binary == a.binary && r.Host == a.host
		}) {
			errs = append(errs, fmt.Errorf("no record of %s, %s to %s", a.verdict, a.binary, a.host))
		}
	}
	return errors.Join(errs...)
}

// destinations returns where the flows went, once each.
func destinations(flows []testenv.Flow) []string {
	var names []string
	for _, f := range flows {
		name := fmt.Sprintf("protocol %d to %v", f.Protocol, f.Destination)
		switch f.Protocol {
		case unix.IPPROTO_TCP:
			name = fmt.Sprintf("tcp to %v", f.Destination)
		case unix.IPPROTO_UDP:
			name = fmt.Sprintf("udp to %v", f.Destination)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// checkArrived lets the agent's own questions to the resolver pass, and its one
// connection to the declared host, which has to be there.
func checkArrived(arrived []string) error {
	resolver := netip.AddrPortFrom(netip.MustParseAddr(testenv.ResolverIPv4), testenv.PortDNS).String()
	declared := "tcp to " + declaredAddr + ":443"
	var errs []error
	if !slices.Contains(arrived, declared) {
		errs = append(errs, fmt.Errorf("nothing arrived: %s", declared))
	}
	for _, destination := range arrived {
		if destination != declared && !strings.HasSuffix(destination, " to "+resolver) {
			errs = append(errs, fmt.Errorf("arrived, and should not have: %s", destination))
		}
	}
	return errors.Join(errs...)
}
