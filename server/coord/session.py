"""Calls over one kept connection of the standard library, for `Client` and the command.

Not httpx here: a command is a whole process, and importing httpx takes longer than all the rest.
"""

from __future__ import annotations

import http.client
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

from coord.errors import BadCall
from coord.protocol import Call, Failure, Policy, Response, Send, Sleep, exchange

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


class Address(NamedTuple):
    """Where a server is, from its URL. `path` is what stands before `/api/v1`, mostly nothing."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The address as a URL without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        return (f"{self.scheme}://{host}" + ("" if self.port == usual else f":{self.port}")
                + self.path)


def address(url: str) -> Address:
    """The parts of `url`. Raises BadCall for what is no http address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadCall(f"The url {url!r} is none: {error}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadCall(f"The url {url!r} must look like http://127.0.0.1:8000 or https://HOST.")
    if parts.username or parts.password:
        raise BadCall("The url must hold no name or password: a token belongs in $COORD_TOKEN.")
    usual = {"http": 80, "https": 443}[parts.scheme]
    return Address(parts.scheme, parts.hostname, usual if port is None else port,
                   parts.path.rstrip("/"))


class Connection:
    """One HTTP connection, made when it is needed and kept open."""

    def __init__(self, where: Address, token: str | None, ca: str | None = None) -> None:
        self._where = where
        self._token = token
        self._ca = ca
        self._http: http.client.HTTPConnection | None = None

    def exchange(self, send: Send) -> Response | Failure:
        """Send the call and read its answer."""
        kept = self._http is not None
        if self._http is None:
            fresh = self._unconnected(send.connect_s)
            try:
                fresh.connect()
            except OSError as error:
                fresh.close()
                check_trust(error, self._where)
                return Failure(_reason(error), reached=False)
            self._http = fresh
        connection, call = self._http, send.call
        connection.sock.settimeout(send.timeout_s)
        try:
            connection.request(call.method, self._where.path + call.path, call.body,
                               call.headers(self._token))
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, headers, answer.read())
        except (OSError, http.client.HTTPException) as error:
            self.close()
            cut = isinstance(error, ConnectionError)  # RemoteDisconnected is one
            return Failure(_reason(error), reached=True, stale=kept and cut)
        except BaseException:
            # An answer half read must not be taken for that of the next call.
            self.close()
            raise

    def _unconnected(self, timeout_s: float) -> http.client.HTTPConnection:
        where = self._where
        if where.scheme == "http":
            return http.client.HTTPConnection(where.host, where.port, timeout=timeout_s)
        return http.client.HTTPSConnection(where.host, where.port, timeout=timeout_s,
                                           context=tls_context(self._ca))

    def close(self) -> None:
        """Close the connection; the next exchange makes another."""
        if self._http is not None:
            self._http.close()
            self._http = None


def tls_context(ca: str | None) -> ssl.SSLContext:
    """What certificates are trusted: those of the authority in the file `ca` alone, else those of
    the system's. Raises BadCall for a file that holds none.
    """
    import ssl

    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else (
            "it holds no certificate (PEM)")
        raise BadCall(f"The authority's file {ca} can't be used: {why}.") from None


def check_trust(error: BaseException, where: Address) -> None:
    """Raise BadCall where the server's certificate is not trusted: no retry mends that."""
    cause: BaseException | None = error
    while cause is not None:
        if why := getattr(cause, "verify_message", None):
            raise BadCall(f"The certificate of {where.url} is not trusted ({why}): name the file "
                          "of its authority with --ca or $COORD_CA.") from None
        cause = cause.__cause__ or cause.__context__


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, http.client.RemoteDisconnected):
        return "connection closed without an answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


class Session:
    """Makes calls and keeps at each until it has an answer; one call at a time, one thread.

    `ca` is the file of the authority to trust, None: the system's. `notice` is told of every pause
    before a further attempt.
    """

    def __init__(self, url: str, token: str | None = None, *, ca: str | None = None,
                 policy: Policy | None = None,
                 notice: Callable[[Sleep], None] | None = None) -> None:
        where = address(url)
        self.url = where.url
        self.policy = policy or Policy()
        self._notice = notice
        self._connection = Connection(where, token, ca)

    def fetch(self, call: Call, policy: Policy | None = None) -> Any:
        """Make `call` and return its JSON, None for an empty answer. Raises CoordError."""
        steps = exchange(call, self.url, policy or self.policy, time.monotonic, random.random)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Send):
                    step = steps.send(self._connection.exchange(step))
                else:
                    if self._notice is not None:
                        self._notice(step)
                    time.sleep(step.seconds)
                    step = next(steps)
        except StopIteration as end:
            return end.value

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
