package datapath

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cilium/ebpf/btf"
)

func member(name string, at uint32, t btf.Type) btf.Member {
	return btf.Member{Name: name, Offset: btf.Bits(at * 8), Type: t}
}

func integerType(size uint32) btf.Type { return &btf.Int{Size: size} }

func bytesType(n uint32) btf.Type { return &btf.Array{Type: integerType(1), Nelems: n} }

func TestValuesAreConverted(t *testing.T) {
	signed := func(size uint32) btf.Type { return &btf.Int{Size: size, Encoding: btf.Signed} }
	structOf := func(size uint32, members ...btf.Member) btf.Type { return &btf.Struct{Size: size, Members: members} }
	inner := structOf(4, member("x", 0, integerType(1)), member("y", 2, integerType(2)))
	movedInner := structOf(4, member("y", 0, integerType(2)), member("x", 2, integerType(1)))
	for _, tt := range []struct {
		name       string
		from, to   btf.Type
		value      []byte
		want       []byte // nil: lossy
		same, fail bool
	}{
		{name: "the same", from: inner, to: inner, value: []byte{1, 9, 2, 3}, want: []byte{1, 0, 2, 3}, same: true},
		{name: "an alias", from: &btf.Typedef{Type: integerType(2)}, to: integerType(2), value: []byte{1, 2}, want: []byte{1, 2}, same: true},
		{name: "moved", from: inner, to: movedInner, value: []byte{1, 0, 2, 3}, want: []byte{2, 3, 1, 0}},
		{name: "nested in an array", from: &btf.Array{Type: inner, Nelems: 2}, to: &btf.Array{Type: movedInner, Nelems: 2},
			value: []byte{1, 0, 2, 3, 4, 0, 5, 6}, want: []byte{2, 3, 1, 0, 5, 6, 4, 0}},
		{name: "a new member", from: inner, to: structOf(5, member("new", 0, integerType(1)), member("x", 1, integerType(1)), member("y", 2, integerType(2))),
			value: []byte{1, 0, 2, 3}, want: []byte{0, 1, 2, 3, 0}},
		{name: "a member less", from: inner, to: structOf(2, member("y", 0, integerType(2))), value: []byte{1, 0, 2, 3}, want: []byte{2, 3}},
		{name: "wider", from: integerType(2), to: integerType(8), value: []byte{1, 0xff}, want: []byte{1, 0xff, 0, 0, 0, 0, 0, 0}},
		{name: "wider, below zero", from: signed(1), to: signed(4), value: []byte{0xfe}, want: []byte{0xfe, 0xff, 0xff, 0xff}},
		{name: "narrower", from: integerType(8), to: integerType(1), value: []byte{7, 0, 0, 0, 0, 0, 0, 0}, want: []byte{7}},
		{name: "too narrow", from: integerType(4), to: integerType(2), value: []byte{0, 0, 1, 0}},
		{name: "too narrow, below zero", from: signed(2), to: signed(1), value: []byte{0, 0xff}},
		{name: "a longer array", from: bytesType(2), to: bytesType(4), value: []byte("ab"), want: []byte("ab\x00\x00")},
		{name: "a shorter array", from: bytesType(4), to: bytesType(2), value: []byte("ab\x00\x00"), want: []byte("ab")},
		{name: "a path that would be cut", from: bytesType(4), to: bytesType(2), value: []byte("/a/b")},
		{name: "another sign", from: signed(4), to: integerType(4), fail: true},
		{name: "another kind", from: inner, to: integerType(4), fail: true},
		{name: "a member of another kind", from: inner, to: structOf(4, member("y", 0, bytesType(2))), fail: true},
		{name: "a union", from: &btf.Union{Size: 4}, to: &btf.Union{Size: 4}, fail: true},
		{name: "unknown", from: nil, to: inner, fail: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := convert(tt.from, tt.to)
			if (err != nil) != tt.fail {
				t.Fatalf("error = %v", err)
			}
			if tt.fail {
				return
			}
			if c.same != tt.same {
				t.Errorf("same = %v", c.same)
			}
			got, err := c.apply(tt.value)
			if !bytes.Equal(got, tt.want) || errors.Is(err, errLossy) != (tt.want == nil) {
				t.Errorf("%v becomes %v, %v; want %v", tt.value, got, err, tt.want)
			}
		})
	}
}
