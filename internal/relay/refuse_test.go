package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestRefused(t *testing.T) {
	bare := func(change func(*flow.Record)) flow.Record { // before anything is known
		r := flow.Record{Sandbox: "s", Mode: flow.ModeTransparent}
		change(&r)
		return r
	}
	for _, tt := range []struct {
		name   string
		change func(*fixture, *Config)
		want   func(*fixture) flow.Record
	}{
		{"no origin", func(f *fixture, _ *Config) {
			f.take = func(netip.AddrPort) (flow.Origin, error) { return flow.Origin{}, errors.New("key does not exist") }
		}, func(*fixture) flow.Record {
			return bare(func(r *flow.Record) {
				r.Engine, r.Reason, r.Detail = flow.EngineIdentity, flow.ReasonNoOrigin, "key does not exist"
			})
		}},
		{"empty origin", func(f *fixture, _ *Config) { f.origin = flow.Origin{} }, func(*fixture) flow.Record {
			return bare(func(r *flow.Record) {
				r.Engine, r.Reason, r.Detail = flow.EngineIdentity, flow.ReasonNoOrigin, "origin without a destination"
				r.SetIdentity(curl)
				r.UID = 0
			})
		}},
		{"proxy's origin", func(f *fixture, _ *Config) { f.origin.Proxy = true }, func(*fixture) flow.Record {
			return bare(func(r *flow.Record) {
				r.Engine, r.Reason, r.Detail = flow.EngineIdentity, flow.ReasonNoOrigin, "the origin is of the other listener"
				r.SetIdentity(curl)
				r.UID = 1000
			})
		}},
		{"no identity", func(f *fixture, _ *Config) {
			f.identify = func(flow.ExecID) (*flow.Identity, error) { return nil, nil }
		}, func(f *fixture) flow.Record {
			return bare(func(r *flow.Record) {
				r.Engine, r.Reason, r.Detail = flow.EngineIdentity, flow.ReasonNoIdentity, "unknown exec id"
				r.PID, r.UID, r.ExecID, r.Host, r.Port, r.Address = 7, 1000, "7:1", "198.18.0.1", 443, "198.18.0.1"
			})
		}},
		{"stale address", func(f *fixture, _ *Config) {
			f.origin.Destination = netip.AddrPortFrom(syntheticStale, 443)
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Engine, r.Policy, r.Reason, r.Generation = flow.Deny, flow.EngineDNS, "", flow.ReasonStaleAddress, 0
				r.Host, r.Address, r.Detail, r.Hint = "198.18.0.9", "198.18.0.9", "a synthetic address that stands for no name", hint(flow.ReasonStaleAddress)
			})
		}},
		{"denied name", func(f *fixture, _ *Config) {
			f.origin.Destination = netip.AddrPortFrom(syntheticDenied, 443)
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Reason, r.Host, r.Address, r.Hint = flow.Deny, flow.ReasonNoEndpoint, deniedHost, "198.18.0.2", "add an endpoint"
			})
		}},
		{"denied literal", func(f *fixture, _ *Config) {
			f.origin.Destination = netip.MustParseAddrPort("[2001:db8::1]:80")
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Reason, r.Host, r.Port, r.Address, r.Hint = flow.Deny, flow.ReasonNoEndpoint, "2001:db8::1", 80, "2001:db8::1", "add an endpoint"
			})
		}},
		{"no decision", func(f *fixture, _ *Config) {
			f.decide = func(*flow.Identity, flow.Target) *flow.Decision { return nil }
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Engine, r.Policy, r.Reason, r.Generation = flow.Deny, flow.EngineRelay, "", flow.ReasonPolicyError, 0
				r.Address, r.Detail = "198.18.0.1", "no decision"
			})
		}},
		{"must be inspected", func(f *fixture, _ *Config) {
			d := *allowDecision
			d.Inspect = true
			f.decide = func(*flow.Identity, flow.Target) *flow.Decision { return &d }
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Engine, r.Reason = flow.Deny, flow.EngineRelay, flow.ReasonInspectionUnavailable
				r.Address, r.Hint = "198.18.0.1", hint(flow.ReasonInspectionUnavailable)
			})
		}},
		{"panic", func(f *fixture, _ *Config) {
			f.decide = func(*flow.Identity, flow.Target) *flow.Decision { panic("boom") }
		}, func(f *fixture) flow.Record {
			return f.base(func(r *flow.Record) {
				r.Verdict, r.Engine, r.Policy, r.Reason, r.Generation = flow.Deny, flow.EngineRelay, "", flow.ReasonInternal, 0
				r.Address, r.Detail = "198.18.0.1", "boom"
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, func(f *fixture, cfg *Config) {
				f.dial = func(context.Context, flow.Target, *flow.Decision) (*net.TCPConn, error) {
					t.Error("dialled")
					return nil, errors.New("dialled")
				}
				tt.change(f, cfg)
			})
			f.expectRefused(f.capture)
			f.want(tt.want(f))
		})
	}
}

func TestDialErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want func(*flow.Record)
	}{
		{"denial", &flow.Denial{Engine: flow.EngineSSRF, Reason: flow.ReasonPrivateAddress, Detail: "10.0.0.1 is private", Addr: netip.MustParseAddrPort("10.0.0.1:443")}, func(r *flow.Record) {
			r.Engine, r.Reason, r.Detail, r.Address, r.Hint = flow.EngineSSRF, flow.ReasonPrivateAddress, "10.0.0.1 is private", "10.0.0.1", hint(flow.ReasonPrivateAddress)
		}},
		{"other", errors.New("no route"), func(r *flow.Record) {
			r.Engine, r.Reason, r.Detail, r.Address = flow.EngineRelay, flow.ReasonUpstreamUnreachable, "no route", "198.18.0.1"
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, func(f *fixture, _ *Config) {
				f.dial = func(context.Context, flow.Target, *flow.Decision) (*net.TCPConn, error) { return nil, tt.err }
			})
			f.expectRefused(f.capture)
			f.want(f.base(func(r *flow.Record) {
				r.Verdict = flow.Deny
				tt.want(r)
			}))
		})
	}
}

func TestDialTimeout(t *testing.T) {
	f := newFixture(t, func(f *fixture, cfg *Config) {
		cfg.DialTimeout = 20 * time.Millisecond
		f.dial = func(ctx context.Context, _ flow.Target, _ *flow.Decision) (*net.TCPConn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	f.expectRefused(f.capture)
	if r := f.record(); r.Reason != flow.ReasonUpstreamUnreachable {
		t.Errorf("%+v", r)
	}
}

func TestAudit(t *testing.T) {
	d := *denyDecision
	d.Verdict = flow.Audit
	f := newFixture(t, func(f *fixture, _ *Config) { f.decide = func(*flow.Identity, flow.Target) *flow.Decision { return &d } })
	client, server := f.pair()
	send(t, client, "x")
	expect(t, server, "x")
	client.Close()
	server.Close()
	f.want(f.base(func(r *flow.Record) {
		r.Verdict, r.Reason, r.Hint, r.Sent = flow.Audit, d.Reason, d.Hint, 1
	}))
}

// A decision that turns on what is in a program's file is made once that is known,
// and no other one waits.
func TestAwaitsFiles(t *testing.T) {
	known := flow.NewIdentity(flow.Image{Exec: curl.Exec, Path: curl.Path, SHA256: "ab"}, 1000, 1000, nil)
	for _, reason := range []flow.Reason{flow.ReasonHashUnavailable, flow.ReasonHashChanged, flow.ReasonHashMismatch, flow.ReasonTaintedBinary, flow.ReasonNoEndpoint} {
		t.Run(string(reason), func(t *testing.T) {
			asked := 0
			f := newFixture(t, func(f *fixture, _ *Config) {
				f.decide = func(id *flow.Identity, _ flow.Target) *flow.Decision {
					if id == known {
						return allowDecision
					}
					return &flow.Decision{Engine: flow.EngineOPA, Reason: reason}
				}
				f.await = func(ctx context.Context, _ *flow.Identity) *flow.Identity {
					if _, bounded := ctx.Deadline(); !bounded {
						t.Error("the wait is not bounded")
					}
					asked++
					return known
				}
			})
			if reason.TurnsOnHash() {
				client, server := f.pair()
				client.Close()
				server.Close()
			} else {
				f.expectRefused(f.capture)
			}
			r := f.record()
			if turns := reason.TurnsOnHash(); turns != (asked == 1) || turns != (r.Verdict == flow.Allow) || turns != (r.SHA256 == "ab") {
				t.Errorf("asked %d times, %s, %s", asked, r.Verdict, r.Reason)
			}
		})
	}
}

// Where the file stays unknown the first answer stands, and nobody asks again.
func TestAwaitsFilesOnce(t *testing.T) {
	asked := 0
	f := newFixture(t, func(f *fixture, _ *Config) {
		f.decide = func(*flow.Identity, flow.Target) *flow.Decision {
			return &flow.Decision{Engine: flow.EngineOPA, Reason: flow.ReasonHashUnavailable}
		}
		f.await = func(_ context.Context, id *flow.Identity) *flow.Identity { asked++; return id }
	})
	f.expectRefused(f.capture)
	if r := f.record(); r.Reason != flow.ReasonHashUnavailable || asked != 1 {
		t.Errorf("%s, asked %d times", r.Reason, asked)
	}
}

// A reload under which an open connection turns on a file that was not read yet waits
// for it, and cuts the connection only by the answer.
func TestRedecideAwaitsFiles(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		var reloaded atomic.Bool
		known := flow.NewIdentity(flow.Image{Exec: curl.Exec, Path: curl.Path, SHA256: "ab"}, 1000, 1000, nil)
		var read atomic.Bool
		gate := make(chan struct{})
		f := newFixture(t, func(f *fixture, _ *Config) {
			f.decide = func(id *flow.Identity, _ flow.Target) *flow.Decision {
				switch {
				case !reloaded.Load() || id == known && allowed:
					return allowDecision
				case id == known:
					return denyDecision
				}
				return &flow.Decision{Engine: flow.EngineOPA, Reason: flow.ReasonHashUnavailable}
			}
			f.renew = func(id *flow.Identity) *flow.Identity {
				if read.Load() {
					return known
				}
				return id
			}
			f.await = func(context.Context, *flow.Identity) *flow.Identity {
				<-gate
				read.Store(true)
				return known
			}
		})
		client, server := f.pair()
		reloaded.Store(true)
		if n := f.relay.Redecide(); n != 0 {
			t.Fatalf("%d connections were cut before the file was read", n)
		}
		close(gate)
		if !allowed {
			client.SetDeadline(time.Now().Add(patience))
			expectReset(t, client)
		} else {
			for !read.Load() {
				time.Sleep(time.Millisecond)
			}
			if _, err := client.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if _, err := server.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
		}
		client.Close()
		server.Close()
		f.record()
	}
}
