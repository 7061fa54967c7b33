package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/testenv"
)

// The disk for records is full for a while: every connection goes on as before, every
// record is either written whole or counted as lost, and when there is room again
// they are written again.
func TestRecordsToADiskThatWasFull(t *testing.T) {
	f := newFixture(t)
	curl := realPath(t, "curl")
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	filler, records := filepath.Join(disk, "filler"), filepath.Join(disk, "records")
	// The disk has 16 blocks: one for the first records, none for more.
	if err := os.WriteFile(filler, make([]byte, 15<<12), 0o600); err != nil {
		t.Fatal(err)
	}
	const full, after = 40, 10
	until := filepath.Join(f.dir, "until")
	script := func(n int) string {
		return fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); curl -sS -o /dev/null https://%s/ || exit 9; done", n, allowedName)
	}
	r, out := f.startSaying(f.allow([]int{443}, curl), "echo ready; "+script(full)+"; echo full; while [ ! -e "+until+" ]; do sleep 0.02; done; "+script(after),
		"--records", records)
	if line, _ := out.ReadString('\n'); line != "full\n" {
		t.Errorf("says %q", line)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.file("until", "", 0o644)
	rest(t, out)
	got := r.wait()
	if got.status != 0 {
		t.Errorf("status %d\n%s", got.status, got.stderr)
	}
	text, err := os.ReadFile(records)
	if err != nil {
		t.Fatal(err)
	}
	whole, torn := 0, 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "{") && strings.HasSuffix(line, "}\n") {
			whole++
		} else {
			torn++
		}
	}
	lost := 0
	if found := regexp.MustCompile(`ringfence: (\d+) records were lost`).FindStringSubmatch(got.stderr); found != nil {
		lost, _ = strconv.Atoi(found[1])
	}
	if whole+lost != full+after || lost == 0 || whole < after+1 || torn > 1 {
		t.Errorf("%d records written, %d torn, %d lost, of %d\n%s", whole, torn, lost, full+after, got.stderr)
	}
	t.Logf("%d written, %d lost, %d torn", whole, lost, torn)
}

// The resolver dies, in each way in which one can: what needs it is refused in
// bounded time and recorded as that, what does not goes on, and with the resolver
// everything comes back.
func TestDeadResolver(t *testing.T) {
	for dead := silent; dead < moods; dead++ {
		t.Run(dead.String(), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			curl := realPath(t, "curl")
			m := newMoodyResolver(t, f)
			if err := m.feel(dead); err != nil {
				t.Fatal(err)
			}
			until := filepath.Join(f.dir, "until")
			policy := f.policy(allowBlock("allowed", allowedName, []int{443}, curl) + allowBlock("address", allowedIPv4, []int{80}, curl))
			ask := "curl -sS --max-time 20 -o /dev/null "
			r, out := f.startSaying(policy, fmt.Sprintf(`echo ready
				%[1]s https://%[2]s/ 2>/dev/null; echo $?
				%[1]s http://%[3]s/; echo $?
				while [ ! -e %[4]s ]; do sleep 0.02; done
				sleep 1.1 # a failure is remembered for a second
				%[1]s https://%[2]s/; echo $?`, ask, allowedName, allowedIPv4, until))
			start := time.Now()
			says := func() string {
				line, _ := out.ReadString('\n')
				return strings.TrimSpace(line)
			}
			if got := says(); got != "35" && got != "56" { // reset in the handshake
				t.Errorf("without a resolver curl ends with %q", got)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if got := says(); got != "0" {
				t.Errorf("an address that needs no resolver: curl ends with %q", got)
			}
			asked := m.asks.Load()
			if err := m.feel(answering); err != nil {
				t.Fatal(err)
			}
			f.file("until", "", 0o644)
			if got := says(); got != "0" {
				t.Errorf("with the resolver back curl ends with %q", got)
			}
			rest(t, out)
			got := r.wait()
			verdicts := ""
			for _, rec := range got.about(allowedName) {
				verdicts += rec.Verdict + " " + rec.Reason + ";"
			}
			if want := "deny resolve_failed;allow allowed;"; !strings.HasSuffix(verdicts, want) || got.status != 0 {
				t.Errorf("status %d, records %q, want %q\n%s", got.status, verdicts, want, got.stderr)
			}
			if (asked > 0) != (dead != absent) {
				t.Errorf("it was asked %d times while it was %v", asked, dead)
			}
			f.env.NothingArrived(t, func(flow testenv.Flow) bool {
				to := flow.Destination
				return to.Addr() != m.addr.Addr() && to.Port() != 443 && to.Port() != 80
			})
		})
	}
}
