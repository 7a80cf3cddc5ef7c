"""HTTP spoken byte by byte, for tests of what no client library would send."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Self

LIMIT_S = 60.0


@dataclass
class Answer:
    """One answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


class Connection:
    """A socket to a server on this machine."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(("127.0.0.1", port))
        self._left = b""

    def send(self, data: bytes) -> None:
        """All of `data`."""
        self.socket.sendall(data)

    def get(self, path: str, *headers: str) -> None:
        """A GET request."""
        self.send("\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())

    def post(self, path: str, body: bytes, *headers: str) -> None:
        """A POST request with its length."""
        head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
        self.send("\r\n".join([*head, "", ""]).encode() + body)

    def line(self) -> bytes:
        """Bytes up to the next line feed, without the line's end; b"" at the end too."""
        while b"\n" not in self._left:
            data = self.socket.recv(65536)
            if not data:
                line, self._left = self._left, b""
                return line
            self._left += data
        line, _, self._left = self._left.partition(b"\n")
        return line.removesuffix(b"\r")

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self._left) < size:
            data = self.socket.recv(65536)
            assert data, f"closed after {len(self._left)} of {size} bytes"
            self._left += data
        out, self._left = self._left[:size], self._left[size:]
        return out

    def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer, its body by content-length (a stream's body is left to be read)."""
        first = self.line()
        assert first.startswith(b"HTTP/1.1 "), first
        headers: dict[str, str] = {}
        while line := self.line():
            name, _, value = line.decode("latin-1").partition(": ")
            assert name not in headers, f"{name} twice"
            headers[name] = value
        size = 0 if head_only else int(headers.get("content-length", "0"))
        return Answer(int(first.split()[1]), headers, self.exactly(size))

    def closed(self) -> bool:
        """Whether the server has closed and nothing is left to read; waits for it."""
        try:
            return not self._left and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
