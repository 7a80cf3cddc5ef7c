"""The server as an operator sees it: the admin calls of docs/api.md."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import httpx

from coordctl.errors import CoordctlError

TRIES: Final = 5
TIMEOUT_S: Final = 60.0
NO_ANSWER: Final = "no answer"
FEED_PAGE: Final = 250
"""Changes a page of the feed: 16 MiB where every body is as large as a send may be."""


class Refused(CoordctlError):  # noqa: N818
    """The server's problem document: `status`, `kind` (its type's last word), `errors`."""

    def __init__(self, status: int, kind: str, detail: str, errors: list[dict[str, str]]) -> None:
        super().__init__(f"the server answered {status}: {detail}")
        self.status = status
        self.kind = kind
        self.errors = errors


class Unreachable(CoordctlError):  # noqa: N818
    """Nothing answers at the site's address."""


class Api:
    """Calls with the operator's token; those that may be sent twice are, when an answer is lost.

    `timeout_s`: for an answer; `tries`: how often a call is sent at most.
    """

    def __init__(self, url: str, token: str, authority: Path | None = None, *,
                 timeout_s: float = TIMEOUT_S, tries: int = TRIES) -> None:
        # The site's server is named by the site: a proxy of the environment is not for it.
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"},
                                  timeout=httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)),
                                  trust_env=False,
                                  verify=_trusting(authority))
        self.url = url
        self._tries = tries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ready(self) -> str:
        """"" where the server can store a message now, else why not."""
        try:
            answer = self._http.get("/ready")
        except httpx.TransportError as error:
            return f"{NO_ANSWER} ({error})"
        if answer.status_code == 200:
            return ""
        return _problem(answer).args[0]  # type: ignore[no-any-return]

    def call(self, method: str, path: str, *, params: dict[str, Any] | None = None,
             content: bytes | None = None, json: Any = None, tries: int | None = None) -> Any:
        """The JSON that answers. Raises Refused, Unreachable."""
        tries = tries or self._tries
        for attempt in range(1, tries + 1):
            try:
                answer = self._http.request(
                    method, path, params=params, content=content, json=json,
                    headers={"Content-Type": "application/json"} if content else None)
            except httpx.TransportError as error:
                if attempt == tries or isinstance(error, httpx.ConnectError):
                    raise Unreachable(f"the server at {self.url} does not answer ({error})",
                                      mend="coordctl status") from None
                wait_s = 0.2 * attempt
            else:
                if answer.is_success:
                    return answer.json() if answer.content else None
                problem = _problem(answer)
                if answer.status_code not in (429, 503) or attempt == tries:
                    raise problem
                wait_s = _retry_after(answer)
            time.sleep(wait_s)
        raise AssertionError

    def version(self) -> str:
        """The server's version."""
        return str(self.call("GET", "/health")["version"])

    def metrics(self) -> dict[str, float]:
        """The server's metrics by name and labels, such as `coordd_streams`; {} for none."""
        try:
            answer = self._http.get("/metrics")
        except httpx.TransportError:
            return {}
        lines = [line.rpartition(" ") for line in answer.text.splitlines()
                 if answer.is_success and line and not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def stats(self) -> dict[str, Any]:
        """`{messages, unread, events, agents, size_bytes}`."""
        stats: dict[str, Any] = self.call("GET", "/api/v1/stats")
        return stats

    def work(self) -> dict[str, Any] | None:
        """The work behind sends, as docs/api.md has it; None where the server has none."""
        try:
            work: dict[str, Any] = self.call("GET", "/api/v1/admin/work", tries=1)
        except Refused as error:
            if error.status == 404:
                return None
            raise
        return work

    def feed(self) -> Iterator[tuple[dict[str, Any], int]]:
        """All changes, oldest first, each with the newest position there is, to its end."""
        after = 0
        while True:
            page = self.call("GET", "/api/v1/admin/feed",
                             params={"after": after, "limit": FEED_PAGE})
            for change in page["changes"]:
                yield change, page["last"]
            after = page["cursor"]
            if not page["changes"] or after >= page["last"]:
                return

    def import_(self, changes: bytes) -> tuple[int, int]:
        """Send a JSON array of changes; (applied, skipped). Raises Refused."""
        answer = self.call("POST", "/api/v1/admin/import", content=b'{"changes":' + changes + b"}")
        return answer["applied"], answer["skipped"]

    def tokens(self) -> list[dict[str, Any]]:
        """`{keyid, agent, created_at, revoked_at, admin}` each, in the order made."""
        tokens: list[dict[str, Any]] = self.call("GET", "/api/v1/admin/tokens")["tokens"]
        return tokens

    def issue(self, agent: str) -> dict[str, str]:
        """A new token: `{keyid, agent, created_at, token}`. Twice would be two of them."""
        issued: dict[str, str] = self.call("POST", "/api/v1/admin/tokens", json={"agent": agent},
                                           tries=1)
        return issued

    def revoke(self, keyid: str) -> None:
        """Revoke a token; a repeat changes nothing."""
        self.call("POST", f"/api/v1/admin/tokens/{keyid}/revoke")


def _trusting(authority: Path | None) -> ssl.SSLContext | bool:
    """Trust the site's own authority and no other, where it has one."""
    return True if authority is None else ssl.create_default_context(cafile=str(authority))


def _problem(answer: httpx.Response) -> Refused:
    try:
        document = answer.json()
        return Refused(answer.status_code, str(document["type"]).rsplit("/", 1)[-1],
                       str(document["detail"]), list(document.get("errors") or ()))
    except (ValueError, KeyError, TypeError):
        return Refused(answer.status_code, "", "not with a problem document of coordd: is another "
                       "program at this address?", [])


def _retry_after(answer: httpx.Response) -> float:
    text = answer.headers.get("Retry-After", "1")
    return min(float(text), 10.0) if text.isdigit() else 1.0
