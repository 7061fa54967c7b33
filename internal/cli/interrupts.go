package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// endTimeout is how long a command may take to end after it was told to.
const endTimeout = 10 * time.Second

// signalRoom bounds the signals that wait to be handed on.
const signalRoom = 8

// interrupts are the signals that ask a run to end. Before there is a command
// they end the start; then they are the command's to handle, but for SIGHUP, which
// asks for the policy to be read again where there is no terminal.
type interrupts struct {
	signals chan os.Signal
	done    chan struct{}
	ended   chan struct{}
	cancel  context.CancelCauseFunc
	// reload has a word for each time that the policy is to be read again; nil where
	// there is none to read.
	reload chan struct{}
	// terminal is true where there is a controlling terminal.
	terminal bool

	mu      sync.Mutex
	process signaller
	timer   *time.Timer
}

// signaller is what signals are handed on to.
type signaller interface{ Signal(syscall.Signal) error }

// catchInterrupts returns a context that ends when the run must: at a signal
// before the command runs, or when the command does not end in time after SIGTERM
// or SIGHUP. Stop must be called.
func catchInterrupts(parent context.Context) (context.Context, *interrupts) {
	return catch(parent, make(chan struct{}, 1))
}

// catchSignals is catchInterrupts for what follows no policy: SIGHUP is the command's
// like the others.
func catchSignals(parent context.Context) (context.Context, *interrupts) { return catch(parent, nil) }

func catch(parent context.Context, reload chan struct{}) (context.Context, *interrupts) {
	ctx, cancel := context.WithCancelCause(parent)
	i := &interrupts{
		signals: make(chan os.Signal, signalRoom),
		done:    make(chan struct{}),
		ended:   make(chan struct{}),
		cancel:  cancel,
		reload:  reload,
	}
	i.terminal = hasTerminal()
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		// nohup, and a shell's background job, have said that it is to be ignored.
		if !signal.Ignored(s) {
			signal.Notify(i.signals, s)
		}
	}
	// Caught and dropped: by default, records that nobody reads any more would end
	// this process on the spot, and leave everything behind. Ignoring it instead
	// would pass that on to the command.
	signal.Notify(i.signals, syscall.SIGPIPE)
	go i.watch()
	return ctx, i
}

func (i *interrupts) watch() {
	defer close(i.ended)
	for {
		select {
		case s := <-i.signals:
			if s != syscall.SIGPIPE {
				i.handle(s.(syscall.Signal))
			}
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
	if s == syscall.SIGHUP && !i.terminal && i.reload != nil {
		select {
		case i.reload <- struct{}{}:
		default: // it is to be read again anyway
		}
		return
	}
	_ = i.process.Signal(s) // it fails where the command has just ended
	if i.timer == nil && (s == syscall.SIGTERM || s == syscall.SIGHUP) {
		i.timer = time.AfterFunc(endTimeout, func() { i.cancel(&signalError{s}) })
	}
}

// hasTerminal reports whether there is a controlling terminal: then SIGHUP says
// that it is gone, and ends the run. (It cannot be asked for later: a sudo between
// has a terminal of its own, which is there still.)
func hasTerminal() bool {
	fd, err := syscall.Open("/dev/tty", syscall.O_RDONLY|syscall.O_NOCTTY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err == nil {
		_ = syscall.Close(fd)
	}
	return err == nil
}

// deliverTo hands further signals to the command.
func (i *interrupts) deliverTo(p signaller) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.process = p
}

// stop lets go of the signals: from here on they do what they do by default.
func (i *interrupts) stop() {
	signal.Stop(i.signals)
	close(i.done)
	<-i.ended
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.timer != nil {
		i.timer.Stop()
	}
	i.cancel(context.Canceled)
}
