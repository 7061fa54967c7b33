package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/testenv"
)

// Each connection has one record, and that has every field.
func TestRecordOfEachConnection(t *testing.T) {
	f := newFixture(t)
	curl, sh := realPath(t, "curl"), realPath(t, "sh")
	policy := f.allow([]int{80, 443}, curl)
	r := f.prepare("--user", "54321", "--policy", policy, "--", sh, "-c", fmt.Sprintf(`
		curl -sS -o /dev/null http://%[1]s/bytes/70000
		curl -sS -o /dev/null https://%[1]s/
		curl -s http://%[2]s/
		curl -s https://%[2]s/; true`, allowedName, deniedIPv4))
	from := time.Now()
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := r.wait()
	if got.status != 0 {
		t.Fatalf("status %d\n%s", got.status, got.stderr)
	}
	shell := []string{sh}
	want := []record{
		{
			Verdict: "allow", Engine: "opa", Policy: "allowed", Reason: "allowed", Mode: "transparent",
			Host: allowedName, Port: 80,
		},
		{
			Verdict: "allow", Engine: "opa", Policy: "allowed", Reason: "allowed", Mode: "connect",
			Host: allowedName, Port: 443,
		},
		{
			Verdict: "deny", Engine: "opa", Reason: "no_endpoint", Mode: "transparent",
			Host: deniedIPv4, Port: 80,
		},
		{
			Verdict: "deny", Engine: "opa", Reason: "no_endpoint", Mode: "connect",
			Host: deniedIPv4, Port: 443,
		},
	}
	for i := range want {
		want[i].Sandbox, want[i].Generation = "sandbox", 1
		want[i].Binary, want[i].UID = curl, 54321
		want[i].Ancestors, want[i].Taints = shell, []string{}
	}
	loose := cmpopts.IgnoreFields(record{}, "Time", "PID", "Sent", "Received", "DurationMS", "ExecID", "Hint", "Detail", "Address", "SHA256")
	if diff := cmp.Diff(want, got.records, loose); diff != "" {
		t.Fatalf("records (-want +got):\n%s", diff)
	}
	pids, execs := make(map[int]bool), make(map[string]bool)
	for i, rec := range got.records {
		pids[rec.PID], execs[rec.ExecID] = true, true
		if rec.Time.Before(from.Add(-time.Second)) || rec.Time.After(time.Now()) || rec.DurationMS <= 0 || rec.DurationMS > 60_000 {
			t.Errorf("record %d: time %v, %v ms", i, rec.Time, rec.DurationMS)
		}
		addr, err := netip.ParseAddr(rec.Address)
		if err != nil {
			t.Errorf("record %d: address %q", i, rec.Address)
		}
		arrived, err := f.env.Arrived(testenv.ToPort(netip.AddrPortFrom(addr, uint16(rec.Port))))
		if err != nil || (len(arrived) > 0) != (rec.Verdict == "allow") {
			t.Errorf("record %d: at %v arrived %v, %v", i, addr, arrived, err)
		}
		if denied := rec.Verdict == "deny"; denied != (rec.Hint != "") || rec.Reason == "" {
			t.Errorf("record %d: reason %q, hint %q", i, rec.Reason, rec.Hint)
		}
	}
	if len(pids) != len(want) || len(execs) != len(want) {
		t.Errorf("four programs have pids %v, exec ids %v", pids, execs)
	}
	if rec := got.records[0]; rec.Sent < 50 || rec.Sent > 1000 || rec.Received < 70_000 || rec.Received > 71_000 {
		t.Errorf("bytes sent %d, received %d", rec.Sent, rec.Received)
	}
	if rec := got.records[2]; rec.Sent != 0 || rec.Received != 0 {
		t.Errorf("a denied connection has bytes: %+v", rec)
	}
	if info, err := os.Stat(r.recordsPath); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of records: %v, %v", info.Mode(), err)
	}
}

// Records on the standard output are whole lines, whatever the command writes
// there.
func TestRecordsToStdout(t *testing.T) {
	f := newFixture(t)
	policy := f.allow([]int{443}, realPath(t, "curl"))
	r := f.run("--records", "-", "--policy", policy, "--", "/bin/sh", "-c",
		"echo begin; curl -sS -o /dev/null https://"+allowedName+"/; echo end")
	var lines []string
	var records int
	for line := range strings.Lines(r.stdout) {
		var rec record
		if json.Unmarshal([]byte(line), &rec) == nil && rec.Host == allowedName {
			records++
			continue
		}
		lines = append(lines, line)
	}
	if records != 1 || strings.Join(lines, "") != "begin\nend\n" {
		t.Errorf("%d records in\n%s", records, r.stdout)
	}
}

// hostileName is the name of a program that would change colours, forge a line and
// turn the direction of text, and is no UTF-8.
const hostileName = "e\x1b[31mvil\n{\"verdict\":\"allow\"}\u202e\xff\x07"

// A program with such a name comes out escaped, and the record says it reversibly.
func TestHostileProgramName(t *testing.T) {
	f := newFixture(t)
	policy := f.allow([]int{443}, "/bin/none")
	hostile := f.copyOf(realPath(t, "curl"), hostileName)
	running := f.start("--policy", policy, "--", hostile, "-s", "https://"+allowedName+"/")
	r := running.wait()
	text, err := os.ReadFile(running.recordsPath)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n != 1 || bytes.ContainsAny(text, "\x1b\x07\u202e") || bytes.IndexByte(text, 0xff) >= 0 {
		t.Errorf("%d lines:\n%q", n, text)
	}
	if len(r.records) != 1 {
		t.Fatalf("records %+v", r.records)
	}
	if raw, err := event.Unescape(r.records[0].Binary); err != nil || raw != hostile {
		t.Errorf("binary %q reads as %q, %v", r.records[0].Binary, raw, err)
	}
	if r.records[0].Verdict != "deny" {
		t.Errorf("%+v", r.records[0])
	}
}

// The summary shows it to a person, whose terminal stays as it is.
func TestHostileProgramNameOnATerminal(t *testing.T) {
	f := newFixture(t)
	f.copyOf(realPath(t, "curl"), hostileName)
	p := newPane(t, f, "--policy", f.allow([]int{443}, "/bin/none"))
	p.clear()
	p.types("rf -- sh -c './e* -s https://" + allowedName + "/'")
	p.matches(`^VERDICT +COUNT +PROGRAM`)
	p.matches(`^deny +1 +.*e\\x1b\[31mvil\\n\{\\"verdict\\":\\"allow\\"\}\\u202e\\xff\\a +` + allowedName)
	if coloured := p.do("capture-pane", "-p", "-e"); strings.Contains(coloured, "\x1b[31m") {
		t.Errorf("the terminal was told to change colours:\n%q", coloured)
	}
}
