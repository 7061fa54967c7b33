package daemon

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/store"
)

// revise makes a revision as setPolicy does, which loads or not.
func revise(t *testing.T, d *Daemon, name string, loads bool) {
	t.Helper()
	b := d.fleet.find(name)
	_, _, saved := d.fleet.look(b)
	number := saved.Latest + 1
	r := firstRevision(name, texts("a.yaml", nothing), "digest", nil)
	r.Revision = number
	if !loads {
		r.State = pb.PolicyRevision_FAILED
	}
	if err := d.putRevision(r); err != nil {
		t.Fatal(err)
	}
	d.fleet.change(b, func(b *box, _ *pb.Sandbox) {
		if b.saved.Latest = number; loads {
			b.saved.Revision = number
		}
	})
	if err := d.prune(name, number, saved.Revision); err != nil {
		t.Fatal(err)
	}
}

// kept are the numbers of the revisions that are in the store.
func kept(t *testing.T, d *Daemon, name string) (numbers []uint64) {
	t.Helper()
	err := d.store.Each(store.Policies, name+"/", func(item store.Item) error {
		r, err := decodeRevision(item.Value)
		if err != nil {
			return err
		}
		if r.GetSandbox() == name {
			numbers = append(numbers, r.GetRevision())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return numbers
}

// A hundred revisions are kept, and the one in force, however many failed since; not for
// longer.
func TestRevisionsArePruned(t *testing.T) {
	d := newStopped(t, "one", "one-more")
	revise(t, d, "one-more", true)
	revise(t, d, "one", true)
	for range maxRevisions - 1 {
		revise(t, d, "one", false)
	}
	if got := kept(t, d, "one"); len(got) != maxRevisions || got[0] != 1 {
		t.Fatalf("%d revisions from %d", len(got), got[0])
	}
	for range 5 {
		revise(t, d, "one", false)
	}
	if got := kept(t, d, "one"); len(got) != maxRevisions+1 || got[0] != 1 || got[1] != 6 {
		t.Errorf("%d revisions, from %d", len(got), got[:2])
	}
	revise(t, d, "one", true)
	if got := kept(t, d, "one"); len(got) != maxRevisions || got[0] != 7 {
		t.Errorf("%d revisions, from %d: the first is in force no more", len(got), got[:2])
	}
	if got := kept(t, d, "one-more"); len(got) != 1 {
		t.Errorf("of another sandbox: %d", got)
	}
	var batch store.Batch
	if err := errors.Join(d.forgetRevisions(&batch, "one"), d.store.Write(&batch)); err != nil {
		t.Fatal(err)
	}
	if one, more := kept(t, d, "one"), kept(t, d, "one-more"); len(one) != 0 || len(more) != 1 {
		t.Errorf("forgotten: %d are left, and of another %d", one, more)
	}
}

// Revisions are listed by pages, the newest first; which was in force is said of one.
func TestRevisionPages(t *testing.T) {
	d := newStopped(t, "one")
	for n := range maxRevisions + 7 {
		revise(t, d, "one", n%2 == 0)
	}
	s := policiesService{Daemon: d}
	var got, want []uint64
	var loaded int
	token, pages := "", 0
	for {
		list, err := s.ListPolicyRevisions(t.Context(), &pb.ListPolicyRevisionsRequest{Sandbox: "one", PageSize: 30, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.GetRevisions() {
			got = append(got, r.GetRevision())
			if r.GetState() == pb.PolicyRevision_LOADED {
				loaded++
			}
			if r.GetSource() != nil {
				t.Errorf("revision %d has its source", r.GetRevision())
			}
		}
		pages++
		if token = list.GetNextPageToken(); token == "" {
			break
		}
	}
	for n := uint64(maxRevisions + 7); n > 7; n-- {
		want = append(want, n)
	}
	if !slices.Equal(got, want) || pages != 4 || loaded != 1 {
		t.Errorf("%d pages, %d in force, revisions %d", pages, loaded, got)
	}
	for _, token := range []string{"x", "-1", " 5"} {
		_, err := s.ListPolicyRevisions(t.Context(), &pb.ListPolicyRevisionsRequest{Sandbox: "one", PageToken: token})
		isInvalid(t, token, err)
	}
}

// Sandboxes are listed by pages, in the order of their names, and a page goes on behind
// one that was deleted meanwhile.
func TestSandboxPages(t *testing.T) {
	d := newStopped(t)
	for n := range 7 {
		d.fleet.change(claim(t, d.fleet, fmt.Sprint("s", n)), func(_ *box, next *pb.Sandbox) {
			next.Spec.Labels = map[string]string{"odd": fmt.Sprint(n%2 == 1)}
		})
	}
	s := sandboxesService{Daemon: d}
	list := func(token string, labels map[string]string) (names []string, next string) {
		t.Helper()
		page, err := s.ListSandboxes(t.Context(), &pb.ListSandboxesRequest{PageSize: 3, PageToken: token, Labels: labels})
		if err != nil {
			t.Fatal(err)
		}
		for _, sb := range page.GetSandboxes() {
			names = append(names, sb.GetName())
		}
		return names, page.GetNextPageToken()
	}
	first, token := list("", nil)
	if !slices.Equal(first, []string{"s0", "s1", "s2"}) || token == "" {
		t.Fatalf("first page: %q, %q", first, token)
	}
	d.fleet.remove(d.fleet.find("s2"))
	claim(t, d.fleet, "s00") // on the page before
	second, token := list(token, nil)
	if !slices.Equal(second, []string{"s3", "s4", "s5"}) {
		t.Errorf("second page: %q", second)
	}
	if last, token := list(token, nil); !slices.Equal(last, []string{"s6"}) || token != "" {
		t.Errorf("last page: %q, %q", last, token)
	}
	if odd, token := list("", map[string]string{"odd": "true"}); !slices.Equal(odd, []string{"s1", "s3", "s5"}) || token != "" {
		t.Errorf("with a label: %q, %q", odd, token)
	}
}

func isInvalid(t *testing.T, what string, err error) {
	t.Helper()
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeInvalidArgument || e.Hint == "" {
		t.Errorf("%q: %v", what, err)
	}
}
