package testenv

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/ringfence/ringfence/internal/netns"
)

// Addresses that are the same in every Env. The services answer on every other
// address as well.
const (
	HostIPv4     = "203.0.113.1"
	HostIPv6     = "2001:db8:1::1"
	ResolverIPv4 = "203.0.113.53"
	ResolverIPv6 = "2001:db8::53"
	Metadata     = "169.254.169.254"
)

// Ports of the services in the internet namespace. PortUDPEcho stands for the
// port of QUIC, which a fence must not let through.
const (
	PortEcho    = 7
	PortBanner  = 25
	PortDNS     = 53
	PortHTTP    = 80
	PortHTTPS   = 443
	PortUDPEcho = 443
)

// Config says what an Env has. The zero value has everything.
type Config struct {
	// NoWitness leaves the witness out, for benchmarks that it would slow down.
	NoWitness bool
}

// Env is a host and an internet namespace with its services. Its methods may be
// called from several goroutines.
type Env struct {
	host, internet *netns.Handle
	dir            *scratch
	ca             *authority
	dns            *dnsServer
	web            *webServer
	witness        *witness

	ctx    context.Context // ends the commands
	cancel context.CancelFunc
	// wg counts the goroutines of all services.
	wg sync.WaitGroup

	mu      sync.Mutex
	closers []func() error // run in reverse by Close
}

// New starts an Env that is closed when the test ends. It skips or fails the test
// where the machine cannot have one.
func New(tb testing.TB) *Env {
	tb.Helper()
	return NewWith(tb, Config{})
}

// NewWith is New with a Config.
func NewWith(tb testing.TB, config Config) *Env {
	tb.Helper()
	env, err := Start(context.Background(), config)
	SkipOn(tb, err)
	tb.Cleanup(func() {
		if err := env.Close(); err != nil {
			tb.Errorf("close testenv: %v", err)
		}
	})
	return env
}

// Start builds an Env. It lives until Close; commands started from it end when
// ctx does. The error is a *Skip where the machine cannot have one.
func Start(ctx context.Context, config Config) (env *Env, err error) {
	if err := check("nsenter"); err != nil {
		return nil, err
	}
	env = new(Env)
	env.ctx, env.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, env.Close())
			env = nil
		}
	}()
	if env.dir, err = newScratch(); err != nil {
		return env, err
	}
	env.atClose(env.dir.Close)
	if err := env.startNetwork(); err != nil {
		return env, err
	}
	if !config.NoWitness {
		if err := env.startWitness(); err != nil {
			return env, err
		}
	}
	return env, env.startServices()
}

func (e *Env) startServices() error {
	var err error
	if e.ca, err = newAuthority(e.dir.Path("ca.pem")); err != nil {
		return err
	}
	if err := e.startDNS(); err != nil {
		return err
	}
	if err := e.startWeb(); err != nil {
		return err
	}
	return e.startEcho()
}

// Close ends the commands and services and removes everything.
func (e *Env) Close() error {
	e.cancel()
	e.mu.Lock()
	closers := e.closers
	e.closers = nil
	e.mu.Unlock()
	var errs []error
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	e.wg.Wait()
	return errors.Join(errs...)
}

// atClose registers what Close undoes, last first.
func (e *Env) atClose(undo func() error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closers = append(e.closers, undo)
}

// CA returns the path of a PEM file with the certificate that signs the
// certificates of all TLS services.
func (e *Env) CA() string { return e.ca.file }

// Resolver returns the address of the DNS server.
func (e *Env) Resolver() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(ResolverIPv4), PortDNS)
}

// Do runs fn on a thread in the host namespace. Sockets that fn makes stay there;
// goroutines that it starts do not.
func (e *Env) Do(fn func() error) error { return e.host.Do(fn) }

// DoInternet runs fn on a thread in the internet namespace.
func (e *Env) DoInternet(fn func() error) error { return e.internet.Do(fn) }

// Dial connects from the host namespace to a literal address.
func (e *Env) Dial(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	err := e.host.Do(func() error {
		var dialer net.Dialer
		var err error
		conn, err = dialer.DialContext(ctx, network, address.String())
		return err
	})
	return conn, err
}

// Listen listens in the internet namespace, so that a test can add a service. The
// caller closes the listener.
func (e *Env) Listen(network, address string) (net.Listener, error) {
	var listener net.Listener
	err := e.internet.Do(func() error {
		var err error
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}
