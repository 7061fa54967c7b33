package event

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	maxGroups = 1024 // a sandbox chooses the keys of groups
	maxCell   = 64   // characters of a program or target that are shown
	columns   = 5
)

// Summary is a sink that counts records alike and shows them as a table. The
// zero value is ready.
type Summary struct {
	mu       sync.Mutex
	groups   map[groupKey]*group
	overflow uint64 // records of groups beyond maxGroups
}

// groupKey is what makes two records alike.
type groupKey struct {
	verdict flow.Verdict
	binary  string
	host    string
	port    uint16
	reason  flow.Reason
}

type group struct {
	groupKey
	count     uint64
	hint      string // the first one given
	startedBy string // what started the first, the first one first
}

// Emit counts the record. A policy that was loaded is no connection, and neither is
// what was done to the sandbox from outside.
func (s *Summary) Emit(r *flow.Record) {
	if !r.Mode.Outward() && r.Verdict == flow.Allow {
		return
	}
	key := groupKey{verdict: r.Verdict, binary: r.Binary, host: r.Host, port: r.Port, reason: r.Reason}
	count := max(r.Count, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[key]
	if g == nil {
		if len(s.groups) >= maxGroups {
			s.overflow += count
			return
		}
		if s.groups == nil {
			s.groups = make(map[groupKey]*group)
		}
		g = &group{groupKey: key}
		if !r.Verdict.Passes() {
			g.startedBy = chain(r.Ancestors)
		}
		s.groups[key] = g
	}
	g.count += count
	if g.hint == "" {
		g.hint = r.Hint
	}
}

// Render writes the table: denials first, the most frequent on top. Below a denial
// stand what started its program, the first one first, and a hint. Nothing is written when nothing was counted.
func (s *Summary) Render(out io.Writer) error {
	groups, overflow := s.snapshot()
	if len(groups) == 0 {
		return nil
	}
	rows := [][columns]string{{"VERDICT", "COUNT", "PROGRAM", "TARGET", "REASON"}}
	var width [columns]int
	for _, g := range groups {
		rows = append(rows, g.row())
	}
	for _, row := range rows {
		for i, text := range row {
			width[i] = max(width[i], utf8.RuneCountInString(text))
		}
	}
	var b strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&b, "%-*s  %*s  %-*s  %-*s  %s\n", width[0], row[0], width[1], row[1], width[2], row[2], width[3], row[3], row[4])
		if i > 0 {
			groups[i-1].explain(&b)
		}
	}
	if overflow > 0 {
		fmt.Fprintf(&b, "and %d more, beyond the first %d kinds\n", overflow, maxGroups)
	}
	if _, err := io.WriteString(out, b.String()); err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}

// snapshot returns copies of the groups in the order in which they are shown.
func (s *Summary) snapshot() ([]group, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	groups := make([]group, 0, len(s.groups))
	for _, g := range s.groups {
		groups = append(groups, *g)
	}
	slices.SortFunc(groups, func(a, b group) int {
		return cmp.Or(
			cmp.Compare(rank(a.verdict), rank(b.verdict)),
			cmp.Compare(b.count, a.count),
			cmp.Compare(a.binary, b.binary),
			cmp.Compare(a.host, b.host),
			cmp.Compare(a.port, b.port),
			cmp.Compare(a.reason, b.reason),
		)
	})
	return groups, s.overflow
}

// rank orders verdicts by how much they ask for a person's eye.
func rank(v flow.Verdict) int {
	switch v {
	case flow.Allow:
		return 2
	case flow.Audit:
		return 1
	}
	return 0
}

func (g *group) row() [columns]string {
	return [columns]string{
		g.verdict.String(), strconv.FormatUint(g.count, 10), cell(g.binary), cell(g.target()), Quote(string(g.reason)),
	}
}

// explain writes the lines below a group's row.
func (g *group) explain(b *strings.Builder) {
	if g.startedBy != "" {
		fmt.Fprintf(b, "  started by: %s\n", g.startedBy)
	}
	if g.hint != "" {
		fmt.Fprintf(b, "  hint: %s\n", Prose(g.hint))
	}
}

// chain shows ancestors, which come nearest first, from the first one on.
func chain(ancestors []string) string {
	var cells []string
	for _, path := range slices.Backward(ancestors) {
		cells = append(cells, cell(path))
	}
	return strings.Join(cells, " > ")
}

func (g *group) target() string {
	switch {
	case g.host == "" && g.port == 0:
		return ""
	case g.port == 0: // a DNS question
		return g.host
	}
	return net.JoinHostPort(g.host, strconv.Itoa(int(g.port)))
}

// cell returns text for a column: quoted, and its end where it is long, since
// that tells more of a path than its beginning.
func cell(raw string) string {
	if raw == "" {
		return "-"
	}
	if n := utf8.RuneCountInString(raw); n > maxCell {
		for range n - maxCell + 1 {
			_, size := utf8.DecodeRuneInString(raw)
			raw = raw[size:]
		}
		return "…" + word(raw)
	}
	return word(raw)
}

// word quotes text so that it is one word of a row: a blank in a name is no end of its
// column.
func word(raw string) string {
	if strings.Contains(raw, " ") {
		return `"` + Quote(raw) + `"`
	}
	return Quote(raw)
}
