package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/ringfence/ringfence/internal/launch"
)

// endTimeout is how long a command may take to end after it was told to.
const endTimeout = 10 * time.Second

// interrupts are the signals that ask a run to end. Before there is a command
// they end the start; then they are the command's to handle.
type interrupts struct {
	signals chan os.Signal
	done    chan struct{}

	mu      sync.Mutex
	process *launch.Process
	cancel  context.CancelCauseFunc
	timer   *time.Timer
}

// signalError ends a run before there is a command to hand the signal to.
type signalError struct{ signal syscall.Signal }

func (e *signalError) Error() string { return fmt.Sprintf("ended by %v", e.signal) }

func catchInterrupts() *interrupts {
	i := &interrupts{signals: make(chan os.Signal, 8), done: make(chan struct{})}
	signal.Notify(i.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	return i
}

// context returns a context that ends when the run must: at a signal before the
// command runs, or when the command does not end in time after SIGTERM or SIGHUP.
func (i *interrupts) context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	i.cancel = cancel
	go i.watch()
	return ctx, func() { cancel(context.Canceled) }
}

func (i *interrupts) watch() {
	for {
		select {
		case s := <-i.signals:
			i.handle(s.(syscall.Signal))
		case <-i.done:
			return
		}
	}
}

func (i *interrupts) handle(s syscall.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.process == nil {
		i.cancel(&signalError{s})
		return
	}
	_ = i.process.Signal(s) // it fails where the command has just ended
	if i.timer == nil && (s == syscall.SIGTERM || s == syscall.SIGHUP) {
		i.timer = time.AfterFunc(endTimeout, func() { i.cancel(&signalError{s}) })
	}
}

// deliverTo hands further signals to the command.
func (i *interrupts) deliverTo(p *launch.Process) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.process = p
}

func (i *interrupts) stop() {
	signal.Stop(i.signals)
	close(i.done)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.timer != nil {
		i.timer.Stop()
	}
}
