package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
)

// The format of the library's files, version 2: pages of one size, the first two of
// which name the root of the tree, in turns. All numbers are those of the machine.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader = 16 // id 8, flags 2, count 2, overflow 4
	element    = 16 // of a leaf: flags 4, pos 4, ksize 4, vsize 4; of a branch: pos 4, ksize 4, page 8
	metaSize   = 64 // magic 4, version 4, page size 4, flags 4, root 16, freelist 8, end 8, txid 8, checksum 8
	rootSize   = 16 // of a bucket: page 8, sequence 8

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10

	bucketElement = 0x01

	noFreelist = ^uint64(0)
	manyFree   = 0xFFFF // the count stands in the first element

	// maxDepth is more than a tree of any size has.
	maxDepth = 32
)

// pages reads a file of the library's without its help, and believes nothing: no
// bytes make it panic, read what is not there, or go on without end.
type pages struct {
	data  []byte
	size  uint64 // of a page
	end   uint64 // the first page that was never used
	used  map[uint64]bool
	visit func(bucket, key, value []byte) error
}

// meta is what a meta page names.
type meta struct {
	root, freelist, end, txid uint64
}

func u16(b []byte) uint64 { return uint64(binary.NativeEndian.Uint16(b)) }
func u32(b []byte) uint64 { return uint64(binary.NativeEndian.Uint32(b)) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// walk checks that data is a whole file of the library's with pages of one size, and
// calls visit with every key of every bucket, in order. The slices are data's.
func walk(data []byte, pageSize int, visit func(bucket, key, value []byte) error) error {
	p := &pages{data: data, size: uint64(pageSize), used: map[uint64]bool{0: true, 1: true}, visit: visit}
	m, err := p.newest()
	if err != nil {
		return err
	}
	p.end = m.end
	if p.end < 2 || p.end > uint64(len(data))/p.size {
		return fmt.Errorf("it is cut: %d bytes, with %d pages of %d bytes", len(data), p.end, p.size)
	}
	if err := p.tree(m.root, nil, 0, nil, nil); err != nil {
		return err
	}
	return p.freelist(m.freelist)
}

// newest returns the meta page that counts. One that is broken was not cut by a crash,
// for it is smaller than what a disk writes at once: it may be the one that counted.
func (p *pages) newest() (meta, error) {
	if uint64(len(p.data)) < 2*p.size {
		return meta{}, fmt.Errorf("it is cut: %d bytes", len(p.data))
	}
	var metas [2]meta
	for i := range metas {
		b := p.data[uint64(i)*p.size+pageHeader:][:metaSize+8]
		sum := fnv.New64a()
		_, _ = sum.Write(b[:56])
		switch {
		case u32(b) != boltMagic || u32(b[4:]) != boltVersion || u64(b[56:]) != sum.Sum64():
			return meta{}, fmt.Errorf("its head %d is none", i)
		case u32(b[8:]) != p.size:
			return meta{}, fmt.Errorf("its pages are of %d bytes, and of this machine they are of %d", u32(b[8:]), p.size)
		}
		metas[i] = meta{root: u64(b[16:]), freelist: u64(b[32:]), end: u64(b[40:]), txid: u64(b[48:])}
	}
	if metas[1].txid > metas[0].txid {
		return metas[1], nil
	}
	return metas[0], nil
}

// page returns a page with its overflow, which no other place may name.
func (p *pages) page(id uint64) ([]byte, error) {
	if id < 2 || id >= p.end {
		return nil, fmt.Errorf("page %d is none of %d", id, p.end)
	}
	head := p.data[id*p.size:]
	count := u32(head[12:]) + 1
	switch {
	case u64(head) != id:
		return nil, fmt.Errorf("page %d says that it is %d", id, u64(head))
	case count > p.end-id:
		return nil, fmt.Errorf("page %d goes on beyond the end", id)
	}
	for n := id; n < id+count; n++ {
		if p.used[n] {
			return nil, fmt.Errorf("page %d is used twice", n)
		}
		p.used[n] = true
	}
	return head[:count*p.size], nil
}

// tree checks the tree below a page. Its keys are at least low, and less than high
// where there is one. A nil bucket is the root, whose values are the buckets.
func (p *pages) tree(id uint64, bucket []byte, depth int, low, high []byte) error {
	page, err := p.page(id)
	if err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("page %d is %d deep", id, depth)
	}
	switch flags, count := u16(page[8:]), u16(page[10:]); flags {
	case leafPage:
		if err := p.leaf(page, bucket, low, high); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		return nil
	case branchPage:
		if count == 0 {
			return fmt.Errorf("page %d is empty", id)
		}
		for i := range count {
			at, err := slice(page, pageHeader+i*element, element)
			if err != nil {
				return fmt.Errorf("page %d: %w", id, err)
			}
			key, err := slice(page, pageHeader+i*element+u32(at), u32(at[4:]))
			if err != nil {
				return fmt.Errorf("page %d: %w", id, err)
			}
			next := high
			if i+1 < count {
				after, err := slice(page, pageHeader+(i+1)*element, element)
				if err == nil {
					next, err = slice(page, pageHeader+(i+1)*element+u32(after), u32(after[4:]))
				}
				if err != nil {
					return fmt.Errorf("page %d: %w", id, err)
				}
			}
			if len(key) == 0 || bytes.Compare(key, low) < 0 || next != nil && bytes.Compare(key, next) >= 0 {
				return fmt.Errorf("page %d: its keys are not in order", id)
			}
			if err := p.tree(u64(at[8:]), bucket, depth+1, key, next); err != nil {
				return err
			}
		}
		return nil
	default:
		return fmt.Errorf("page %d is of the kind %#x", id, flags)
	}
}

