package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/ringfence/ringfence/internal/flow"
)

// Rejections hands each sampled rejection and the cgroup id of its sandbox to
// emit until the context ends. It is called once for a datapath.
func (dp *Datapath) Rejections(ctx context.Context, emit func(cgroupID uint64, r flow.Rejection)) error {
	return read(ctx, dp.objects.Rejections, func(raw *agentRejection) { emit(raw.Sandbox, rejection(raw)) })
}

// Execs hands each exec that got a record and the cgroup id of its sandbox to emit
// until the context ends. Where there are too many, some are left out. It is called
// once for a datapath.
func (dp *Datapath) Execs(ctx context.Context, emit func(cgroupID uint64, id flow.ExecID)) error {
	return read(ctx, dp.objects.ExecEvents, func(raw *agentExecEvent) { emit(raw.Sandbox, execID(raw.Exec)) })
}

// read hands each sample of a ring buffer to emit until the context ends.
func read[T any](ctx context.Context, m *ebpf.Map, emit func(*T)) error {
	reader, err := ringbuf.NewReader(m)
	if err != nil {
		return fmt.Errorf("open %s: %w", m, err)
	}
	defer reader.Close()
	defer context.AfterFunc(ctx, func() { _ = reader.Close() })()

	var record ringbuf.Record
	for {
		if err := reader.ReadInto(&record); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("read %s: %w", m, err)
		}
		if raw := sample[T](record.RawSample); raw != nil {
			emit(raw)
		}
	}
}

// sample returns what the bytes of a sample are; nil where they are too few, which is
// not to be: the samples are of one size.
func sample[T any](raw []byte) *T {
	if len(raw) < int(unsafe.Sizeof(*new(T))) {
		return nil
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(raw)))
}

func rejection(raw *agentRejection) flow.Rejection {
	r := flow.Rejection{
		Exec:   execID(raw.Exec),
		PID:    raw.Pid,
		UID:    raw.Uid,
		Reason: reasonOf(raw.Reason),
		Count:  raw.Count,
	}
	if raw.HasDestination != 0 {
		r.Destination = netip.AddrPortFrom(address(raw.Destination), raw.Port)
	}
	return r
}
