package event

import (
	"sort"
	"unsafe"

	"github.com/ringfence/ringfence/internal/flow"
)

// ring keeps the last records of one kind, bounded in number and in bytes.
type ring struct {
	most, mostBytes int

	// kept has the record at the position n at n modulo its length: those from first
	// up to, but without, next. Their numbers rise, with gaps.
	kept        []kept
	first, next uint64
	bytes       int
}

type kept struct {
	number uint64 // of the record, among all
	record *flow.Record
	size   int
}

func newRing(most, mostBytes int) *ring {
	return &ring{most: most, mostBytes: mostBytes, kept: make([]kept, min(most, lookAtOnce))}
}

// add keeps a record, and lets go of the oldest where there is no room.
func (r *ring) add(number uint64, record *flow.Record) {
	size := sizeOf(record)
	for r.first < r.next && (r.bytes+size > r.mostBytes || r.next-r.first >= uint64(r.most)) {
		oldest := r.at(r.first)
		r.bytes -= oldest.size
		*oldest = kept{}
		r.first++
	}
	if r.next-r.first == uint64(len(r.kept)) {
		r.grow()
	}
	*r.at(r.next) = kept{number, record, size}
	r.next++
	r.bytes += size
}

// at returns the place of a position.
func (r *ring) at(n uint64) *kept { return &r.kept[n%uint64(len(r.kept))] }

// grow doubles the ring, up to its bound.
func (r *ring) grow() {
	larger := make([]kept, min(2*len(r.kept), r.most))
	for n := r.first; n < r.next; n++ {
		larger[n%uint64(len(larger))] = *r.at(n)
	}
	r.kept = larger
}

// seek returns the position of the first record with at least a number.
func (r *ring) seek(number uint64) uint64 {
	return r.first + uint64(sort.Search(int(r.next-r.first), func(i int) bool {
		return r.at(r.first+uint64(i)).number >= number
	}))
}

// after returns up to n records with at least a number, the first ones.
func (r *ring) after(number, n uint64) []kept {
	from := r.seek(number)
	return r.span(from, min(from+n, r.next))
}

// before returns up to n records below a number, the last ones.
func (r *ring) before(number, n uint64) []kept {
	end := r.seek(number)
	return r.span(max(r.first, end-min(n, end)), end)
}

// span returns a copy of the records in some positions.
func (r *ring) span(from, end uint64) []kept {
	span := make([]kept, 0, end-from)
	for i := from; i < end; i++ {
		span = append(span, *r.at(i))
	}
	return span
}

// sizeOf is what a record holds, in bytes, as if it shared nothing.
func sizeOf(r *flow.Record) int {
	n := int(unsafe.Sizeof(*r)) + int(unsafe.Sizeof(kept{}))
	for _, s := range []string{
		r.Sandbox, r.Policy, r.Detail, r.Hint, r.Binary, r.Host, r.Address, r.ExecID, r.SHA256, r.Script,
		r.User, r.Source, r.Key, r.Command, r.Object,
	} {
		n += len(s)
	}
	for _, list := range [][]string{r.Ancestors, r.Taints, r.Preload} {
		for _, s := range list {
			n += int(unsafe.Sizeof(s)) + len(s)
		}
	}
	return n
}
