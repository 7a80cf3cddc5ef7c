"""One request to a hook's URL: signed, to an address that is allowed, never further."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import socket
import ssl
import time
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from coordd import __version__
from coordd.work.allow import Allowlist, NotAllowedError
from coordd.work.model import Hook, Occurrence

SECRET_FORM: Final = "whsec_"  # noqa: S105 - what secrets begin with
_LINE_BYTES_MAX: Final = 8 << 10
_PORTS: Final = {"http": 80, "https": 443}


class CallError(Exception):
    """A call has failed; the text says how, without the URL and without a secret."""


def signature(secret: str, id_: str, timestamp: str, body: bytes) -> str:
    """`v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64, as Standard Webhooks has it."""
    key = base64.b64decode(secret.removeprefix(SECRET_FORM))
    signed = b".".join((id_.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


async def post_event(hook: Hook, found: Occurrence, allow: Allowlist, timeout_s: float) -> None:
    """Tell a webhook. Raises CallError."""
    body = msgspec.json.encode(found)
    timestamp = str(int(time.time()))
    await post(hook.target, body, {
        "Webhook-Id": found.id, "Webhook-Timestamp": timestamp,
        "Webhook-Signature": signature(hook.secret, found.id, timestamp, body)}, allow, timeout_s)


async def post_slack(hook: Hook, found: Occurrence, allow: Allowlist, timeout_s: float) -> None:
    """Tell a channel of Slack, or what takes the same. Raises CallError."""
    await post(hook.target, msgspec.json.encode({"text": slack_text(found)}), {}, allow, timeout_s)


def slack_text(found: Occurrence) -> str:
    """One line in Slack's format; what a message brings can't become a link or a mention."""
    subject = found.subject
    for mark, code in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        subject = subject.replace(mark, code)
    urgent = f" ({found.priority})" if found.priority in ("critical", "high") else ""
    return f"{found.type} *{found.from_agent} → {found.to_agent}*{urgent}: {subject}"


async def post(url: str, body: bytes, headers: dict[str, str], allow: Allowlist, timeout_s: float
               ) -> None:
    """POST JSON; any 2xx is well. `timeout_s` is for all of it. Raises CallError."""
    host = urlsplit(url).hostname or ""
    try:
        async with asyncio.timeout(timeout_s):
            status = await _status(urlsplit(url), host, body, headers, allow)
    except NotAllowedError as error:
        raise CallError(str(error)) from error
    except socket.gaierror as error:
        raise CallError(f"{host} can't be looked up: {error.strerror}") from error
    except TimeoutError as error:
        raise CallError(f"{host} did not answer in {timeout_s:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise CallError(f"the certificate of {host} will not do: {error.verify_message}"
                        ) from error
    except OSError as error:
        raise CallError(f"{host} can't be reached: {error.strerror or error}") from error
    if not 200 <= status < 300:
        raise CallError(f"{host} answered {status}"
                        + (", and redirects are not followed" if 300 <= status < 400 else ""))


async def _status(url: SplitResult, host: str, body: bytes, headers: dict[str, str],
                  allow: Allowlist) -> int:
    """The status that answers. Of the answer only the first line counts."""
    port = url.port or _PORTS[url.scheme]
    name = f"[{host}]" if ":" in host else host
    lines = [f"POST {url.path or '/'}{'?' if url.query else ''}{url.query} HTTP/1.1",
             f"Host: {name}" if url.port is None else f"Host: {name}:{port}",
             f"User-Agent: coordd/{__version__}", "Content-Type: application/json",
             f"Content-Length: {len(body)}", "Connection: close",
             *(f"{key}: {value}" for key, value in headers.items()), "", ""]
    reader, writer = await _connect(url.scheme, host, port, allow)
    try:
        writer.write("\r\n".join(lines).encode("latin-1") + body)
        await writer.drain()
        try:
            line = await reader.readline()
        except ValueError as error:
            raise CallError(f"{host} does not speak HTTP") from error
    finally:
        writer.transport.abort()
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise CallError(f"{host} does not speak HTTP" if line else f"{host} closed the connection")
    return int(words[1])


async def _connect(scheme: str, host: str, port: int, allow: Allowlist
                   ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to an address of `host` that is allowed: the very one that was checked."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    every = dict.fromkeys(ip_address(str(info[4][0]).partition("%")[0]) for info in found)
    tls = {"ssl": _tls(), "server_hostname": host} if scheme == "https" else {}
    error: OSError = socket.gaierror(socket.EAI_NONAME, "it has no address")
    for address in allow.good(host, list(every)):
        try:
            return await asyncio.open_connection(str(address), port, limit=_LINE_BYTES_MAX, **tls)  # type: ignore[arg-type]
        except OSError as failed:
            error = failed
    raise error


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
