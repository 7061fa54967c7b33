package names

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

type dialFunc = func(context.Context, netip.AddrPort) (*net.TCPConn, error)

// interleave orders addresses for a race: IPv6 first, then in turn (RFC 8305).
func interleave(addrs []netip.Addr, port uint16) []netip.AddrPort {
	var v4, v6 []netip.AddrPort
	for _, addr := range addrs {
		if ap := netip.AddrPortFrom(addr, port); addr.Is4() {
			v4 = append(v4, ap)
		} else {
			v6 = append(v6, ap)
		}
	}
	order := make([]netip.AddrPort, 0, len(addrs))
	for i := range max(len(v4), len(v6)) {
		if i < len(v6) {
			order = append(order, v6[i])
		}
		if i < len(v4) {
			order = append(order, v4[i])
		}
	}
	return order
}

// race dials the addresses in order, the next one when the one before has failed
// or had its lead, and returns the first connection. When it returns, no other
// attempt is left.
func race(ctx context.Context, dial dialFunc, addrs []netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn *net.TCPConn
		err  error
	}
	results := make(chan result)
	lead := time.NewTimer(attemptDelay)
	defer lead.Stop()
	started, pending := 0, 0
	start := func() {
		if started == len(addrs) || ctx.Err() != nil {
			return
		}
		addr := addrs[started]
		started++
		pending++
		lead.Reset(attemptDelay)
		go func() {
			conn, err := dial(ctx, addr)
			results <- result{conn, err}
		}()
	}
	var winner *net.TCPConn
	var first error
	for start(); pending > 0; {
		select {
		case <-lead.C:
			start()
		case r := <-results:
			pending--
			switch {
			case r.err == nil && winner == nil:
				winner = r.conn
				cancel() // the others end now, and nothing more is started
			case r.err == nil:
				r.conn.Close()
			default:
				if first == nil {
					first = r.err
				}
				start()
			}
		}
	}
	switch {
	case winner != nil:
		return winner, nil
	case first == nil:
		return nil, ctx.Err()
	case started == 1:
		return nil, first
	}
	return nil, fmt.Errorf("%d of %d addresses tried, first: %w", started, len(addrs), first)
}
