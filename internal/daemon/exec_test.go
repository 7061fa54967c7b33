package daemon

import (
	"strings"
	"testing"
)

// A record has no more of a command than a person reads.
func TestCommandLine(t *testing.T) {
	tests := []struct {
		name string
		argv []string
		want string
	}{
		{"short", []string{"git", "fetch"}, "git fetch"},
		{"at the bound", []string{strings.Repeat("x", maxCommand)}, strings.Repeat("x", maxCommand)},
		{"over it", []string{strings.Repeat("x", maxCommand), "y"}, strings.Repeat("x", maxCommand) + " …"},
		{"within a rune", []string{strings.Repeat("x", maxCommand-1) + "é"}, strings.Repeat("x", maxCommand-1) + " …"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := commandLine(tt.argv); got != tt.want {
				t.Errorf("%d bytes, want %d", len(got), len(tt.want))
			}
		})
	}
}
