package launch

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandHasNothingLeft(t *testing.T) {
	n := start(t)
	c := command("cat", "/proc/self/status")
	c.Groups = []uint32{20, 4}
	status := runIn(t, n, c).out
	got := map[string]string{}
	want := map[string]string{
		"Uid":        "2013265927\t2013265927\t2013265927\t2013265927",
		"Gid":        "2013265927\t2013265927\t2013265927\t2013265927",
		"Groups":     "4 20",
		"CapInh":     "0000000000000000",
		"CapPrm":     "0000000000000000",
		"CapEff":     "0000000000000000",
		"CapBnd":     "0000000000000000",
		"CapAmb":     "0000000000000000",
		"NoNewPrivs": "1",
		"Seccomp":    "2",
	}
	for name := range want {
		got[name] = statusField(status, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}
