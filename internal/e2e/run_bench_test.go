package e2e

import (
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

// BenchmarkRunTrue is a whole run of a command that does nothing, from execve to
// the exit status. The CPU time tells what it costs on a machine that is busy.
func BenchmarkRunTrue(b *testing.B) {
	testenv.Require(b)
	var took []time.Duration
	var cpu time.Duration
	for b.Loop() {
		cmd := exec.Command(program, "run", "--agent=never", "--workdir", "/", "--", "true")
		start := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		took = append(took, time.Since(start))
		cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	slices.Sort(took)
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(milliseconds(took[len(took)/2]), "p50-ms")
	b.ReportMetric(milliseconds(took[len(took)*99/100]), "p99-ms")
	b.ReportMetric(milliseconds(took[0]), "min-ms")
	b.ReportMetric(milliseconds(cpu)/float64(len(took)), "cpu-ms")
	b.ReportMetric(0, "ns/op")
}
