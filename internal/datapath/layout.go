package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// layout is how the keys and values of a map are made up, as BTF says.
type layout struct {
	key, value btf.Type
}

// layoutOf asks the kernel. A map that was made without types has none.
func layoutOf(m *ebpf.Map) (layout, error) {
	// What the library tells of a map leaves out which types are the key's and the
	// value's: struct bpf_map_info of linux/bpf.h, up to those.
	var info struct {
		_               [64]byte
		btf, key, value uint32
	}
	var pinner runtime.Pinner
	pinner.Pin(&info) // below it is a number, which nothing keeps in place
	defer pinner.Unpin()
	attr := struct {
		fd, length uint32
		info       uint64
	}{uint32(m.FD()), uint32(unsafe.Sizeof(info)), uint64(uintptr(unsafe.Pointer(&info)))}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET_INFO_BY_FD,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); errno != 0 {
		return layout{}, fmt.Errorf("ask for types of %s: %w", m, errno)
	}
	if info.btf == 0 {
		return layout{}, nil
	}
	handle, err := btf.NewHandleFromID(btf.ID(info.btf))
	if err != nil {
		return layout{}, fmt.Errorf("open types of %s: %w", m, err)
	}
	defer handle.Close()
	spec, err := handle.Spec(nil)
	if err != nil {
		return layout{}, fmt.Errorf("read types of %s: %w", m, err)
	}
	var l layout
	if l.key, err = spec.TypeByID(btf.TypeID(info.key)); err != nil {
		return layout{}, fmt.Errorf("key type of %s: %w", m, err)
	}
	if l.value, err = spec.TypeByID(btf.TypeID(info.value)); err != nil {
		return layout{}, fmt.Errorf("value type of %s: %w", m, err)
	}
	return l, nil
}

// errLossy: an entry says what the other layout has no room for.
var errLossy = errors.New("does not fit into the other layout")

// conversion turns values of one type into those of another: members are matched by
// name, at any depth. What is new is zero; what is no more is left out.
type conversion struct {
	size  int
	moves []move
	same  bool // the two types are one
}

// move is one piece. A piece of another width is an integer.
type move struct {
	from, fromSize int
	to, toSize     int // toSize 0: has to be zero
	signed         bool
}

// convert plans a conversion. An error says that the types cannot be matched at all.
func convert(from, to btf.Type) (*conversion, error) {
	if from == nil || to == nil {
		return nil, errors.New("types are not known")
	}
	size, err := btf.Sizeof(to)
	if err != nil {
		return nil, err
	}
	c := &conversion{size: size, same: true}
	return c, c.add(from, to, 0, 0)
}

func (c *conversion) add(from, to btf.Type, fromAt, toAt int) error {
	from, to = btf.UnderlyingType(from), btf.UnderlyingType(to)
	switch to := to.(type) {
	case *btf.Struct:
		if from, ok := from.(*btf.Struct); ok {
			return c.addStruct(from, to, fromAt, toAt)
		}
	case *btf.Array:
		if from, ok := from.(*btf.Array); ok {
			return c.addArray(from, to, fromAt, toAt)
		}
	case *btf.Int, *btf.Enum:
		fromSize, toSize, err := sizes(from, to)
		if signed, ok := isSigned(from); ok && err == nil {
			if own, _ := isSigned(to); signed != own {
				return fmt.Errorf("sign of %v", to)
			}
			c.same = c.same && fromSize == toSize
			c.move(move{fromAt, fromSize, toAt, toSize, signed})
			return nil
		}
	}
	return fmt.Errorf("%v is no %v", from, to)
}

// isSigned says so of an integer; others are not ok.
func isSigned(t btf.Type) (signed, ok bool) {
	switch t := t.(type) {
	case *btf.Int:
		return t.Encoding == btf.Signed, true
	case *btf.Enum:
		return t.Signed, true
	}
	return false, false
}

