"""login.py ADDRESS PORT CA NAME USER: log in by AMQP 0-9-1 over TLS; the password comes by stdin.

Prints `ok`; ends with 1 and a line where the server is another, does not answer or refuses.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys

START, TUNE = (10, 10), (10, 30)


def short(text: bytes) -> bytes:
    """A short string of AMQP."""
    return bytes([len(text)]) + text


def long(text: bytes) -> bytes:
    """A long string, or a table."""
    return struct.pack(">I", len(text)) + text


def method(link: ssl.SSLSocket) -> tuple[int, int]:
    """Class and method of the next frame."""
    file = link.makefile("rb")
    head = file.read(7)
    if len(head) < 7:
        sys.exit("the server closed the connection: user or password is wrong")
    _, _, size = struct.unpack(">BHI", head)
    payload = file.read(size + 1)
    found: tuple[int, int] = struct.unpack(">HH", payload[:4])
    return found


def main(address: str, port: str, ca: str, name: str, user: str) -> None:
    """Log in."""
    password = sys.stdin.readline().rstrip("\n")
    trusted = ssl.create_default_context(cafile=ca)
    with (socket.create_connection((address, int(port)), timeout=10) as plain,
          trusted.wrap_socket(plain, server_hostname=name) as link):
        link.sendall(b"AMQP\x00\x00\x09\x01")
        if method(link) != START:
            sys.exit("the server does not speak AMQP 0-9-1")
        answer = (struct.pack(">HH", 10, 11) + long(b"") + short(b"PLAIN")
                  + long(f"\0{user}\0{password}".encode()) + short(b"en_US"))
        link.sendall(struct.pack(">BHI", 1, 0, len(answer)) + answer + b"\xce")
        if (got := method(link)) != TUNE:
            sys.exit(f"user or password is wrong ({got[0]}.{got[1]})")
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
