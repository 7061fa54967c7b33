package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFreeze(t *testing.T) {
	g := makeGroup(t)
	busy := startIn(t, g, "sh", "-c", "while :; do :; done")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := g.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if !isFrozen(t, g) {
		t.Error("not frozen")
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	if isFrozen(t, g) {
		t.Error("not thawed")
	}
	if err := g.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(ctx); err != nil { // a frozen one can be
		t.Error(err)
	}
	_ = busy.Wait()
	if err := g.Freeze(ctx); err != nil {
		t.Errorf("without processes: %v", err)
	}
}

func isFrozen(t *testing.T, g *Group) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.Path(), "cgroup.events"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(text), "frozen 1")
}
