package launch

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// allowedSockets are the sockets that programs need, written down apart from the
// table: family, type, protocol.
func allowedSockets() map[[3]int]bool {
	all := map[[3]int]bool{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		all[[3]int{family, 1, 0}], all[[3]int{family, 1, 6}], all[[3]int{family, 1, 262}] = true, true, true
		all[[3]int{family, 2, 0}], all[[3]int{family, 2, 17}] = true, true
	}
	for _, kind := range []int{1, 2, 5} {
		all[[3]int{unix.AF_UNIX, kind, 0}], all[[3]int{unix.AF_UNIX, kind, 1}] = true, true
	}
	all[[3]int{unix.AF_NETLINK, 2, 0}], all[[3]int{unix.AF_NETLINK, 3, 0}] = true, true
	return all
}

// Every family, type and protocol is allowed if it is listed, and only then.
func TestFilterAllowsListedSockets(t *testing.T) {
	info := native(t)
	programs, err := filters()
	if err != nil {
		t.Fatal(err)
	}
	run := machine(t, programs)
	socket, pair := uint32(info.SyscallNames["socket"]), uint32(info.SyscallNames["socketpair"])
	allowed := allowedSockets()
	refused := func(v uint32) bool { return v&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO }
	for family := range 64 {
		for kind := range 16 {
			for _, flags := range []int{0, unix.SOCK_CLOEXEC, unix.SOCK_NONBLOCK, unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK} {
				for _, protocol := range []int{0, 1, 2, 4, 6, 9, 15, 16, 17, 33, 58, 132, 136, 255, 256, 262, 0x0300} {
					want := allowed[[3]int{family, kind, protocol}]
					args := []uint64{uint64(family), uint64(kind | flags), uint64(protocol)}
					if got := run(uint32(info.ID), socket, args...); got != unix.SECCOMP_RET_ALLOW && want || !refused(got) && !want {
						t.Errorf("socket(%d, %#x, %d): %#x", family, kind|flags, protocol, got)
					}
					want = want && family == unix.AF_UNIX
					if got := run(uint32(info.ID), pair, args...); got != unix.SECCOMP_RET_ALLOW && want || !refused(got) && !want {
						t.Errorf("socketpair(%d, %#x, %d): %#x", family, kind|flags, protocol, got)
					}
				}
			}
		}
	}
	// The kernel takes 32 bits: what stands above changes nothing, either way.
	for _, tt := range []struct {
		args []uint64
		want uint32
	}{
		{[]uint64{1<<32 | unix.AF_VSOCK, unix.SOCK_STREAM, 0}, unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{[]uint64{1<<32 | unix.AF_INET, 1<<40 | unix.SOCK_STREAM, 1<<63 | unix.IPPROTO_SCTP}, unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		{[]uint64{1<<32 | unix.AF_INET, 1<<40 | unix.SOCK_STREAM, 1 << 63}, unix.SECCOMP_RET_ALLOW},
		{[]uint64{unix.AF_INET, 1<<16 | unix.SOCK_STREAM, 0}, unix.SECCOMP_RET_ERRNO | uint32(unix.ESOCKTNOSUPPORT)},
		{[]uint64{^uint64(0), ^uint64(0), ^uint64(0)}, unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
	} {
		if got := run(uint32(info.ID), socket, tt.args...); got != tt.want {
			t.Errorf("socket(%#x): %#x, want %#x", tt.args, got, tt.want)
		}
	}
}

// socketTries are made inside, with what the program is told. Where the kernel has
// no such family it says the same, so the list holds what kernels do have.
func socketTries() map[string]unix.Errno {
	const inet, inet6, local, link = unix.AF_INET, unix.AF_INET6, unix.AF_UNIX, unix.AF_NETLINK
	tries := map[string]unix.Errno{}
	add := func(family, kind, protocol int, want unix.Errno) {
		tries[fmt.Sprintf("%d %d %d", family, kind, protocol)] = want
	}
	for _, family := range []int{inet, inet6} {
		add(family, unix.SOCK_STREAM, 0, 0)
		add(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP, 0)
		add(family, unix.SOCK_DGRAM, 0, 0)
		add(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP, 0)
		add(family, unix.SOCK_DGRAM, unix.IPPROTO_ICMP, unix.EPROTONOSUPPORT)
		add(family, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6, unix.EPROTONOSUPPORT)
		add(family, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, unix.EPROTONOSUPPORT)
		add(family, unix.SOCK_STREAM, unix.IPPROTO_SCTP, unix.EPROTONOSUPPORT)
		add(family, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP, unix.ESOCKTNOSUPPORT)
		add(family, unix.SOCK_DCCP, unix.IPPROTO_DCCP, unix.ESOCKTNOSUPPORT)
		add(family, unix.SOCK_RAW, unix.IPPROTO_ICMP, unix.EPERM)
		add(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW, unix.EPERM)
		add(family, unix.SOCK_PACKET, 0x0300, unix.ESOCKTNOSUPPORT)
		add(family, unix.SOCK_STREAM, 256, unix.EPROTONOSUPPORT) // SMC
	}
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET | unix.SOCK_CLOEXEC} {
		add(local, kind, 0, 0)
	}
	add(local, unix.SOCK_RAW, 0, unix.ESOCKTNOSUPPORT)
	add(link, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE, 0)
	add(link, unix.SOCK_DGRAM, unix.NETLINK_ROUTE, 0)
	for _, protocol := range []int{unix.NETLINK_SOCK_DIAG, unix.NETLINK_XFRM, unix.NETLINK_AUDIT, unix.NETLINK_NETFILTER, unix.NETLINK_KOBJECT_UEVENT, unix.NETLINK_GENERIC, unix.NETLINK_CRYPTO} {
		add(link, unix.SOCK_RAW, protocol, unix.EPROTONOSUPPORT)
	}
	for _, family := range []int{
		unix.AF_PACKET, unix.AF_XDP, unix.AF_VSOCK, unix.AF_ALG, unix.AF_TIPC, unix.AF_RDS, unix.AF_SMC, unix.AF_BLUETOOTH,
		unix.AF_CAN, unix.AF_KCM, unix.AF_KEY, unix.AF_NFC, unix.AF_PHONET, unix.AF_IEEE802154, unix.AF_QIPCRTR, unix.AF_MCTP,
		unix.AF_X25, unix.AF_AX25, unix.AF_APPLETALK, unix.AF_PPPOX, unix.AF_LLC, 0, 255,
	} {
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			add(family, kind, 0, unix.EAFNOSUPPORT)
		}
	}
	return tries
}

func TestSocketsInside(t *testing.T) {
	info := native(t)
	tries := socketTries()
	var all []attempt
	for name := range tries {
		var a [3]uintptr
		if _, err := fmt.Sscan(name, &a[0], &a[1], &a[2]); err != nil {
			t.Fatal(err)
		}
		all = append(all, attempt{Name: name, Nr: uintptr(info.SyscallNames["socket"]), Args: [6]uintptr{a[0], a[1], a[2]}})
		// The fourth argument is no address: what is allowed ends with EFAULT.
		all = append(all, attempt{Name: "pair " + name, Nr: uintptr(info.SyscallNames["socketpair"]), Args: [6]uintptr{a[0], a[1], a[2], bad}})
	}
	for _, a := range runSyscalls(t, all) {
		name, isPair := strings.CutPrefix(a.Name, "pair ")
		want := tries[name]
		if isPair {
			switch local := strings.HasPrefix(name, "1 "); {
			case !local:
				want = unix.EAFNOSUPPORT
			case want == 0:
				want = unix.EFAULT
			}
		}
		if unix.Errno(a.Got) != want {
			t.Errorf("%s: %v, want %v", a.Name, unix.Errno(a.Got), want)
		}
	}
}

func TestSocketKindsHaveReasons(t *testing.T) {
	for _, k := range socketKinds() {
		if k.why == "" || len(k.protocols) == 0 {
			t.Errorf("%+v: no reason, or no protocol", k)
		}
	}
}
