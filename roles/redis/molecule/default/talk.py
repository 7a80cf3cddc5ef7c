"""talk.py HOST PORT plain|tls: says to Redis what a cache says, and what none may say.

The password is in $PASSWORD. Ends with 1 and a line at the first answer that is not as promised.
"""

import os
import socket
import ssl
import sys

HOST, PORT, MODE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
PASSWORD = os.environ["PASSWORD"]
MEMORY_BYTES = 16 << 20


class Redis:
    """One connection; `call` gives text, int, list or None, an error as `-ERR …`."""

    def __init__(self):
        plain = socket.create_connection(("127.0.0.1", PORT), timeout=5)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if MODE == "tls":
            trusted = ssl.create_default_context(cafile="/root/ca.pem")
            plain = trusted.wrap_socket(plain, server_hostname=HOST)
        self.file = plain.makefile("rwb")

    def call(self, *words):
        parts = [str(word).encode() for word in words]
        self.file.write(b"*%d\r\n" % len(parts))
        for part in parts:
            self.file.write(b"$%d\r\n%s\r\n" % (len(part), part))
        self.file.flush()
        return self._answer()

    def _answer(self):
        line = self.file.readline().rstrip(b"\r\n").decode()
        if not line:
            sys.exit("the connection was closed")
        kind, rest = line[0], line[1:]
        if kind == "$":
            return None if rest == "-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == "*":
            return [self._answer() for _ in range(int(rest))]
        return line if kind == "-" else int(rest) if kind == ":" else rest


def expect(answer, wanted, what):
    an_error = isinstance(wanted, str) and wanted.startswith("-")
    if not (str(answer).startswith(wanted) if an_error else answer == wanted):
        sys.exit(f"{what}: {answer!r}, wanted {wanted!r}")


stranger = Redis()
expect(stranger.call("PING"), "-NOAUTH", "a stranger")
expect(stranger.call("AUTH", "anything"), "-WRONGPASS", "the default user")
expect(stranger.call("AUTH", "coordd", "wrong"), "-WRONGPASS", "a wrong password")

redis = Redis()
expect(redis.call("AUTH", "coordd", PASSWORD), "OK", "the right password")
expect(redis.call("PING"), "PONG", "ping")
expect(redis.call("CLIENT", "SETINFO", "LIB-NAME", "scenario"), "OK", "client setinfo")
inbox = "coordd:inbox:ann"
expect(redis.call("ZADD", inbox, 1, "one", 2, "two"), 2, "zadd")
expect(redis.call("ZRANGE", inbox, 0, 0, "REV"), ["two"], "zrange")
expect(redis.call("EXPIRE", inbox, 60), 1, "expire")
transaction = [redis.call(word) for word in ("MULTI", "PING", "EXEC")]
expect(transaction, ["OK", "QUEUED", ["PONG"]], "a transaction")
expect(redis.call("PUBLISH", "coordd:x", "hint"), 0, "publish")
expect(redis.call("DEL", inbox), 1, "del")

expect(redis.call("ZADD", "elsewhere", 1, "one"), "-NOPERM", "a foreign key")
expect(redis.call("PUBLISH", "elsewhere", "hint"), "-NOPERM", "a foreign channel")
expect(redis.call("EVAL", "return 1", 0), "-NOPERM", "a script")
for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "INFO", "SAVE", "MONITOR",
                "SHUTDOWN", "SET coordd:x y", "CLIENT LIST", "SCRIPT FLUSH", "DBSIZE"):
    expect(redis.call(*command.split()), "-NOPERM", command)

value = "x" * 65536
fillers = [f"coordd:filler:{n}" for n in range(2 * MEMORY_BYTES // len(value))]
redis.call("UNLINK", *fillers)
for filler in fillers:
    expect(redis.call("ZADD", filler, 1, value), 1, "more than the memory")
kept = redis.call("EXISTS", *fillers)
expect(0 < kept <= MEMORY_BYTES // len(value), True, f"{kept} of {len(fillers)} kept")
expect(redis.call("EXISTS", fillers[-1]), 1, "the newest is kept")
