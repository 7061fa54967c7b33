// Command load is a client for benchmarks: it makes connections to one server
// in one of three ways and prints what they took, as JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	requestSize  = 64
	responseSize = 128
)

type result struct {
	Rate  float64 `json:"rate"`   // operations a second; bytes a second for bulk
	P50us float64 `json:"p50_us"` // one operation
	P99us float64 `json:"p99_us"`
}

func main() {
	addr := flag.String("addr", "", "server")
	mode := flag.String("mode", "connect", "connect, keepalive or bulk")
	n := flag.Int("n", 1000, "operations; MiB for bulk")
	clients := flag.Int("c", 1, "clients at once")
	flag.Parse()
	modes := map[string]func(string, int) ([]time.Duration, error){"connect": connects, "keepalive": keepalive, "bulk": bulk}

	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	start := time.Now()
	for range *clients {
		wg.Go(func() {
			took, err := modes[*mode](*addr, *n / *clients)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			mu.Lock()
			all = append(all, took...)
			mu.Unlock()
		})
	}
	wg.Wait()
	elapsed := time.Since(start).Seconds()
	slices.Sort(all)
	us := func(q float64) float64 {
		return float64(all[int(q*float64(len(all)-1))].Nanoseconds()) / 1e3
	}
	r := result{Rate: float64(len(all)) / elapsed, P50us: us(0.5), P99us: us(0.99)}
	if *mode == "bulk" {
		r.Rate = float64(*n<<20) / elapsed
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

func exchange(conn net.Conn, request, response []byte) error {
	if _, err := conn.Write(request); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, response)
	return err
}

// connects makes a connection for each request.
func connects(addr string, n int) ([]time.Duration, error) {
	request, response := make([]byte, requestSize), make([]byte, responseSize)
	took := make([]time.Duration, n)
	for i := range took {
		start := time.Now()
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		if err := exchange(conn, request, response); err != nil {
			return nil, err
		}
		conn.Close()
		took[i] = time.Since(start)
	}
	return took, nil
}

// keepalive makes all requests on one connection.
func keepalive(addr string, n int) ([]time.Duration, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	request, response := make([]byte, requestSize), make([]byte, responseSize)
	took := make([]time.Duration, n)
	for i := range took {
		start := time.Now()
		if err := exchange(conn, request, response); err != nil {
			return nil, err
		}
		took[i] = time.Since(start)
	}
	return took, nil
}

// bulk receives n MiB on one connection: the first byte of the request says so.
func bulk(addr string, n int) ([]time.Duration, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	request := make([]byte, requestSize)
	request[0], request[1], request[2] = 'B', byte(n>>8), byte(n)
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	start := time.Now()
	buf := make([]byte, 256<<10)
	for left := n << 20; left > 0; {
		got, err := conn.Read(buf)
		left -= got
		if err != nil {
			return nil, err
		}
	}
	return []time.Duration{time.Since(start)}, nil
}
