package agent

import (
	"log/slog"
	"testing"

	"github.com/ringfence/ringfence/internal/floor"
	"github.com/ringfence/ringfence/internal/testenv"
)

// A machine that runs these tests has all that is required, and the rooms say so.
func TestRequirements(t *testing.T) {
	testenv.Require(t)
	groups := map[string]int{}
	for _, r := range Requirements() {
		groups[r.Group]++
		if r.Required() && r.State != floor.Met {
			t.Errorf("%+v", r)
		}
		if r.Name == "" || r.Found == "" || r.Hint == "" {
			t.Errorf("says too little: %+v", r)
		}
	}
	if len(groups) != 3 || groups["machine"] == 0 || groups["hooks"] == 0 || groups["sandbox"] == 0 {
		t.Errorf("groups %v", groups)
	}
}

func TestTry(t *testing.T) {
	testenv.Require(t)
	testenv.CheckLeaks(t)
	took, err := Try(t.Context(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil || took.Attach <= 0 || took.Run <= 0 {
		t.Errorf("took %+v, %v", took, err)
	}
}

// BenchmarkRequirements is the price of the look at each start.
func BenchmarkRequirements(b *testing.B) {
	for b.Loop() {
		Requirements()
	}
}
