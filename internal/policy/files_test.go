package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func loadText(t *testing.T, text string) (*Policy, []Warning) {
	t.Helper()
	p, warnings, err := Load(Source{"x.yaml", []byte("version: 1\n" + text)})
	if err != nil {
		t.Fatal(err)
	}
	return p, warnings
}

func TestFiles(t *testing.T) {
	p, warnings := loadText(t, `filesystem_policy: {include_workdir: true, read_only: [/usr, /etc/], read_write: [/tmp]}
landlock: {compatibility: hard_requirement}`)
	got, restricted := p.Files()
	want := Files{ReadOnly: []string{"/usr", "/etc/"}, ReadWrite: []string{"/tmp"}, IncludeWorkdir: true}
	if diff := cmp.Diff(want, got); diff != "" || !restricted || !p.LandlockRequired() || len(warnings) > 0 {
		t.Errorf("%v, required %v, warnings %v; files (-want +got)\n%s", restricted, p.LandlockRequired(), warnings, diff)
	}
	p, _ = loadText(t, "landlock: {compatibility: best_effort}")
	if _, restricted := p.Files(); restricted || p.LandlockRequired() {
		t.Errorf("without filesystem_policy: %v, %v", restricted, p.LandlockRequired())
	}
	// A section without a path closes everything: it is not the same as none.
	p, _ = loadText(t, "filesystem_policy: {}")
	if _, restricted := p.Files(); !restricted {
		t.Error("an empty filesystem_policy restricts nothing")
	}
}

func TestSameFiles(t *testing.T) {
	const first = "filesystem_policy: {read_only: [/a, /b], read_write: [/c]}\n"
	tests := []struct {
		name, a, b string
		same       bool
	}{
		{"neither", "", "", true},
		{"the same", first, first, true},
		{"another order", first, "filesystem_policy: {read_only: [/b, /a], read_write: [/c]}", true},
		{"only one", first, "", false},
		{"none and empty", "", "filesystem_policy: {}", false},
		{"another path", first, "filesystem_policy: {read_only: [/a], read_write: [/c]}", false},
		{"read and written", first, "filesystem_policy: {read_only: [/a], read_write: [/b, /c]}", false},
		{"the working directory", first, "filesystem_policy: {include_workdir: true, read_only: [/a, /b], read_write: [/c]}", false},
		{"required", first, first + "landlock: {compatibility: hard_requirement}", false},
		{"best effort, said and not", first, first + "landlock: {compatibility: best_effort}", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, _ := loadText(t, tt.a)
			b, _ := loadText(t, tt.b)
			if a.SameFiles(b) != tt.same || b.SameFiles(a) != tt.same {
				t.Errorf("same: %v, %v; want %v", a.SameFiles(b), b.SameFiles(a), tt.same)
			}
		})
	}
}
