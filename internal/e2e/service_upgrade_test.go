package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/testenv"
)

// upgraded is how many sandboxes live while their agent becomes another build.
const upgraded = 10

// steadily is one process that connects all the time, and so is older than whichever
// agent serves it.
const steadily = `
import socket, time
while True:
    try:
        socket.create_connection(("` + allowedName + `", 80), 5).close()
        said = "ok"
    except OSError as e:
        said = "failed"
    with open("/tmp/steady", "a") as f:
        f.write(said + "\n")
    time.sleep(0.2)
`

// The agent becomes a build whose maps are laid out otherwise, and back, under load:
// its sandboxes go on, and who runs there is known as before.
func TestServiceUpgrade(t *testing.T) {
	testenv.Require(t, "curl", "/usr/bin/python3")
	f := newFixture(t)
	other := filepath.Join(filepath.Dir(program), "ringfence-other")
	build := exec.Command("go", "build", "-tags", "otherlayout", "-o", other, "github.com/ringfence/ringfence/cmd/ringfence")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	s := f.newService()
	python := realPath(t, "/usr/bin/python3")
	text := networkPolicy(allowBlock("allowed", allowedName, []int{443}, realPath(t, "curl")) +
		allowBlock("steady", allowedName, []int{80}, python))
	f.file("steady.py", steadily, 0o644)
	names := make([]string, upgraded)
	for i := range names {
		names[i] = fmt.Sprintf("s%02d", i)
		s.create(names[i], text)
		s.detach(names[i], loop)
		s.detach(names[i], "exec "+python+" "+filepath.Join(f.dir, "steady.py"))
	}
	s.awaitCounts(names, upgraded)
	steady := func(name string) int {
		t.Helper()
		out, _, _ := s.exec(name, "grep -c ok /tmp/steady")
		var n int
		_, _ = fmt.Sscan(out, &n)
		return n
	}
	before := s.identities()
	for _, build := range []string{other, program} {
		t.Run(filepath.Base(build), func(t *testing.T) {
			// A name of no policy: the hooks refuse its address, and count that.
			_, _, _ = s.exec(names[0], "curl -sS --noproxy '*' --max-time 2 http://"+deniedIPv4+":81/; true")
			rejected := fmt.Sprint(s.get(t, names[0]).GetRejected())
			_ = s.stop(syscall.SIGTERM)
			s.program = build
			begin := time.Now()
			s.start()
			took := time.Since(begin)
			t.Logf("served again after %v", took.Round(time.Millisecond))
			if took > 10*time.Second {
				t.Error("that is too long")
			}
			status := s.status()
			if status.GetAdopted() != upgraded || status.GetHooks() != "migrated" || len(status.GetProblems()) > 0 {
				t.Errorf("status: %v\n%s", status, s.log)
			}
			for reason, n := range s.get(t, names[0]).GetRejected() {
				var was uint64
				if _, rest, ok := strings.Cut(rejected, reason+":"); ok {
					_, _ = fmt.Sscan(rest, &was)
				}
				if n < was {
					t.Errorf("rejected for %s: %d, were %d", reason, n, was)
				}
			}
			for _, name := range names {
				if frozen := string(readFile(t, filepath.Join(cgroupsDir(t), s.instance, name, "cgroup.events"))); !strings.Contains(frozen, "frozen 0") {
					t.Errorf("%s: %s", name, frozen)
				}
				was := steady(name)
				await(t, name+": the process of before connects", func() bool { return steady(name) > was })
			}
			s.awaitCounts(names, s.counts(names)+upgraded)
			for _, name := range names {
				for _, r := range s.records(name) {
					if r.Host == deniedName && r.Verdict != "deny" || r.Port == 80 && r.Host == allowedName && (r.Verdict != "allow" || r.Binary != python) {
						t.Errorf("%s: %+v", name, r)
					}
				}
			}
		})
	}
	if after := s.identities(); after != before {
		t.Errorf("sandboxes were\n%s\nand are\n%s", before, after)
	}
	s.whole(t)
}
