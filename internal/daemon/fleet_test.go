package daemon

import (
	"testing"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// A user number belongs to one sandbox at a time, and the lowest free one is the next:
// what a sandbox of before left to its number is gone with it.
func TestFleetNumbers(t *testing.T) {
	f := newFleet()
	f.enter(&box{name: "restored", message: &pb.Sandbox{Name: "restored"}, saved: saved{Number: 1}})
	a, b := claim(t, f, "a"), claim(t, f, "b")
	if a.saved.Number != 0 || b.saved.Number != 2 {
		t.Fatalf("numbers %d and %d beside 1", a.saved.Number, b.saved.Number)
	}
	if _, ok := f.claim(&pb.Sandbox{Name: "a"}); ok || f.len() != 3 {
		t.Errorf("a second a, of %d", f.len())
	}
	f.remove(a)
	again := claim(t, f, "a")
	if again.saved.Number != 0 {
		t.Errorf("number %d, 0 is free", again.saved.Number)
	}
	f.remove(a) // a box that is no more takes nothing with it
	if f.find("a") != again || claim(t, f, "c").saved.Number != 3 {
		t.Error("the second a went with the first")
	}
}

// What was handed out does not change any more, and who waits is woken.
func TestFleetChange(t *testing.T) {
	f := newFleet()
	b := claim(t, f, "a")
	before, _, _ := f.look(b)
	all, changed := f.all()
	if len(all) != 1 {
		t.Fatalf("%d sandboxes", len(all))
	}
	select {
	case <-changed:
		t.Fatal("something changed already")
	default:
	}
	f.change(b, func(b *box, next *pb.Sandbox) {
		next.Status.Reason, b.saved.Latest = "changed", 7
	})
	<-changed
	after, _, saved := f.look(b)
	if before.GetStatus().GetReason() != "" || after.GetStatus().GetReason() != "changed" || saved.Latest != 7 {
		t.Errorf("before %v, after %v, %+v", before, after, saved)
	}
	if after.GetVersion() != before.GetVersion()+1 {
		t.Errorf("version %d after %d", after.GetVersion(), before.GetVersion())
	}
	_, changed = f.all()
	f.remove(b)
	<-changed
}
