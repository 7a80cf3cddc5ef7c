"""Who asks: tokens `coord_<keyid>_<secret>`, the operator's token, and the rate of each.

Of a secret only its SHA-256 is kept. In open mode nobody is asked for anything, except the
operator for the admin calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import stat
import time
from pathlib import Path
from typing import Final

import msgspec

from coordd.http.request import Request
from coordd.model import Token, now_text
from coordd.problems import Problem
from coordd.settings import Settings, SettingsError, is_credential
from coordd.store import Store, StoreError

log = logging.getLogger("coordd")

REFRESH_S: Final = 2.0
"""How long a revocation by another server on the same store may take to be seen."""
ADMIN_KEYID: Final = "admin"
BUCKETS_MAX: Final = 100_000

_bearer = re.compile(rb"(?i:bearer) +coord_([A-Za-z0-9]{1,64})_([A-Za-z0-9_~.-]{1,200}) *\Z")
_admin_token = re.compile(rf"coord_{ADMIN_KEYID}_([A-Za-z0-9_~.-]{{16,200}})\Z")


class Identity:
    """Who asks. `agent` None sees all and speaks for all: the operator, or anyone in open mode."""

    __slots__ = ("admin", "agent")

    def __init__(self, agent: str | None, *, admin: bool) -> None:
        self.agent = agent
        self.admin = admin


ANYONE: Final = Identity(None, admin=False)
OPERATOR: Final = Identity(None, admin=True)


def _refused(why: str) -> Problem:
    return Problem("no-token", f"{why}: send the header Authorization: Bearer "
                               "coord_<keyid>_<secret>",
                   headers=(("WWW-Authenticate", "Bearer"),))


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _check_origin(origin: bytes, host: bytes | None) -> None:
    """Raises Problem (403) for a web page of elsewhere.

    Browsers let any page post to this machine, and say whose page it is. Without tokens, nothing
    else keeps a stranger's page from sending messages to the agents here.
    """
    if host is None or origin.partition(b"://")[2].lower() != host.lower():
        raise Problem("forbidden", "a web page of another site may not use a server without tokens")


class Auth:
    """Answers who a request is from. `open` must have been awaited before the first one."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._store = store
        self._open = settings.auth == "open"
        self._admin_sha256 = (_digest(read_admin_secret(settings.admin_token_file))
                              if settings.admin_token_file else None)
        self._tokens: dict[str, Token] = {}
        self._changing = asyncio.Lock()
        """Held from reading or writing the store to the change of `_tokens`: else an older list
        could bring back a token that was just revoked."""
        self._limits = Limits(settings.rate_per_s, settings.rate_burst)
        self._refreshing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Read the tokens, and again every few seconds until `close`."""
        await self.refresh()
        self._refreshing = asyncio.create_task(self._keep_fresh())

    async def close(self) -> None:
        """End the reading."""
        if self._refreshing:
            self._refreshing.cancel()

    async def refresh(self) -> None:
        """Read the tokens from the store."""
        async with self._changing:
            self._tokens = {token.keyid: token for token in await self._store.tokens()}

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
            except (StoreError, OSError) as error:
                log.warning("the tokens could not be read again: %s", error)

    def identity(self, request: Request) -> Identity:
        """Who asks for an ordinary call. Raises Problem (401, 403, 429)."""
        if self._open:
            origin = request.header(b"origin")
            if origin is not None:
                _check_origin(origin, request.header(b"host"))
            return ANYONE
        return self._known(request)

    def operator(self, request: Request) -> Identity:
        """Who asks for an admin call: the operator. Raises Problem (401, 403, 429)."""
        identity = self._known(request)
        if not identity.admin:
            raise Problem("forbidden", "this call takes the operator's token (admin_token_file)")
        return identity

    def _known(self, request: Request) -> Identity:
        value = request.header(b"authorization")
        if value is None:
            raise _refused("no token was sent")
        found = _bearer.match(value)
        if found is None:
            raise _refused("the token has not the form of one")
        keyid, sha256 = found[1].decode(), _digest(found[2])
        if keyid == ADMIN_KEYID:
            if self._admin_sha256 and hmac.compare_digest(sha256, self._admin_sha256):
                return OPERATOR
            raise _refused("the token is unknown or revoked")
        token = self._tokens.get(keyid)
        kept = token.secret_sha256 if token else "0" * 64
        if not hmac.compare_digest(sha256, kept) or token is None or token.revoked_at:
            raise _refused("the token is unknown or revoked")
        self._limits.take(keyid)
        return OPERATOR if token.admin else Identity(token.agent, admin=False)

    async def issue(self, agent: str) -> tuple[Token, str]:
        """A new token for `agent`, and the only copy of its text. Valid here at once."""
        keyid, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        token = Token(keyid, agent, _digest(secret.encode()), now_text())
        await self._put(token)
        return token, f"coord_{keyid}_{secret}"

    async def revoke(self, keyid: str) -> Token | None:
        """The entry, revoked: here at once. A repeat changes nothing. None for an unknown one."""
        await self.refresh()
        token = self._tokens.get(keyid)
        if token is None or token.revoked_at:
            return token
        token = msgspec.structs.replace(token, revoked_at=now_text())
        await self._put(token)
        return token

    async def _put(self, token: Token) -> None:
        async with self._changing:
            await self._store.put_token(token)
            self._tokens[token.keyid] = token


class Limits:
    """A token bucket (in the sense of traffic) for each keyid."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._buckets: dict[str, tuple[float, float]] = {}
        """keyid → (what was left, when)."""

    def take(self, keyid: str) -> None:
        """Count one request. Raises Problem (429) past the rate."""
        if not self._rate_per_s:
            return
        now = time.monotonic()
        left, then = self._buckets.get(keyid, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate_per_s)
        if left < 1:
            wait_s = int((1 - left) / self._rate_per_s) + 1
            raise Problem("rate-limited", f"more than {self._rate_per_s:g} requests a second: try "
                          f"again in {wait_s} s", headers=(("Retry-After", str(wait_s)),))
        if len(self._buckets) >= BUCKETS_MAX and keyid not in self._buckets:
            self._buckets.clear()
        self._buckets[keyid] = (left - 1, now)


def read_admin_secret(file: Path) -> bytes:
    """The secret of the operator's token. Raises SettingsError where others may read the file."""
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SettingsError(f"admin_token_file = \"{file}\": cannot be read ({error.strerror})"
                            ) from None
    except UnicodeDecodeError:
        text = ""
    if stat.S_IMODE(mode) & 0o077 and not is_credential(file):
        raise SettingsError(f"admin_token_file = \"{file}\": others may read it (mode "
                            f"{stat.S_IMODE(mode):04o}): chmod 600 {file}")
    found = _admin_token.match(text)
    if found is None:
        raise SettingsError(f"admin_token_file = \"{file}\": holds no coord_{ADMIN_KEYID}_<secret> "
                            "of at least 16 letters and digits")
    return found[1].encode()