// leaf visits what a leaf page holds.
func (p *pages) leaf(page, bucket, low, high []byte) error {
	for i := range u16(page[10:]) {
		start := pageHeader + i*element
		at, err := slice(page, start, element)
		if err != nil {
			return err
		}
		pos, ksize, vsize := start+u32(at[4:]), u32(at[8:]), u32(at[12:])
		key, err := slice(page, pos, ksize)
		if err != nil {
			return err
		}
		value, err := slice(page, pos+ksize, vsize)
		if err != nil {
			return err
		}
		if len(key) == 0 || bytes.Compare(key, low) < 0 || i > 0 && bytes.Equal(key, low) || high != nil && bytes.Compare(key, high) >= 0 {
			return fmt.Errorf("its keys are not in order")
		}
		low = key
		switch isBucket := bucket == nil; {
		case u32(at) == bucketElement && isBucket:
			err = p.bucket(key, value)
		case u32(at) == 0 && !isBucket:
			err = p.visit(bucket, key, value)
		default:
			err = fmt.Errorf("a key of the kind %#x", u32(at))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket walks a bucket, whose only page may stand within its value.
func (p *pages) bucket(name, value []byte) error {
	if len(value) < rootSize {
		return fmt.Errorf("bucket %q has no root", name)
	}
	if root := u64(value); root != 0 {
		return p.tree(root, name, 0, nil, nil)
	}
	page := value[rootSize:]
	if len(page) < pageHeader || u64(page) != 0 || u16(page[8:]) != leafPage || u32(page[12:]) != 0 {
		return fmt.Errorf("bucket %q has no page", name)
	}
	return p.leaf(page, name, nil, nil)
}

// freelist checks the list of free pages: none is in use, and none stands there twice.
// A page that is missing there is lost room, and nothing else.
func (p *pages) freelist(id uint64) error {
	if id == noFreelist {
		return fmt.Errorf("there is no list of free pages") // we have it written always
	}
	page, err := p.page(id)
	if err != nil {
		return err
	}
	if u16(page[8:]) != freelistPage {
		return fmt.Errorf("page %d is no list of free pages", id)
	}
	count, at := u16(page[10:]), uint64(pageHeader)
	if count == manyFree {
		first, err := slice(page, at, 8)
		if err != nil {
			return err
		}
		count, at = u64(first), at+8
	}
	if count > p.end {
		return fmt.Errorf("%d free pages of %d", count, p.end)
	}
	ids, err := slice(page, at, count*8)
	if err != nil {
		return err
	}
	for ; len(ids) > 0; ids = ids[8:] {
		free := u64(ids)
		if free < 2 || free >= p.end || p.used[free] {
			return fmt.Errorf("page %d is free, and used", free)
		}
		p.used[free] = true
	}
	return nil
}

// slice returns size bytes from at on. Both are less than 2^34, so their sum is right.
func slice(b []byte, at, size uint64) ([]byte, error) {
	if end := at + size; end <= uint64(len(b)) {
		return b[at:end:end], nil
	}
	return nil, fmt.Errorf("it names bytes beyond its end")
}
