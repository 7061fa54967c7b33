package launch

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// scoreFile is of the host's view: the sandbox's is read-only.
const scoreFile = "/proc/self/oom_score_adj"

// forgoSparing: an agent may be spared when memory runs out, as its systemd unit has it.
// What it starts inherits that, and a sandbox that fills the memory would have
// everything else of the host's ended first. To be spared less needs no privilege.
func forgoSparing() error {
	text, err := os.ReadFile(scoreFile)
	if err != nil {
		return fmt.Errorf("read score: %w", err)
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("read score: %w", err)
	}
	if score >= 0 {
		return nil
	}
	if err := os.WriteFile(scoreFile, []byte("0"), 0); err != nil {
		return fmt.Errorf("write score: %w", err)
	}
	return nil
}
