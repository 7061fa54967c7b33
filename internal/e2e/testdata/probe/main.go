// Command probe is a client as Go programs are, with Go's own resolver. It runs
// inside a sandbox, and prints what it saw as one JSON object.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"time"
)

// seen is what a command came to; each fills in what it is about.
type seen struct {
	Error    string  `json:"error,omitempty"`
	MS       float64 `json:"ms"`   // connect and first read together
	Peer     string  `json:"peer"` // the address that the program is told
	Data     string  `json:"data"`
	Conns    int     `json:"conns"`
	Sent     int64   `json:"sent"`
	Received int64   `json:"received"`
	SentSum  string  `json:"sent_sum"` // SHA-256
	Sum      string  `json:"sum"`      // SHA-256 of what was received
}

func main() {
	network := flag.String("net", "tcp", "tcp, tcp4 or tcp6")
	text := flag.String("send", "", "connect: text to send first")
	mptcp := flag.Bool("mptcp", false, "connect: ask for Multipath TCP")
	n := flag.Int("n", 1, "sequence, crowd: connections; steady: connections a second; transfer: MiB")
	lasting := flag.Duration("for", time.Second, "steady: how long")
	flag.Parse()
	commands := map[string]func(address string) (seen, error){
		"connect":  func(a string) (seen, error) { return connect(*network, a, *text, *mptcp) },
		"sequence": func(a string) (seen, error) { return sequence(a, *n) },
		"crowd":    func(a string) (seen, error) { return crowd(a, *n) },
		"steady":   func(a string) (seen, error) { return steady(a, *n, *lasting) },
		"transfer": func(a string) (seen, error) { return transfer(*network, a, int64(*n)<<20) },
	}
	command, ok := commands[flag.Arg(0)]
	if !ok || flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: probe [flags] connect|sequence|crowd|steady|transfer HOST:PORT")
		os.Exit(2)
	}
	out, err := command(flag.Arg(1))
	if err != nil {
		out.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil || out.Error != "" {
		os.Exit(1)
	}
}

// connect opens one connection and reads once. The time does not count the
// lookup of the name.
func connect(network, address, text string, mptcp bool) (seen, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return seen{}, err
	}
	families := map[string]string{"tcp": "ip", "tcp4": "ip4", "tcp6": "ip6"}
	ip, err := net.ResolveIPAddr(families[network], host)
	if err != nil {
		return seen{}, err
	}
	var dialer net.Dialer
	dialer.SetMultipathTCP(mptcp)
	start := time.Now()
	out, err := talk(&dialer, net.JoinHostPort(ip.String(), port), text)
	out.MS = float64(time.Since(start).Microseconds()) / 1e3
	return out, err
}

func talk(dialer *net.Dialer, address, text string) (seen, error) {
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		return seen{}, err
	}
	defer conn.Close()
	out := seen{Peer: conn.RemoteAddr().String()}
	if text != "" {
		if _, err := conn.Write([]byte(text)); err != nil {
			return out, err
		}
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	out.Data = string(buf[:n])
	return out, err
}
