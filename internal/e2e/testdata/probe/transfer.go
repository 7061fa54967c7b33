package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net"
)

// transfer sends n bytes that cannot be guessed, half-closes, and reads until the
// server has half-closed too. Both ways run at once.
func transfer(network, address string, n int64) (seen, error) {
	conn, err := net.Dial(network, address)
	if err != nil {
		return seen{}, err
	}
	defer conn.Close()
	sent, received := sha256.New(), sha256.New()
	var out seen
	failed := make(chan error, 1)
	go func() {
		var err error
		source := rand.NewChaCha8([32]byte{1})
		out.Sent, err = io.Copy(io.MultiWriter(conn, sent), io.LimitReader(source, n))
		if err == nil {
			err = conn.(*net.TCPConn).CloseWrite()
		}
		failed <- err
	}()
	got, err := io.Copy(received, conn)
	if sendErr := <-failed; err == nil {
		err = sendErr
	}
	out.Received = got
	out.SentSum = hex.EncodeToString(sent.Sum(nil))
	out.Sum = hex.EncodeToString(received.Sum(nil))
	return out, err
}
