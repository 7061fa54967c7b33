"""Tries what the hooks refuse, and prints for each the name of the error."""
import errno
import socket
import sys

literal, synthetic = sys.argv[1:]
MPTCP, VSOCK, PACKET = 262, 40, 17


def sender(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.sendto(b"to the outside", address)


def connected(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(address)
        s.send(b"to the outside")


def fast_open(address):
    with socket.socket() as s:
        s.sendto(b"to the outside", socket.MSG_FASTOPEN, address)
        s.recv(1)


def bind(port):
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))


def connect(port):
    with socket.socket() as s:
        s.connect(("127.0.0.1", port))


attempts = {
    "udp": lambda: sender(socket.AF_INET, (literal, 443)),
    "udp-to-a-name": lambda: sender(socket.AF_INET, (synthetic, 443)),
    "udp6": lambda: sender(socket.AF_INET6, ("2001:db8:3::90", 443)),
    "udp-mapped": lambda: sender(socket.AF_INET6, ("::ffff:" + literal, 443)),
    "udp-connected": lambda: connected((literal, 443)),
    "udp-ntp": lambda: sender(socket.AF_INET, (literal, 123)),
    "raw-icmp": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
    "ping": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "packet": lambda: socket.socket(PACKET, socket.SOCK_RAW, 0x0300),
    "mptcp": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP),
    "sctp": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132),
    "fast-open": lambda: fast_open((literal, 25)),
    "bind-capture": lambda: bind(15001),
    "connect-capture": lambda: connect(15001),
    "udp-dns-listener": lambda: sender(socket.AF_INET, ("127.0.0.1", 15053)),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print(name, "OK")
    except OSError as e:
        print(name, errno.errorcode.get(e.errno, e.errno))
