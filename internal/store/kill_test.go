package store

import (
	"bufio"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// writerDir names the directory for a child that writes until it is killed.
const writerDir = "RINGFENCE_TEST_STORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		if err := writeForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeForEver writes one number in several places at once, says so, and goes on with
// the next.
func writeForEver(dir string) error {
	s, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	start := 0
	if last, err := s.Get(Sandboxes, "n"); err == nil {
		if start, err = strconv.Atoi(string(last)); err != nil {
			return err
		}
	}
	for n := start + 1; ; n++ {
		text := []byte(strconv.Itoa(n))
		var b Batch
		b.Put(Sandboxes, "n", text)
		b.PutSecret(Providers, "n", text)
		b.Put(Policies, strconv.Itoa(n%100), append(text, make([]byte, n%10_000)...))
		b.Delete(Trust, strconv.Itoa(n-3))
		b.Put(Trust, strconv.Itoa(n), text)
		if err := s.Write(&b); err != nil {
			return err
		}
		if _, err := fmt.Println(n); err != nil {
			return err
		}
	}
}

// A writer is killed at fifty instants, also of its start: what it has said to be
// written is there, and of what it was about to write all or nothing.
func TestKilled(t *testing.T) {
	dir := stateDir(t)
	acknowledged, written := 0, 0
	for range 50 {
		child := exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), writerDir+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		must(t, err, child.Start())
		timer := time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { _ = child.Process.Kill() })
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil || n != max(acknowledged, written)+1 {
				t.Fatalf("%q after %d", lines.Text(), acknowledged)
			}
			acknowledged = n
		}
		_ = child.Wait()
		timer.Stop()
		if code := child.ProcessState.ExitCode(); code != -1 {
			t.Fatalf("it ended by itself, with %d", code)
		}

		s := open(t, config(dir))
		all := items(t, s)
		must(t, s.Close())
		if len(all) == 0 && acknowledged == 0 {
			continue
		}
		n, err := strconv.Atoi(all["sandboxes/n"])
		if err != nil || n != acknowledged && n != acknowledged+1 {
			t.Fatalf("%q is there, after %d", all["sandboxes/n"], acknowledged)
		}
		if all["providers/n"] != strconv.Itoa(n) || all["trust/"+strconv.Itoa(n)] != strconv.Itoa(n) {
			t.Fatalf("of %d only a part is there", n)
		}
		if _, ok := all["trust/"+strconv.Itoa(n-3)]; ok {
			t.Fatalf("of %d only a part is there", n)
		}
		if n > acknowledged {
			written = n
		}
		acknowledged = n
	}
	if acknowledged < 50 {
		t.Errorf("only %d writes", acknowledged)
	}
	t.Logf("%d writes", acknowledged)
}
