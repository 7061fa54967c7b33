package launch

import (
	"slices"

	"golang.org/x/sys/unix"
)

// A socketKind is one row of the allow-list of sockets: a family, a type in it,
// and its protocols. What has no row is refused, so that a family that somebody
// adds to the kernel is closed here from its first day.
//
// It is a second look at what the hooks judge (they see AF_INET and AF_INET6
// only, and after the kernel has looked for, or loaded, the protocol's module),
// and the only one at the rest: VSOCK, ALG, TIPC, RDS, SMC, CAN, KCM, Bluetooth
// and their like are in no network namespace, or a history of kernel bugs, or both.
type socketKind struct {
	family, kind int
	protocols    []int
	why          string
}

// socketKinds is the allow-list of socket(2).
func socketKinds() []socketKind {
	tcp := []int{0, unix.IPPROTO_TCP, unix.IPPROTO_MPTCP}
	const (
		connections = "captured by the hooks; they refuse MPTCP, with a record, and clients fall back to TCP"
		datagrams   = "DNS; the hooks refuse the rest"
		interfaces  = "getaddrinfo, if_nameindex and Go's net.Interfaces read interfaces and addresses; to change one needs a capability"
	)
	udp := []int{0, unix.IPPROTO_UDP}
	route := []int{unix.NETLINK_ROUTE}
	return append(socketPairKinds(), // what a pair may be, a socket may be
		socketKind{unix.AF_INET, unix.SOCK_STREAM, tcp, connections},
		socketKind{unix.AF_INET6, unix.SOCK_STREAM, tcp, connections},
		socketKind{unix.AF_INET, unix.SOCK_DGRAM, udp, datagrams},
		socketKind{unix.AF_INET6, unix.SOCK_DGRAM, udp, datagrams},
		socketKind{unix.AF_NETLINK, unix.SOCK_RAW, route, interfaces},
		socketKind{unix.AF_NETLINK, unix.SOCK_DGRAM, route, interfaces},
	)
}

// socketPairKinds is the allow-list of socketpair(2).
func socketPairKinds() []socketKind {
	local := []int{0, unix.AF_UNIX}
	const why = "between processes of the sandbox; doors of the host are masked, and descriptors passed in are the threat model's"
	return []socketKind{
		{unix.AF_UNIX, unix.SOCK_STREAM, local, why},
		{unix.AF_UNIX, unix.SOCK_DGRAM, local, why},
		{unix.AF_UNIX, unix.SOCK_SEQPACKET, local, why},
	}
}

// The errors are those of a kernel that was built without what is asked for,
// because clients know what to do then: audit clients (PAM, sudo, D-Bus) go on
// without a log, ss reads /proc/net. A raw socket is refused as to anyone without
// the capability.
const (
	noFamily   = unix.EAFNOSUPPORT
	noKind     = unix.ESOCKTNOSUPPORT
	noProtocol = unix.EPROTONOSUPPORT
	noRaw      = unix.EPERM
)

// Where seccomp_data holds the number of the call and its arguments. The kernel
// takes those of socket as 32 bits, so the low half is all that counts, and it
// comes first on the architectures there are.
const (
	numberOffset   = 0
	argumentOffset = 16
	argumentSize   = 8
)

// socketFilter assembles an allow-list for one call; other calls pass. It is not
// the library's work: that masks no argument, and what it assembles for arguments
// cannot be followed by the refusal of all the rest.
//
// Each block ends with a return, so the accumulator is what it was where a block
// is jumped over.
func socketFilter(native, call uint32, kinds []socketKind) []unix.SockFilter {
	program := slices.Concat(
		foreignArchitecture(native),
		load(numberOffset),
		[]unix.SockFilter{{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jt: 1}},
		give(unix.SECCOMP_RET_ALLOW),
		loadArgument(0),
	)
	for _, family := range distinct(kinds, func(k socketKind) int { return k.family }) {
		program = append(program, whenEqual(family, familyBlock(family, kinds))...)
	}
	return append(program, refuse(noFamily)...)
}

func familyBlock(family int, kinds []socketKind) []unix.SockFilter {
	const flags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	block := append(loadArgument(1), unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: ^uint32(flags)})
	for _, k := range kinds {
		if k.family == family {
			block = append(block, whenEqual(k.kind, protocolBlock(k.protocols))...)
		}
	}
	if family == unix.AF_INET || family == unix.AF_INET6 {
		block = append(block, whenEqual(unix.SOCK_RAW, refuse(noRaw))...)
	}
	return append(block, refuse(noKind)...)
}

func protocolBlock(protocols []int) []unix.SockFilter {
	block := loadArgument(2)
	for _, p := range protocols {
		block = append(block, whenEqual(p, give(unix.SECCOMP_RET_ALLOW))...)
	}
	return append(block, refuse(noProtocol)...)
}

// distinct returns the values of a key in the rows, each once, in their order.
func distinct(rows []socketKind, key func(socketKind) int) []int {
	var all []int
	for _, row := range rows {
		if k := key(row); !slices.Contains(all, k) {
			all = append(all, k)
		}
	}
	return all
}

// whenEqual runs a block, which returns, where the accumulator is a value. The
// longest block is that of a family, far below the 255 that a jump reaches.
func whenEqual(value int, block []unix.SockFilter) []unix.SockFilter {
	return append([]unix.SockFilter{{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(value), Jf: uint8(len(block))}}, block...)
}

func loadArgument(n uint32) []unix.SockFilter { return load(argumentOffset + n*argumentSize) }

func load(offset uint32) []unix.SockFilter {
	return []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}}
}

func give(action uint32) []unix.SockFilter {
	return []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: action}}
}

func refuse(errno unix.Errno) []unix.SockFilter {
	return give(unix.SECCOMP_RET_ERRNO | uint32(errno))
}
