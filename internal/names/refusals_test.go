package names

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestRefusalsGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := new(records)
		r := refusals{sink: sink}
		begin := time.Now()
		refuse := func(exec, host string, reason flow.Reason) {
			r.add(host, flow.Record{ExecID: exec, Host: host, Reason: reason})
		}
		for range 3 {
			refuse("1:1", "evil.example", flow.ReasonUndeclaredName)
			refuse("2:2", "evil.example", flow.ReasonUndeclaredName)
			refuse("1:1", "evil.example", flow.ReasonQuestionRefused)
			refuse("1:1", "other.example", flow.ReasonUndeclaredName)
			time.Sleep(refusalWindow / 4)
		}
		if got := sink.all(); len(got) > 0 {
			t.Fatalf("%d records before the window was over", len(got))
		}
		time.Sleep(refusalWindow)
		synctest.Wait()
		got := sink.all()
		if len(got) != 4 {
			t.Fatalf("%d records, want 4", len(got))
		}
		for _, record := range got {
			if record.Count != 3 || !record.Time.Equal(begin) {
				t.Errorf("%s: count %d at %s, want 3 at %s", record.Host, record.Count, record.Time, begin)
			}
		}
		// The next window begins with the next refusal.
		refuse("1:1", "evil.example", flow.ReasonUndeclaredName)
		time.Sleep(refusalWindow)
		synctest.Wait()
		if got := sink.all(); len(got) != 5 || got[4].Count != 1 {
			t.Errorf("%d records after the second window, want 5", len(got))
		}
	})
}

func TestRefusalsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := new(records)
		r := refusals{sink: sink}
		const names = 10 * maxRefusals
		for i := range names {
			host := fmt.Sprintf("tunnel%d.example", i)
			r.add(host, flow.Record{Host: host, Reason: flow.ReasonUndeclaredName})
		}
		r.flush()
		got, sum := sink.all(), uint64(0)
		for _, record := range got {
			sum += record.Count
		}
		if len(got) != maxRefusals+1 || sum != names {
			t.Errorf("%d records for %d refusals, want %d for %d", len(got), sum, maxRefusals+1, names)
		}
		if last := got[len(got)-1]; last.Detail == "" || last.Count != names-maxRefusals {
			t.Errorf("the record of the rest: %+v", last)
		}
	})
}

func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pacer{interval: time.Millisecond, burst: 10}
		begin := time.Now()
		for range 110 {
			p.wait(t.Context())
		}
		if got := time.Since(begin); got != 100*time.Millisecond {
			t.Errorf("110 calls took %s, want 100ms", got)
		}
		if got := p.waits.Load(); got != 100 {
			t.Errorf("%d calls waited, want 100", got)
		}
		time.Sleep(time.Hour) // saves no more than the burst
		begin = time.Now()
		for range 20 {
			p.wait(t.Context())
		}
		if got := time.Since(begin); got != 10*time.Millisecond {
			t.Errorf("20 calls after an idle time took %s, want 10ms", got)
		}
	})
}
