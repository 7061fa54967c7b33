package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/ringfence/ringfence/internal/flow"
)

// Rejections hands each sampled rejection and the cgroup id of its sandbox to
// emit until the context ends. It is called once for a datapath.
func (dp *Datapath) Rejections(ctx context.Context, emit func(cgroupID uint64, r flow.Rejection)) error {
	reader, err := ringbuf.NewReader(dp.objects.Rejections)
	if err != nil {
		return fmt.Errorf("open rejections: %w", err)
	}
	defer reader.Close()
	defer context.AfterFunc(ctx, func() { _ = reader.Close() })()

	var record ringbuf.Record
	for {
		if err := reader.ReadInto(&record); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("read rejections: %w", err)
		}
		if len(record.RawSample) < int(unsafe.Sizeof(agentRejection{})) {
			continue // of another version; it was counted all the same
		}
		raw := (*agentRejection)(unsafe.Pointer(&record.RawSample[0]))
		emit(raw.Sandbox, rejection(raw))
	}
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
