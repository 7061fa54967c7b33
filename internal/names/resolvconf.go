package names

import (
	"io"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	resolvConfAge  = 5 * time.Second // after which the file is looked at again
	maxResolvConf  = 64 << 10        // bytes that are read of it
	maxNameservers = 3               // as the C library does (MAXNS)
)

// resolvConf is the system's list of servers. A laptop changes networks, so the
// file is looked at again; never on the way of a lookup, which takes what is
// known and leaves the reading to a goroutine.
type resolvConf struct {
	path    string
	list    atomic.Pointer[[]netip.AddrPort]
	checked atomic.Int64 // nanoseconds of the Unix epoch; who moves it may read
}

func newResolvConf(path string) *resolvConf {
	c := &resolvConf{path: path}
	c.checked.Store(time.Now().UnixNano())
	c.read()
	return c
}

// servers returns the servers as far as they are known.
func (c *resolvConf) servers() []netip.AddrPort {
	now, checked := time.Now().UnixNano(), c.checked.Load()
	if age := time.Duration(now - checked); age > resolvConfAge || age < 0 {
		if c.checked.CompareAndSwap(checked, now) {
			go c.read()
		}
	}
	if list := c.list.Load(); list != nil {
		return *list
	}
	return nil
}

// read replaces the list. A file that is gone or names no server leaves the old
// one: it is being rewritten.
func (c *resolvConf) read() {
	file, err := os.Open(c.path)
	if err != nil {
		return
	}
	defer file.Close()
	conf, err := dns.ClientConfigFromReader(io.LimitReader(file, maxResolvConf))
	if err != nil {
		return
	}
	var list []netip.AddrPort
	for _, text := range conf.Servers {
		if addr, err := netip.ParseAddr(text); err == nil && len(list) < maxNameservers {
			list = append(list, netip.AddrPortFrom(addr, 53))
		}
	}
	if len(list) > 0 {
		c.list.Store(&list)
	}
}
