package main

import (
	"encoding/json"
	"net"
	"strings"
	"sync"
	"time"
)

// tally counts what came of the connections to one address.
type tally struct {
	mu        sync.Mutex
	OK, Wrong int
	First     string // the first error
}

func (t *tally) add(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.OK++
		return
	}
	t.Wrong++
	if t.First == "" {
		t.First = err.Error()
	}
}

// steady makes n connections a second, in turn to each of some addresses (with a
// comma between), whatever came of those before, for a time.
func steady(addresses string, n int, lasting time.Duration) (seen, error) {
	var addrs []*net.TCPAddr
	for address := range strings.SplitSeq(addresses, ",") {
		addr, err := net.ResolveTCPAddr("tcp4", address)
		if err != nil {
			return seen{}, err
		}
		addrs = append(addrs, addr)
	}
	tallies := make([]tally, len(addrs))
	var wg sync.WaitGroup
	made := 0
	for start := time.Now(); time.Since(start) < lasting; made++ {
		// By the clock, so that what could not be made in time is made up for.
		time.Sleep(time.Until(start.Add(time.Duration(made) * time.Second / time.Duration(n))))
		wg.Go(func() {
			i := made % len(addrs)
			conn, err := net.DialTCP("tcp4", nil, addrs[i])
			if err == nil {
				err = echo(conn, made)
				conn.Close()
			}
			tallies[i].add(err)
		})
	}
	wg.Wait()
	data, err := json.Marshal(tallies)
	return seen{Conns: made, Data: string(data)}, err
}
