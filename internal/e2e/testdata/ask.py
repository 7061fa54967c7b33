"""Asks DNS servers raw questions, and prints one JSON object for each.

ask.py TRANSPORT SERVER NAME TYPE [SERVER...]: with more servers, all are asked
from one unconnected socket, in turn, before any answer is read.
"""
import json
import socket
import struct
import sys


def question(ident, name, qtype):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    return struct.pack(">6H", ident, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, qtype, 1)


def seen(answer, name, source):
    ident, flags, _, answers, _, _ = struct.unpack(">6H", answer[:12])
    asked = answer[12 : 12 + len(name) + 2]
    return {
        "id": ident,
        "rcode": flags & 15,
        "truncated": bool(flags & 0x0200),
        "answers": answers,
        "same_case": asked == question(0, name, 1)[12:-4][: len(asked)],
        "source": source,
    }


def over_udp(servers, name, qtype):
    family = socket.AF_INET6 if ":" in servers[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        for i, server in enumerate(servers):
            s.sendto(question(i, name, qtype), (server, 53))
        for _ in servers:
            answer, source = s.recvfrom(4096)
            yield seen(answer, name, source[0])


def over_tcp(servers, name, qtype):
    for i, server in enumerate(servers):
        with socket.create_connection((server, 53), 5) as s:
            q = question(i, name, qtype)
            s.sendall(struct.pack(">H", len(q)) + q)
            with s.makefile("rb") as f:
                (n,) = struct.unpack(">H", f.read(2))
                yield seen(f.read(n), name, s.getpeername()[0])


transport, server, name, qtype, *more = sys.argv[1:]
ask = {"udp": over_udp, "tcp": over_tcp}[transport]
for answer in ask([server, *more], name, int(qtype)):
    print(json.dumps(answer))
