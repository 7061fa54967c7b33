package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// A sandbox has as much of the log as its log_level asks for, less or more than the rest.
func TestLevels(t *testing.T) {
	f := newFleet()
	for name, level := range map[string]string{"loud": "debug", "quiet": "error", "usual": ""} {
		f.change(claim(t, f, name), func(_ *box, next *pb.Sandbox) { next.Spec.LogLevel = level })
	}
	var out bytes.Buffer
	log := slog.New(newLevels(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}), f))
	tests := []struct {
		sandbox string
		level   slog.Level
		want    bool
	}{
		{"", slog.LevelDebug, false}, {"", slog.LevelInfo, true},
		{"usual", slog.LevelDebug, false}, {"usual", slog.LevelInfo, true},
		{"loud", slog.LevelDebug, true}, {"loud", slog.LevelWarn, true},
		{"quiet", slog.LevelWarn, false}, {"quiet", slog.LevelError, true},
		{"gone", slog.LevelDebug, false}, {"gone", slog.LevelInfo, true},
	}
	for _, tt := range tests {
		for how, told := range map[string]func(){
			"in the message": func() { log.Log(t.Context(), tt.level, "said", "sandbox", tt.sandbox, "more", 1) },
			"in the logger":  func() { log.With("sandbox", tt.sandbox).With("more", 1).Log(t.Context(), tt.level, "said") },
			"and a group": func() {
				log.With("sandbox", tt.sandbox).WithGroup("group").Log(t.Context(), tt.level, "said", "more", 1)
			},
		} {
			out.Reset()
			told()
			if got := strings.Contains(out.String(), "said"); got != tt.want {
				t.Errorf("%q at %v, %s: told %v, want %v", tt.sandbox, tt.level, how, got, tt.want)
			}
		}
	}
	// A change is in force at once.
	f.change(f.find("quiet"), func(_ *box, next *pb.Sandbox) { next.Spec.LogLevel = "debug" })
	out.Reset()
	if log.Debug("said", "sandbox", "quiet"); out.Len() == 0 {
		t.Error("the new level is not in force")
	}
}
