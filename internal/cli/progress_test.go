package cli

import (
	"os"
	"strings"
	"testing"
)

// What takes long is said on a terminal, and is gone when it is done.
func TestProgress(t *testing.T) {
	p, terminal := sitDown(t)
	shown := startProgress(terminal, func() string { return "copied \x1b[31m much" })
	p.await(t, `copied \x1b[31m much`)
	shown.end()
	p.await(t, "\r\x1b[K")
	if !strings.HasSuffix(p.text(), "\r\x1b[K") {
		t.Errorf("on the screen: %q", p.text())
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	called := false
	shown = startProgress(file, func() string { called = true; return "x" })
	p2, other := sitDown(t) // waits for as long as the first would show
	second := startProgress(other, func() string { return "second" })
	p2.await(t, "second")
	second.end()
	shown.end()
	if info, err := file.Stat(); err != nil || info.Size() != 0 || called {
		t.Errorf("a file gets progress: %v, %v", info, err)
	}
}
