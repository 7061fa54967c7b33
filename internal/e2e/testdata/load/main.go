// Command load is a client for benchmarks: it asks one server in one of four ways
// and prints what that took, as JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
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
	mode := flag.String("mode", "connect", "connect, keepalive, echo or bulk")
	n := flag.Int("n", 1000, "operations; MiB for bulk")
	clients := flag.Int("c", 1, "clients at once")
	flag.Parse()
	modes := map[string]func(string, int) ([]time.Duration, error){
		"connect":   func(addr string, n int) ([]time.Duration, error) { return requests(addr, n, true) },
		"keepalive": func(addr string, n int) ([]time.Duration, error) { return requests(addr, n, false) },
		"echo":      echo,
		"bulk":      bulk,
	}

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

// requests makes HTTP requests, each on a connection of its own or all on one.
func requests(addr string, n int, fresh bool) ([]time.Duration, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: fresh}}
	took := make([]time.Duration, n)
	for i := range took {
		start := time.Now()
		resp, err := client.Get("http://" + addr + "/")
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		took[i] = time.Since(start)
	}
	return took, nil
}

// echo exchanges a few bytes with a server that does nothing else: the harshest
// case for a relay.
func echo(addr string, n int) ([]time.Duration, error) {
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
