package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Request is one HTTP request that reached the HTTP or HTTPS service.
type Request struct {
	Method string `json:"method"`
	Host   string `json:"host"` // as the client wrote it
	Path   string `json:"path"` // as the client wrote it, with the query
	Proto  string `json:"proto"`
	SNI    string `json:"sni"` // empty without TLS
	Remote string `json:"remote"`
	Local  string `json:"local"` // the address that was dialled
}

// maxBytes is the longest body that /bytes/N sends.
const maxBytes = 4 << 30

type webServer struct {
	http.Handler
	mu       sync.Mutex
	requests []Request // at most maxLog
}

// startWeb serves HTTP and HTTPS (with HTTP/2) on every address:
//
//	/          one line that names the host
//	/bytes/N   N bytes
//	/echo      the body of the request, as it comes
//	/request   the Request as JSON
//	…/project.git   a git repository to clone, below any path
func (e *Env) startWeb() error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s\n", r.Host)
	})
	mux.HandleFunc("/bytes/{n}", serveBytes)
	mux.HandleFunc("/echo", serveEcho)
	mux.HandleFunc("/request", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(describe(r)) // the client may be gone
	})
	repository := newGitHandler(e.dir.Path("git"))
	e.web = &webServer{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if repository.serves(r.URL.Path) {
			repository.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})}
	if err := e.serveWeb(PortHTTP, (*http.Server).Serve); err != nil {
		return err
	}
	return e.serveWeb(PortHTTPS, func(server *http.Server, listener net.Listener) error {
		return server.ServeTLS(listener, "", "")
	})
}

func (e *Env) serveWeb(port int, serve func(*http.Server, net.Listener) error) error {
	listener, err := e.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return fmt.Errorf("listen for HTTP: %w", err)
	}
	server := &http.Server{
		Handler:           e.web,
		TLSConfig:         e.ca.TLSConfig(),
		ReadHeaderTimeout: 30 * time.Second,
		// Denied handshakes are what tests are about; they are no news.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	e.wg.Go(func() { _ = serve(server, listener) }) // ends with Close
	e.atClose(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
			return server.Close()
		}
		return nil
	})
	return nil
}

// ServeHTTP logs the request and hands it on.
func (s *webServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if len(s.requests) < maxLog {
		s.requests = append(s.requests, describe(r))
	}
	s.mu.Unlock()
	s.Handler.ServeHTTP(w, r)
}

func describe(r *http.Request) Request {
	described := Request{Method: r.Method, Host: r.Host, Path: r.RequestURI, Proto: r.Proto, Remote: r.RemoteAddr}
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		described.Local = addr.String()
	}
	if r.TLS != nil {
		described.SNI = r.TLS.ServerName
	}
	return described
}

func serveBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
	if err != nil || n < 0 || n > maxBytes {
		http.Error(w, "not a length", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	_, _ = io.CopyN(w, zeros{}, n) // the client may be gone
}

// zeros reads as an endless file of '0' digits.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func serveEcho(w http.ResponseWriter, r *http.Request) {
	// Echoing while reading needs leave in HTTP/1; HTTP/2 has it, and says so by
	// an error that does not matter.
	_ = http.NewResponseController(w).EnableFullDuplex()
	if r.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
	}
	_, _ = io.Copy(w, r.Body) // the client may be gone
}

// Requests returns the HTTP requests that arrived so far, at most the first
// 65,536.
func (e *Env) Requests() []Request {
	e.web.mu.Lock()
	defer e.web.mu.Unlock()
	return append([]Request(nil), e.web.requests...)
}
