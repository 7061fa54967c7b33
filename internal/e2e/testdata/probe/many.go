package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// dialers is how many connections of a crowd are being made at a time: more would
// test the length of the listener's backlog.
const dialers = 64

// sequence makes n connections, one after the other, and has each echo its number.
func sequence(address string, n int) (seen, error) {
	addr, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return seen{}, err
	}
	for i := range n {
		conn, err := net.DialTCP("tcp4", nil, addr)
		if err != nil {
			return seen{Conns: i}, err
		}
		err = echo(conn, i)
		conn.Close()
		if err != nil {
			return seen{Conns: i}, err
		}
	}
	return seen{Conns: n}, nil
}

// crowd makes n connections that are all open at one time, and then has each
// echo its number.
func crowd(address string, n int) (seen, error) {
	addr, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return seen{}, err
	}
	conns := make([]*net.TCPConn, n)
	err = inParallel(n, func(i int) (err error) {
		conns[i], err = net.DialTCP("tcp4", nil, addr)
		return err
	})
	if err == nil {
		err = inParallel(n, func(i int) error { return echo(conns[i], i) })
	}
	// Only now, so that all were open at once.
	for _, conn := range conns {
		if conn != nil {
			conn.Close()
		}
	}
	return seen{Conns: n}, err
}

func inParallel(n int, do func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, dialers)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// echo sends a connection's number and wants it back.
func echo(conn net.Conn, number int) error {
	conn.SetDeadline(time.Now().Add(time.Minute))
	sent := fmt.Sprintf("%08d", number)
	if _, err := io.WriteString(conn, sent); err != nil {
		return err
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != sent {
		return fmt.Errorf("connection %s got %q back", sent, got)
	}
	return nil
}
