package cli

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/event"
	"github.com/ringfence/ringfence/internal/tty"
)

const (
	progressAfter = 300 * time.Millisecond // what is done sooner is not worth a word
	progressEvery = 200 * time.Millisecond
)

// progress says on a terminal what takes long, and is gone when it is done.
type progress struct {
	stop chan struct{}
	done sync.WaitGroup
}

// startProgress shows what text returns from time to time, until end is called. Where
// out is no terminal nothing is shown.
func startProgress(out *os.File, text func() string) *progress {
	p := &progress{stop: make(chan struct{})}
	if tty.IsTerminal(out) {
		p.done.Add(1)
		go p.show(out, text)
	}
	return p
}

func (p *progress) show(out *os.File, text func() string) {
	defer p.done.Done()
	timer := time.NewTimer(progressAfter)
	defer timer.Stop()
	shown := false
	for {
		select {
		case <-timer.C:
			// To the beginning of the line, the text, and what is left of the last.
			fmt.Fprintf(out, "\r%s\x1b[K", event.Prose(text()))
			shown = true
			timer.Reset(progressEvery)
		case <-p.stop:
			if shown {
				fmt.Fprint(out, "\r\x1b[K")
			}
			return
		}
	}
}

func (p *progress) end() {
	close(p.stop)
	p.done.Wait()
}

// saying returns the text of work that has no measure.
func saying(what, name string) func() string {
	began := time.Now()
	return func() string {
		return fmt.Sprintf("%s %s … %ds", what, name, time.Since(began)/time.Second)
	}
}
