package testenv

import (
	"fmt"
	"io"
	"net"
	"sync"
)

// Banner is what the service on PortBanner sends before the client says a word.
const Banner = "220 mail.test ESMTP\r\n"

// startEcho serves what is no HTTP: TCP echo with half-close, a service that
// speaks first and then echoes, and UDP echo.
func (e *Env) startEcho() error {
	if err := e.Serve(PortEcho, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }); err != nil {
		return err
	}
	err := e.Serve(PortBanner, func(conn net.Conn) {
		if _, err := io.WriteString(conn, Banner); err == nil {
			_, _ = io.Copy(conn, conn)
		}
	})
	if err != nil {
		return err
	}
	for _, port := range []int{PortEcho, PortUDPEcho} {
		if err := e.serveUDPEcho(port); err != nil {
			return err
		}
	}
	return nil
}

// Serve accepts TCP connections to a port on every address in the internet
// namespace and calls handle for each, on a goroutine of its own. The connection
// is closed when handle returns, and when the Env closes.
func (e *Env) Serve(port int, handle func(net.Conn)) error {
	listener, err := e.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return fmt.Errorf("listen on port %d: %w", port, err)
	}
	server := &tcpServer{listener: listener, handle: handle, conns: make(map[net.Conn]struct{})}
	e.wg.Go(func() { server.serve(&e.wg) })
	e.atClose(server.Close)
	return nil
}

type tcpServer struct {
	listener net.Listener
	handle   func(net.Conn)

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

func (s *tcpServer) serve(wg *sync.WaitGroup) {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		if !s.add(conn) {
			return
		}
		wg.Go(func() {
			defer s.remove(conn)
			s.handle(conn)
		})
	}
}

func (s *tcpServer) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return false
	}
	s.conns[conn] = struct{}{}
	return true
}

func (s *tcpServer) remove(conn net.Conn) {
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// Close ends the listener and all connections.
func (s *tcpServer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for conn := range s.conns {
		_ = conn.Close()
	}
	return s.listener.Close()
}

func (e *Env) serveUDPEcho(port int) error {
	conn, err := e.listenPacket(port)
	if err != nil {
		return err
	}
	e.atClose(conn.Close)
	e.wg.Go(func() { echoUDP(conn) })
	return nil
}
