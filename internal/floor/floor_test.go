package floor

import (
	"errors"
	"strings"
	"testing"
)

func TestKernel(t *testing.T) {
	tests := []struct {
		release string
		want    State
	}{
		{"4.19.0-27-amd64", Missing},
		{"5.10.0-33-cloud-amd64", Missing},
		{"5.15.167.4-microsoft-standard-WSL2", Missing},
		{"6.0.19", Missing},
		{"6.1.0-56-cloud-amd64", Met},
		{"6.1", Met},
		{"6.1-rc1", Met},
		{"6.12.117", Met},
		{"7.0.0", Met},
		{"10.0.1", Met},
		{"6", Unknown},
		{"next", Unknown},
		{"", Unknown},
	}
	for _, tt := range tests {
		t.Run(tt.release, func(t *testing.T) {
			got := judgeKernel(tt.release)
			if got.State != tt.want || !got.Required() {
				t.Errorf("%+v", got)
			}
			if !strings.Contains(got.Found, tt.release) {
				t.Errorf("found %q", got.Found)
			}
		})
	}
	if got := Kernel(); got.State == Unknown {
		t.Errorf("this kernel: %+v", got)
	}
}

// Only what is required and seen to be missing stops a start.
func TestCheck(t *testing.T) {
	fine := []Requirement{
		{Name: "one", State: Met},
		{Name: "two", State: Missing, Costs: "something"},
		{Name: "three"}, // not known: the start will tell
	}
	if err := Check(fine); err != nil {
		t.Error(err)
	}
	err := Check(append(fine, Requirement{Name: "four", State: Missing, Found: "none"}, judgeKernel("5.10.1")))
	var lacking *Error
	if !errors.As(err, &lacking) || len(lacking.Missing) != 2 {
		t.Fatalf("error %v", err)
	}
	const want = "this machine lacks four: none\nthis machine lacks Linux 6.1 or newer: 5.10.1"
	if err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestStates(t *testing.T) {
	var zero Requirement
	if !zero.Required() || zero.State != Unknown {
		t.Errorf("the zero value is %+v", zero)
	}
	for state, want := range map[State]string{Unknown: "unknown", Missing: "missing", Met: "ok", 99: "unknown"} {
		if got, err := state.MarshalText(); err != nil || string(got) != want {
			t.Errorf("%d is %q, %v", state, got, err)
		}
	}
}
