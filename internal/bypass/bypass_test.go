package bypass

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/testenv"
)

// groups are all attempts, by the idea that they have in common.
func groups() []group {
	return []group{
		networkGroup(), udpGroup(), dnsGroup(), socketsGroup(), listenersGroup(), foreignGroup(),
		namespacesGroup(), doorsGroup(), privilegesGroup(),
		agentGroup(), syscallsGroup(), ptraceGroup(), ttyGroup(),
		identityGroup(), taintsGroup(),
		namesGroup(), requestsGroup(), pidsGroup(), floodsGroup(), deathGroup(),
	}
}

// TestBypasses makes every attempt. What one group tries is tried in one sandbox,
// when the first of its tests asks for it.
func TestBypasses(t *testing.T) {
	for _, g := range groups() {
		var r *report
		var err error
		performed := false
		result := func(t *testing.T) *report {
			t.Helper()
			if !performed {
				performed = true
				r, err = perform(t.Context(), g)
			}
			testenv.SkipOn(t, err)
			return r
		}
		for n, a := range g.all() {
			t.Run(a.title(), func(t *testing.T) { result(t).judge(t, a, n) })
		}
		t.Run("far_end/"+g.name, func(t *testing.T) { result(t).checkFarEnd(t) })
		t.Run("records/"+g.name, func(t *testing.T) { result(t).checkRecords(t) })
	}
}

// judge says whether the fence held against one attempt.
func (r *report) judge(t *testing.T, a attempt, n int) {
	in := place(r.dir, n, a.label())
	got, made := r.outcomes[a.title()]
	if !made {
		t.Fatalf("the attempt was not made: status %d\n%s", r.status, r.stderr)
	}
	held := slices.Contains(strings.Fields(a.want), got)
	rec, told := r.find(in, a.told)
	t.Logf("%-28s %-12s %s", a.title(), got, told)
	arrived := r.arrivedAt(in)
	if !held && a.accepted != "" {
		t.Logf("got through, as the threat model says: %s (%s, record %s)", a.accepted, got, told)
		return
	}
	if !held {
		t.Errorf("got %q, want one of: %s\n%s", got, a.want, r.stderr)
	}
	if a.told.due() && !a.told.maybe && rec == nil {
		t.Errorf("no record of %s:\n%s", a.told.reason, r.summary(in))
	}
	for _, flow := range arrived {
		t.Errorf("arrived in the internet: %v, %q", flow, flow.Payload)
	}
}

// summary shows the records that could be an attempt's.
func (r *report) summary(in *intruder) string {
	var lines strings.Builder
	for _, rec := range r.records {
		if rec.Host == "" || r.isAbout(&rec, in, told{}) {
			fmt.Fprintf(&lines, "%+v\n", rec)
		}
	}
	return lines.String()
}

// arrivedAt returns what arrived at an attempt's own addresses.
func (r *report) arrivedAt(in *intruder) []testenv.Flow {
	var found []testenv.Flow
	for _, flow := range r.flows {
		addr := flow.Destination.Addr().Unmap()
		if (addr == in.v4 || addr == in.v6) && !r.mayArrive(flow) {
			found = append(found, flow)
		}
	}
	return found
}

// find returns the record of an attempt, and it in a word. One of a socket is used
// up: the next attempt needs one of its own.
func (r *report) find(in *intruder, want told) (*record, string) {
	if !want.due() {
		return nil, "(no record is due)"
	}
	verdict := want.verdict
	if verdict == "" {
		verdict = "deny"
	}
	for i := range r.records {
		rec := &r.records[i]
		if rec.Verdict != verdict || want.mode != "" && rec.Mode != want.mode ||
			!slices.Contains(strings.Fields(want.reason), rec.Reason) ||
			!hasAll(rec.Taints, want.taints) || !r.isAbout(rec, in, want) {
			continue
		}
		found := *rec
		if want.host == "-" && !want.maybe {
			rec.Verdict = "used"
		}
		return &found, found.Verdict + " " + found.Reason + tainted(found.Taints) + " by " + strings.Trim(strconv.Quote(filepath.Base(found.Binary)), `"`)
	}
	return nil, "no record"
}

// tainted shows taints.
func tainted(taints []string) string {
	if len(taints) == 0 {
		return ""
	}
	return " (" + strings.Join(taints, ", ") + ")"
}

func hasAll(taints []string, want string) bool {
	for taint := range strings.FieldsSeq(want) {
		if !slices.Contains(taints, taint) {
			return false
		}
	}
	return true
}

func (r *report) isAbout(rec *record, in *intruder, want told) bool {
	if want.by != "" {
		by := want.by
		if !filepath.IsAbs(by) {
			by = filepath.Join(in.dir, by)
		}
		if rec.Binary != by {
			return false
		}
	}
	switch want.host {
	case "-":
		return true
	case "":
		return slices.Contains([]string{in.v4.String(), in.v6.String(), in.bad, in.open}, rec.Host)
	}
	return rec.Host == want.host
}

// mayArrive says what policy allowed, and what the test sent itself.
func (r *report) mayArrive(flow testenv.Flow) bool {
	to := flow.Destination
	switch {
	case to == netip.AddrPortFrom(netip.MustParseAddr(testenv.ResolverIPv4), testenv.PortDNS):
		return true
	case to.Addr() == netip.MustParseAddr(openIPv4), to.Addr() == netip.MustParseAddr(openIPv6):
		return slices.Contains([]uint16{7, 25, 80, 443}, to.Port())
	}
	return r.preset[to.Addr()] && len(flow.Payload) == 0
}

// checkFarEnd looks at all that arrived, wherever.
func (r *report) checkFarEnd(t *testing.T) {
	open := 0
	for _, flow := range r.flows {
		if !r.mayArrive(flow) {
			t.Errorf("arrived in the internet: %v, %q", flow, flow.Payload)
		}
		if flow.Destination.Port() == portEcho && string(flow.Payload) == payload {
			open++
		}
	}
	if open == 0 {
		t.Error("not even what is allowed arrived")
	}
	for _, query := range r.queries {
		if !strings.HasSuffix(query.Name, ".open.test") {
			t.Errorf("%s %s was looked up upstream", query.Type, query.Name)
		}
	}
}

// checkRecords looks at what holds for every record, whatever was tried.
func (r *report) checkRecords(t *testing.T) {
	for _, line := range strings.Split(string(r.raw), "\n") {
		for _, c := range line {
			if !strconv.IsPrint(c) || c == '\ufffd' {
				t.Errorf("a record has %q in it: %q", c, line)
				break
			}
		}
	}
	for _, rec := range r.records {
		if rec.UID != userID && rec.Binary != "" {
			t.Errorf("a record of the user %d: %+v", rec.UID, rec)
		}
		if rec.Verdict == "allow" && blocks(rec.Taints) && !slices.Contains(r.lifted, rec.Binary) {
			t.Errorf("a tainted program was allowed: %+v", rec)
		}
	}
}

// blocks reports whether there is a taint that is more than told.
func blocks(taints []string) bool {
	for _, name := range taints {
		taint, known := flow.ParseTaint(name)
		if !known || !flow.NotedTaints.Has(taint) {
			return true
		}
	}
	return false
}
