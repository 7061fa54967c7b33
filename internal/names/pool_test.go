package names

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func newPool(t testing.TB, cfg PoolConfig) *Pool {
	t.Helper()
	p, err := NewPool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func assign(t testing.TB, p *Pool, host string) (v4, v6 netip.Addr) {
	t.Helper()
	v4, v6, err := p.Assign(host)
	if err != nil {
		t.Fatal(err)
	}
	return v4, v6
}

func TestPoolAssign(t *testing.T) {
	p := newPool(t, PoolConfig{})
	for i, want := range [][2]string{
		{"198.18.1.0", "fd52:696e:67fe:1::100"},
		{"198.18.1.1", "fd52:696e:67fe:1::101"},
	} {
		host := fmt.Sprintf("host%d.example", i)
		for range 2 { // stable
			v4, v6 := assign(t, p, host)
			if v4.String() != want[0] || v6.String() != want[1] {
				t.Errorf("Assign(%s) = %s, %s; want %s", host, v4, v6, want)
			}
			mapped := netip.AddrFrom16(v4.As16())
			for _, addr := range []netip.Addr{v4, v6, mapped} {
				if got, ok := p.Host(addr); !ok || got != host {
					t.Errorf("Host(%s) = %q, %v; want %s", addr, got, ok, host)
				}
				if !p.Contains(addr) {
					t.Errorf("Contains(%s) = false", addr)
				}
			}
		}
	}
}

func TestPoolHostUnknown(t *testing.T) {
	p := newPool(t, PoolConfig{})
	assign(t, p, "example.com")
	tests := []struct {
		addr     string
		contains bool
	}{
		{"198.18.0.0", true}, {"198.18.0.1", true}, {"198.18.0.255", true},
		{"198.18.1.1", true}, {"198.19.255.255", true},
		{"198.17.255.255", false}, {"198.20.0.0", false},
		{"192.0.2.1", false}, {"0.0.0.0", false}, {"255.255.255.255", false},
		{"fd52:696e:67fe:1::", true}, {"fd52:696e:67fe:1::ff", true}, {"fd52:696e:67fe:1::101", true},
		{"fd52:696e:67fe:1:ffff:ffff:ffff:ffff", true},
		{"fd52:696e:67fe::100", false}, {"fd52:696e:67fe:2::100", false}, {"2001:db8::100", false}, {"::", false},
		{"fd52:696e:67fe:1::100%lo", false},
	}
	for _, tt := range tests {
		addr := netip.MustParseAddr(tt.addr)
		if host, ok := p.Host(addr); ok || host != "" {
			t.Errorf("Host(%s) = %q, want none", addr, host)
		}
		if got := p.Contains(addr); got != tt.contains {
			t.Errorf("Contains(%s) = %v", addr, got)
		}
	}
	if host, ok := p.Host(netip.Addr{}); ok || p.Contains(netip.Addr{}) {
		t.Errorf("the invalid address stands for %q", host)
	}
}

func TestPoolExhausted(t *testing.T) {
	p := newPool(t, PoolConfig{Max: 2})
	first, _ := assign(t, p, "a.example")
	assign(t, p, "b.example")
	for range 2 {
		if v4, v6, err := p.Assign("c.example"); !errors.Is(err, ErrPoolExhausted) || v4.IsValid() || v6.IsValid() {
			t.Errorf("Assign over the limit = %s, %s, %v; want ErrPoolExhausted", v4, v6, err)
		}
	}
	if again, _ := assign(t, p, "a.example"); again != first {
		t.Errorf("a full pool gave %s for a known name, want %s", again, first)
	}
}

func TestNewPoolRefuses(t *testing.T) {
	prefix := netip.MustParsePrefix
	for name, cfg := range map[string]PoolConfig{
		"negative":        {Max: -1},
		"too many":        {Max: poolLimit + 1},
		"no room in IPv4": {V4: prefix("198.18.0.0/24"), Max: 1},
		"wraps IPv4":      {V4: prefix("255.255.255.0/24"), Max: 1},
		"no room in IPv6": {V6: prefix("fd00::/120"), Max: 1},
		"wraps IPv6":      {V6: prefix("fd00::ffff:ffff:ffff:ff00/120"), Max: 1},
		"IPv6 as IPv4":    {V4: prefix("fd00::/64")},
		"IPv4 as IPv6":    {V6: prefix("10.0.0.0/8")},
	} {
		if _, err := NewPool(cfg); err == nil {
			t.Errorf("%s: NewPool(%+v) gave no error", name, cfg)
		}
	}
}

func TestPoolConcurrent(t *testing.T) {
	p := newPool(t, PoolConfig{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 500 {
				host := fmt.Sprintf("h%d.example", i)
				v4, v6, err := p.Assign(host)
				if err != nil {
					t.Error(err)
					return
				}
				for _, addr := range []netip.Addr{v4, v6} {
					if got, _ := p.Host(addr); got != host {
						t.Errorf("Host(%s) = %q, want %q", addr, got, host)
					}
				}
			}
		})
	}
	wg.Wait()
	if len(p.hosts) != 500 {
		t.Errorf("%d names were assigned, want 500", len(p.hosts))
	}
}

func BenchmarkPoolHost(b *testing.B) {
	p := newPool(b, PoolConfig{})
	v4, v6 := assign(b, p, "objects.githubusercontent.com")
	for name, addr := range map[string]netip.Addr{"v4": v4, "v6": v6} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := p.Host(addr); !ok {
					b.Fatal("lost")
				}
			}
		})
	}
}

// A pool after another one gives each name what it had, and no other name gets that.
func TestPoolAfterAnother(t *testing.T) {
	var said []string
	first := newPool(t, PoolConfig{Remember: func(host string) error { said = append(said, host); return nil }})
	a, _ := assign(t, first, "a.example")
	b, _ := assign(t, first, "b.example")
	assign(t, first, "a.example")
	if diff := cmp.Diff([]string{"a.example", "b.example"}, said); diff != "" {
		t.Errorf("remembered (-want +got):\n%s", diff)
	}
	second := newPool(t, PoolConfig{Known: said, Remember: func(string) error { return io.ErrShortWrite }})
	for addr, want := range map[netip.Addr]string{a: "a.example", b: "b.example"} {
		if host, ok := second.Host(addr); !ok || host != want {
			t.Errorf("Host(%s) = %q, %v, want %q", addr, host, ok, want)
		}
	}
	if again, _ := assign(t, second, "b.example"); again != b {
		t.Errorf("b.example has %s, had %s", again, b)
	}
	if v4, _, err := second.Assign("c.example"); !errors.Is(err, io.ErrShortWrite) || v4.IsValid() {
		t.Errorf("a name that is not remembered has %s, %v", v4, err)
	}
	for name, cfg := range map[string]PoolConfig{
		"too many": {Max: 1, Known: said},
		"twice":    {Known: []string{"a.example", "a.example"}},
	} {
		if _, err := NewPool(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