func sizes(from, to btf.Type) (fromSize, toSize int, err error) {
	if fromSize, err = btf.Sizeof(from); err != nil {
		return 0, 0, err
	}
	toSize, err = btf.Sizeof(to)
	return fromSize, toSize, err
}

func (c *conversion) addStruct(from, to *btf.Struct, fromAt, toAt int) error {
	c.same = c.same && from.Size == to.Size && len(from.Members) == len(to.Members)
	old := map[string]btf.Member{}
	for _, m := range from.Members {
		old[m.Name] = m
	}
	for _, m := range to.Members {
		was, ok := old[m.Name]
		if m.Name == "" || m.BitfieldSize != 0 || was.BitfieldSize != 0 {
			return fmt.Errorf("struct %s: a member without a name, or of bits", to.Name)
		}
		if !ok {
			c.same = false
			continue
		}
		c.same = c.same && was.Offset == m.Offset
		if err := c.add(was.Type, m.Type, fromAt+int(was.Offset.Bytes()), toAt+int(m.Offset.Bytes())); err != nil {
			return fmt.Errorf("%s.%s: %w", to.Name, m.Name, err)
		}
	}
	return nil
}

// addArray: of a longer array the rest has to be zero. A path, for one, is not to be
// cut to another's.
func (c *conversion) addArray(from, to *btf.Array, fromAt, toAt int) error {
	fromSize, toSize, err := sizes(from.Type, to.Type)
	if err != nil {
		return err
	}
	n := min(from.Nelems, to.Nelems)
	c.same = c.same && from.Nelems == to.Nelems
	for i := range int(n) {
		if err := c.add(from.Type, to.Type, fromAt+i*fromSize, toAt+i*toSize); err != nil {
			return err
		}
	}
	if rest := int(from.Nelems-n) * fromSize; rest > 0 {
		c.moves = append(c.moves, move{from: fromAt + int(n)*fromSize, fromSize: rest})
	}
	return nil
}

// move adds a piece, to the one before where it goes on with it.
func (c *conversion) move(m move) {
	if n := len(c.moves); n > 0 && m.fromSize == m.toSize {
		last := &c.moves[n-1]
		if last.fromSize == last.toSize && last.from+last.fromSize == m.from && last.to+last.toSize == m.to {
			last.fromSize += m.fromSize
			last.toSize += m.toSize
			return
		}
	}
	c.moves = append(c.moves, m)
}

// apply converts one value. It returns errLossy where that would not say the same.
func (c *conversion) apply(from []byte) ([]byte, error) {
	out := make([]byte, c.size)
	for _, m := range c.moves {
		src, dst := from[m.from:m.from+m.fromSize], out[m.to:m.to+m.toSize]
		switch {
		case m.fromSize == m.toSize:
			copy(dst, src)
		case m.toSize == 0:
			if len(bytes.Trim(src, "\x00")) > 0 {
				return nil, errLossy
			}
		default:
			n := integer(src, m.signed)
			putInteger(dst, n)
			if integer(dst, m.signed) != n {
				return nil, errLossy
			}
		}
	}
	return out, nil
}

// integer reads one of 1, 2, 4 or 8 bytes, extended by its sign.
func integer(b []byte, signed bool) uint64 {
	var n uint64
	switch len(b) {
	case 1:
		n = uint64(b[0])
	case 2:
		n = uint64(binary.NativeEndian.Uint16(b))
	case 4:
		n = uint64(binary.NativeEndian.Uint32(b))
	default:
		return binary.NativeEndian.Uint64(b)
	}
	if unused := 64 - 8*len(b); signed {
		n = uint64(int64(n<<unused) >> unused)
	}
	return n
}

func putInteger(b []byte, n uint64) {
	switch len(b) {
	case 1:
		b[0] = byte(n)
	case 2:
		binary.NativeEndian.PutUint16(b, uint16(n))
	case 4:
		binary.NativeEndian.PutUint32(b, uint32(n))
	default:
		binary.NativeEndian.PutUint64(b, n)
	}
}
