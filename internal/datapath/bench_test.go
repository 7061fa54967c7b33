package datapath

import (
	"net"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// BenchmarkLoad is what the datapath takes of a start, and of an end.
func BenchmarkLoad(b *testing.B) {
	cfg := newParent(b)
	cfg.MaxSandboxes = 1
	var loads []time.Duration
	for b.Loop() {
		start := time.Now()
		dp, err := Load(cfg)
		if err != nil {
			b.Fatal(err)
		}
		loads = append(loads, time.Since(start))
		if err := dp.Remove(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(median(loads).Microseconds())/1000, "ms/load")
}

// BenchmarkHooks reports, for each program that a way to use the network or to
// start programs runs, what one run of it takes by the kernel's own account.
func BenchmarkHooks(b *testing.B) {
	dp, parent := loadDatapath(b)
	truth, err := exec.LookPath("true")
	if err != nil {
		b.Skip(err)
	}
	for _, bb := range []struct{ name, step string }{
		{"TCP", "1000*tcp=203.0.113.7:443"},
		{"TCP6", "1000*tcp=[2001:db8::7]:443"},
		{"Loopback", "1000*tcp=127.0.0.1:9"},
		{"DNS", "1000*sendto=203.0.113.53:53"},
		{"DNS6", "1000*sendto6=[2001:db8::53]:53"},
		{"RefusedUDP", "1000*sendto=203.0.113.7:443"},
		{"Bind", "1000*bind=127.0.0.1:0"},
		{"Spawn", "100*spawn=" + truth},
	} {
		b.Run(bb.name, func(b *testing.B) {
			stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
			if err != nil {
				b.Fatal(err)
			}
			defer stats.Close()
			before := runTimes(b, dp)
			for b.Loop() {
				f := newSandbox(b, dp, parent, self(b), "probe", bb.step)
				go echo(f.dns4)
				go echo(f.dns6)
				go f.takeAll(f.capture4)
				go f.takeAll(f.capture6)
				f.start()
				f.wait()
				// What waits to be accepted would lose its origin with the sandbox.
				waitFor(b, func() bool { return f.stats().Origins == 0 }, func() any { return f.stats() })
			}
			reportRunTimes(b, before, runTimes(b, dp))
		})
	}
}

// takeAll is an agent that has nothing else to do.
func (f *fixture) takeAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		origin, err := f.dp.Origins(f.cookie).Take(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
		if err == nil {
			err = f.dp.DropExec(origin.Exec)
		}
		if err != nil {
			f.t.Error(err)
		}
		conn.Close()
	}
}

func runTimes(tb testing.TB, dp *Datapath) map[string]ebpf.ProgramStats {
	tb.Helper()
	times := map[string]ebpf.ProgramStats{}
	for _, h := range dp.hooks() {
		stats, err := h.program.Stats()
		if err != nil {
			tb.Fatal(err)
		}
		times[h.name] = *stats
	}
	return times
}

func reportRunTimes(b *testing.B, before, after map[string]ebpf.ProgramStats) {
	for name, s := range after {
		if runs := s.RunCount - before[name].RunCount; runs > 0 {
			took := s.Runtime - before[name].Runtime
			b.ReportMetric(float64(took.Nanoseconds())/float64(runs), name+"-ns/run")
		}
	}
}

// BenchmarkUnfencedExec compares the start and end of a program outside every
// sandbox with the tracepoint programs attached and without, turn by turn. The
// kernel's own account of the programs is taken apart: counting costs too.
func BenchmarkUnfencedExec(b *testing.B) {
	dp, _ := loadDatapath(b)
	truth, err := exec.LookPath("true")
	if err != nil {
		b.Skip(err)
	}
	var traced []hook
	for i, h := range dp.hooks() {
		if h.attach == ebpf.AttachTraceRawTp {
			traced = append(traced, h)
			if err := dp.links[i].Unpin(); err != nil {
				b.Fatal(err)
			}
			dp.links[i].Close()
		}
	}
	var with, without []time.Duration
	for b.Loop() {
		without = append(without, timeExecs(b, truth))
		detach := attachAll(b, traced)
		with = append(with, timeExecs(b, truth))
		detach()
	}
	b.ReportMetric(float64(median(with))/float64(median(without)), "ratio")
	b.ReportMetric(float64(median(with)), "with-ns/exec")
	b.ReportMetric(float64(median(without)), "without-ns/exec")

	defer attachAll(b, traced)()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	before := runTimes(b, dp)
	timeExecs(b, truth)
	reportRunTimes(b, before, runTimes(b, dp))
}

// attachAll attaches hooks until the function that it returns is called.
func attachAll(tb testing.TB, hooks []hook) (detach func()) {
	tb.Helper()
	var links []link.Link
	for _, h := range hooks {
		l, err := h.link("")
		if err != nil {
			tb.Fatal(err)
		}
		links = append(links, l)
	}
	return func() {
		for _, l := range links {
			l.Close()
		}
	}
}

// timeExecs returns the time of one of several execs.
func timeExecs(tb testing.TB, path string) time.Duration {
	tb.Helper()
	const execs = 20
	var times []time.Duration
	for range execs {
		start := time.Now()
		if err := exec.Command(path).Run(); err != nil {
			tb.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	return median(times)
}

func median(times []time.Duration) time.Duration {
	times = slices.Clone(times)
	slices.Sort(times)
	return times[len(times)/2]
}
