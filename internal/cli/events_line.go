package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/flow"
)

// shownRecord is what of a record's JSON a person reads.
type shownRecord struct {
	Time    time.Time `json:"time"`
	Sandbox string    `json:"sandbox"`
	Verdict string    `json:"verdict"`
	Policy  string    `json:"policy"`
	Reason  string    `json:"reason"`
	Detail  string    `json:"detail"`
	Hint    string    `json:"hint"`
	Binary  string    `json:"binary"`
	Host    string    `json:"host"`
	Port    uint16    `json:"port"`
	Address string    `json:"address"`
	Mode    string    `json:"mode"`
	Source  string    `json:"source"`
	Command string    `json:"command"`
	Object  string    `json:"object"`
	UID     uint32    `json:"uid"`
	Count   uint64    `json:"count"`
}

// oneLine is a record's JSON without what would begin another line.
func oneLine(text string) string {
	return strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", " ")
}

// recordLine is a record for a person: one line, and one more where there is a hint.
// What a sandbox chose is quoted. (The strings of the JSON went through event.Escape,
// so that they have one reading already; what they hold may still not print.)
func recordLine(record *ringfencev1.Record) string {
	var r shownRecord
	if err := json.Unmarshal([]byte(record.GetJson()), &r); err != nil {
		return fmt.Sprintf("%s  %s  a record that cannot be read: %s\n", clock(record.GetTime()), quoted(record.GetSandbox()), event.Prose(err.Error()))
	}
	var b strings.Builder
	who, what := r.Binary, r.target()
	if r.Mode == flow.ModeSSH.String() || r.Mode == flow.ModeAPI.String() {
		who, what = r.asker(), r.asked()
	}
	fmt.Fprintf(&b, "%s  %s  %s  %s → %s  %s", r.Time.Local().Format("2006-01-02 15:04:05.000"),
		quoted(r.Sandbox), verdictText(r.Verdict), quoted(who), quoted(what), quoted(r.Reason))
	if r.Policy != "" {
		fmt.Fprintf(&b, "  (%s)", quoted(r.Policy))
	}
	if r.Count > 1 {
		fmt.Fprintf(&b, "  ×%d", r.Count)
	}
	if r.Detail != "" {
		fmt.Fprintf(&b, "  %s", event.Prose(r.Detail))
	}
	b.WriteByte('\n')
	if r.Hint != "" && r.Verdict != "allow" {
		fmt.Fprintf(&b, "  hint: %s\n", event.Prose(r.Hint))
	}
	return b.String()
}

func verdictText(verdict string) string {
	if verdict == "deny" {
		return "DENY" // what a person looks for
	}
	return quoted(verdict)
}

// asker is who did something to the sandbox, from outside.
func (r *shownRecord) asker() string {
	if r.Mode == flow.ModeAPI.String() {
		return fmt.Sprintf("uid %d", r.UID)
	}
	return r.Source
}

// asked is what was done to it.
func (r *shownRecord) asked() string {
	var words []string
	for _, word := range []string{r.Command, r.Object, r.target()} {
		if word != "" {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

func (r *shownRecord) target() string {
	host := r.Host
	if host == "" {
		host = r.Address
	}
	if host == "" || r.Port == 0 {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(r.Port)))
}

// quoted makes text one word that is safe to print; a dash where there is none.
func quoted(raw string) string {
	switch {
	case raw == "":
		return "-"
	case strings.Contains(raw, " "):
		return `"` + event.Quote(raw) + `"`
	}
	return event.Quote(raw)
}
