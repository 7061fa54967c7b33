package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ringfence/ringfence/internal/testenv"
)

// Where the benchmarks' servers listen: HTTP, and a few bytes for a few bytes.
const (
	benchHTTPPort = 9000
	benchEchoPort = 9001
)

// loadResult is what testdata/load prints.
type loadResult struct {
	Rate  float64 `json:"rate"`
	P50us float64 `json:"p50_us"`
	P99us float64 `json:"p99_us"`
}

// BenchmarkFenced runs one client against one server, inside a sandbox and
// outside of it by turns, and reports the medians and their ratio: fenced/direct
// of the rate, so 1.0 is no cost at all.
func BenchmarkFenced(b *testing.B) {
	cases := []struct {
		name string
		port int
		args []string
	}{
		{"connect", benchHTTPPort, []string{"-mode", "connect", "-n", "2000"}},
		{"connect-8-clients", benchHTTPPort, []string{"-mode", "connect", "-n", "2400", "-c", "8"}},
		{"keepalive", benchHTTPPort, []string{"-mode", "keepalive", "-n", "10000"}},
		{"keepalive-8-clients", benchHTTPPort, []string{"-mode", "keepalive", "-n", "20000", "-c", "8"}},
		{"echo", benchEchoPort, []string{"-mode", "echo", "-n", "20000"}},
		{"bulk", benchEchoPort, []string{"-mode", "bulk", "-n", "1024"}},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			// Its own internet: closed connections hold their ports for a minute.
			f := newBenchFixture(b)
			for b.Loop() {
				direct, fenced := f.compare(c.port, c.args)
				b.ReportMetric(direct.P50us, "direct-p50-µs")
				b.ReportMetric(direct.P99us, "direct-p99-µs")
				b.ReportMetric(fenced.P50us, "fenced-p50-µs")
				b.ReportMetric(fenced.P99us, "fenced-p99-µs")
				b.ReportMetric(direct.Rate, "direct/s")
				b.ReportMetric(fenced.Rate, "fenced/s")
				b.ReportMetric(fenced.Rate/direct.Rate, "ratio")
				b.ReportMetric(0, "ns/op") // of the whole comparison: says nothing
			}
		})
	}
}

type benchFixture struct {
	*fixture
	load   string
	policy string
}

func newBenchFixture(b *testing.B) *benchFixture {
	b.Helper()
	f := &benchFixture{fixture: newFixtureWith(b, testenv.Config{NoWitness: true})}
	f.load = filepath.Join(f.dir, "load")
	build := exec.Command("go", "build", "-o", f.load, "./testdata/load")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build load: %v\n%s", err, out)
	}
	f.policy = f.fixture.policy(allowBlock("bench", allowedIPv4, []int{benchHTTPPort, benchEchoPort}, f.load))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello, world\n")
	})}
	go func() { _ = server.Serve(f.listen(benchHTTPPort)) }()
	go serveEcho(f.listen(benchEchoPort))
	return f
}

func (f *benchFixture) listen(port int) net.Listener {
	f.t.Helper()
	l, err := f.env.Listen("tcp", fmt.Sprint(allowedIPv4, ":", port))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { l.Close() })
	return l
}

// compare runs both ways by turns, so that a machine that gets slower does so for
// both, and returns the medians.
func (f *benchFixture) compare(port int, args []string) (direct, fenced loadResult) {
	f.t.Helper()
	var directs, fenceds []loadResult
	args = append([]string{f.load, "-addr", fmt.Sprint(allowedIPv4, ":", port)}, args...)
	for range 5 {
		cmd := f.env.Command(args[0], args[1:]...)
		directs = append(directs, f.output(cmd))
		argv := append([]string{"run", "--agent=never"}, f.flags...)
		argv = append(argv, "--policy", f.policy, "--")
		fenceds = append(fenceds, f.output(f.env.Command(program, append(argv, args...)...)))
	}
	return medianOf(directs), medianOf(fenceds)
}

func (f *benchFixture) output(cmd *exec.Cmd) loadResult {
	f.t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.String())
	}
	var r loadResult
	if err := json.Unmarshal(out, &r); err != nil {
		f.t.Fatal(err)
	}
	return r
}

func medianOf(results []loadResult) loadResult {
	median := func(of func(loadResult) float64) float64 {
		var values []float64
		for _, r := range results {
			values = append(values, of(r))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return loadResult{
		Rate:  median(func(r loadResult) float64 { return r.Rate }),
		P50us: median(func(r loadResult) float64 { return r.P50us }),
		P99us: median(func(r loadResult) float64 { return r.P99us }),
	}
}

// serveEcho answers the echo and bulk modes of testdata/load.
func serveEcho(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			request, response := make([]byte, 64), make([]byte, 128)
			for {
				if _, err := io.ReadFull(conn, request); err != nil {
					return
				}
				if request[0] == 'B' {
					sendBulk(conn, int(request[1])<<8|int(request[2]))
					return
				}
				if _, err := conn.Write(response); err != nil {
					return
				}
			}
		}()
	}
}

func sendBulk(conn net.Conn, mebibytes int) {
	chunk := make([]byte, 1<<20)
	for range mebibytes {
		if _, err := conn.Write(chunk); err != nil {
			return
		}
	}
}
