package launch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serveDials is sandbox-dial: an order is one connection to make, with the socket on
// which to answer. It ends with the agent's end of the control socket, or when there
// was nothing to do for a while; an order that comes at that moment is not answered,
// and the agent starts another process for it.
func serveDials() error {
	var dials atomic.Int64
	idle := time.AfterFunc(dialerIdle, func() {
		if dials.Load() == 0 {
			os.Exit(0)
		}
	})
	for {
		var order dialOrder
		fds, err := receiveOrder(&order)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(fds) != 1 {
			return fmt.Errorf("%d descriptors came instead of 1", len(fds))
		}
		dials.Add(1)
		go func() {
			serveDial(&order, fds[0])
			dials.Add(-1)
			idle.Reset(cmp.Or(order.Idle, dialerIdle))
		}()
	}
}

func serveDial(order *dialOrder, answer int) {
	defer unix.Close(answer)
	conn, err := order.connect()
	if err != nil {
		_ = sendReplyOn(answer, reply{Fault: faultOf(&StepError{Step: "connect", Err: err, Code: ExitRingfence})})
		return
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _ = sendReplyOn(answer, reply{}, int(fd)) })
	}
}

// connect returns the error of the first target where all fail: the others are but
// another family's.
func (o *dialOrder) connect() (net.Conn, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	var d net.Dialer
	d.SetMultipathTCP(false) // the hooks refuse it
	if len(o.Path) > 0 {
		return d.DialContext(ctx, "unix", string(o.Path))
	}
	var first error
	for _, target := range o.Targets {
		conn, err := d.DialContext(ctx, "tcp", target.String())
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
