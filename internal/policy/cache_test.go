package policy

import (
	"sync"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

// A thousand connections of one program at once are one evaluation: all of them
// get the very same decision.
func TestNewDecisionIsEvaluatedOnce(t *testing.T) {
	e := engine(t, Config{}, decidePolicy)
	id := program("/usr/bin/curl", "/bin/sh")
	for _, text := range []string{"example.com:443", "nowhere.test:443"} {
		to := target(t, text)
		decisions := make([]*flow.Decision, 1000)
		var start, done sync.WaitGroup
		start.Add(1)
		for i := range decisions {
			done.Go(func() {
				start.Wait()
				decisions[i] = e.Decide(id, to)
			})
		}
		start.Done()
		done.Wait()
		for i, d := range decisions {
			if d != decisions[0] {
				t.Fatalf("%s: decision %d was evaluated again", to, i)
			}
		}
	}
}

// Whatever a decision depends on makes it another one in the cache; what it does
// not depend on finds it there. The policy tells all of them apart.
func TestCacheKey(t *testing.T) {
	e := engine(t, Config{}, `
network_policies:
  p:
    binaries: [{path: /usr/bin/tool, sha256: `+hashA+`, allow_taints: [memfd]}, {path: /usr/bin/parent}, {path: /usr/bin/python3}]
    endpoints: [{host: example.com, port: 443}, {ports: [443], allowed_ips: [192.0.2.0/24]}]
`)
	file := flow.FileID{Device: 1, Inode: 2, CtimeSec: 3, CtimeNsec: 4, Size: 5}
	base := func() (flow.Image, []flow.Image) {
		return flow.Image{Exec: flow.ExecID{TGID: 7, Time: 8}, Path: "/usr/bin/tool", File: file, SHA256: hashA},
			[]flow.Image{{Path: "/bin/sh", File: file}, {Path: "/sbin/init"}}
	}
	image, ancestors := base()
	to := flow.Target{Host: "example.com", Port: 443}
	first := e.Decide(flow.NewIdentity(image, 1000, 1000, ancestors), to)
	if first.Reason != flow.ReasonAllowed {
		t.Fatalf("%+v", first)
	}
	for _, test := range []struct {
		name   string
		change func(*flow.Image, []flow.Image, *flow.Target)
		want   flow.Reason
		same   bool // the very same decision, from the cache
	}{
		{"nothing", func(*flow.Image, []flow.Image, *flow.Target) {}, flow.ReasonAllowed, true},
		{"pid", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.Exec.TGID++ }, flow.ReasonAllowed, true},
		{"time of the exec", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.Exec.Time++ }, flow.ReasonAllowed, true},
		{"pid of an ancestor", func(_ *flow.Image, a []flow.Image, _ *flow.Target) { a[0].Exec.TGID++ }, flow.ReasonAllowed, true},

		{"path", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.Path = "/usr/bin/other" }, flow.ReasonWrongBinary, false},
		{"device", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.File.Device++ }, flow.ReasonAllowed, false},
		{"inode", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.File.Inode++ }, flow.ReasonAllowed, false},
		{"change time", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.File.CtimeNsec++ }, flow.ReasonAllowed, false},
		{"size", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.File.Size++ }, flow.ReasonAllowed, false},
		{"taint", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.Taints = flow.TaintDeleted }, flow.ReasonTaintedBinary, false},
		{"lifted taint", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.Taints = flow.TaintMemfd }, flow.ReasonAllowed, false},
		{"other hash", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.SHA256 = hashB }, flow.ReasonHashMismatch, false},
		{"no hash", func(i *flow.Image, _ []flow.Image, _ *flow.Target) { i.SHA256 = "" }, flow.ReasonHashUnavailable, false},
		{"no hash, but an ancestor", func(i *flow.Image, a []flow.Image, _ *flow.Target) { i.SHA256, a[0].Path = "", "/usr/bin/parent" }, flow.ReasonAllowed, false},
		{"file of an ancestor", func(_ *flow.Image, a []flow.Image, _ *flow.Target) { a[0].File.Inode++ }, flow.ReasonAllowed, false},
		{"no hash, tainted ancestor", func(i *flow.Image, a []flow.Image, _ *flow.Target) {
			i.SHA256, a[1].Path, a[1].Taints = "", "/usr/bin/parent", flow.TaintDeleted
		}, flow.ReasonHashUnavailable, false},
		{"hash of an ancestor", func(i *flow.Image, a []flow.Image, _ *flow.Target) {
			i.Path, a[0].Path, a[0].SHA256 = "/x", "/usr/bin/tool", hashB
		}, flow.ReasonHashMismatch, false},
		{"order of the ancestors", func(_ *flow.Image, a []flow.Image, _ *flow.Target) { a[0], a[1] = a[1], a[0] }, flow.ReasonAllowed, false},

		{"host", func(_ *flow.Image, _ []flow.Image, to *flow.Target) { to.Host = "example.org" }, flow.ReasonNoEndpoint, false},
		{"port", func(_ *flow.Image, _ []flow.Image, to *flow.Target) { to.Port = 80 }, flow.ReasonWrongPort, false},
		{"address", func(_ *flow.Image, _ []flow.Image, to *flow.Target) { *to = target(t, "192.0.2.7:443") }, flow.ReasonAllowed, false},
		{"another address", func(_ *flow.Image, _ []flow.Image, to *flow.Target) { *to = target(t, "192.0.3.7:443") }, flow.ReasonNoEndpoint, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			image, ancestors := base()
			to := to
			test.change(&image, ancestors, &to)
			d := e.Decide(flow.NewIdentity(image, 1000, 1000, ancestors), to)
			if d.Reason != test.want || (d == first) != test.same {
				t.Errorf("%s, from the cache %v; want %s, %v", d.Reason, d == first, test.want, test.same)
			}
		})
	}
	if d := e.Decide(flow.NewIdentity(image, 0, 1000, ancestors), to); d == first {
		t.Error("another user gets the same decision")
	}
}

// Links belong to a generation: with others, the same question has a new answer
// at once, and the policy is not compiled again.
func TestOtherLinksAreAnotherGeneration(t *testing.T) {
	e := engine(t, Config{}, `
network_policies:
  p:
    binaries: [{path: /usr/bin/python3}]
    endpoints: [{host: example.com, port: 443}]
`)
	id, to := program("/usr/bin/python3.11"), target(t, "example.com:443")
	compiled := e.current.Load().compiled
	for i, step := range []struct {
		links []Link
		want  flow.Reason
	}{
		{[]Link{{Path: "/usr/bin/python3", Target: "/usr/bin/python3.11"}}, flow.ReasonAllowed},
		{[]Link{{Path: "/usr/bin/python3", Target: "/usr/bin/python3.12"}}, flow.ReasonWrongBinary},
		{[]Link{{Path: "/usr/bin/python3", Target: "/usr/bin/python3.11", Writable: true}}, flow.ReasonTaintedBinary},
		{[]Link{{Path: "/usr/bin/other", Target: "/usr/bin/python3.11"}}, flow.ReasonWrongBinary},
		{nil, flow.ReasonWrongBinary},
	} {
		if err := e.Replace(t.Context(), e.Policy(), step.links); err != nil {
			t.Fatal(err)
		}
		d := e.Decide(id, to)
		if d.Reason != step.want || d.Generation != uint64(i+2) {
			t.Errorf("%+v: %s, generation %d", step.links, d.Reason, d.Generation)
		}
		if e.Decide(id, to) != d {
			t.Error("the new decision is not remembered")
		}
		if e.current.Load().compiled != compiled {
			t.Error("the policy was compiled again")
		}
	}
}
