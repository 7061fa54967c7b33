"""Says hostile bytes on the network, each given in hexadecimal digits.

hostile.py dns SERVER HEX      asks for a name of one label
hostile.py sni HOST PORT HEX   sends a ClientHello with a server name
hostile.py head HOST PORT HEX  sends the head of a request to a proxy

Each prints one line of what came back.
"""
import socket
import struct
import sys


def vec2(data):
    return struct.pack(">H", len(data)) + data


def hello(name):
    sni = vec2(b"\0" + vec2(name))
    body = b"\x03\x03" + b"r" * 32 + b"\0" + vec2(b"\x13\x01\xc0\x2f") + b"\x01\0" + vec2(b"\0\0" + vec2(sni))
    message = b"\x01" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\x03\x01" + vec2(message)


def dns(server, label):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        question = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + bytes([len(label)]) + label + b"\x04test\0\0\1\0\1"
        s.sendto(question, (server, 53))
        return s.recv(4096)


def tcp(host, port, data):
    with socket.create_connection((host, int(port)), 5) as s:
        s.sendall(data)
        try:
            return s.recv(4096)
        except ConnectionError as e:
            return type(e).__name__.encode()


kind, *where, text = sys.argv[1:]
text = bytes.fromhex(text)
if kind == "dns":
    print(dns(*where, text))
elif kind == "sni":
    print(tcp(*where, hello(text)))
else:
    print(tcp(*where, text))
