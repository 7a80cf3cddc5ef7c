"""The few calls that a backup makes: the feed, imports, the seal, counts. Standard library only."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any, Final, Self
from urllib.parse import urlsplit

import msgspec

TRIES: Final = 5
TIMEOUT_S: Final = 60.0
PAGE: Final = 250
"""Changes a page of the feed: 16 MiB where every body is as large as a send may be."""


class BackupError(Exception):
    """A backup or a restore could not be made. The text is one line that says why."""


class Page(msgspec.Struct):
    """A page of the feed; a change stays the JSON that the server gave."""

    changes: list[msgspec.Raw]
    cursor: int
    last: int


class Server:
    """A server that answers to the operator's `token`. Raises BackupError."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BackupError(f"{url} is no address such as http://127.0.0.1:8000")
        self._url = url
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80,
                                                      timeout=TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {token}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body that answers. What is busy or does not answer is asked again: a call may be."""
        for attempt in range(1, TRIES + 1):
            headers = self._headers | ({"Content-Type": "application/json"} if body else {})
            try:
                self._connection.request(method, path, body, headers)
                answer = self._connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if attempt == TRIES:
                    raise BackupError(f"{self._url} does not answer ({error})") from None
            else:
                if answer.status == 200:
                    return text
                if answer.status not in (429, 503) or attempt == TRIES:
                    raise BackupError(f"{self._url}{path} answered {answer.status}: "
                                      f"{_detail(text)}")
            time.sleep(0.2 * attempt)
        raise AssertionError

    def stats(self) -> dict[str, Any]:
        """The counts, but for what differs from disk to disk."""
        stats: dict[str, Any] = json.loads(self.call("GET", "/api/v1/stats"))
        stats.pop("size_bytes", None)
        return stats

    def version(self) -> str:
        """The server's version."""
        return str(json.loads(self.call("GET", "/health"))["version"])

    def feed(self) -> Iterator[Page]:
        """All changes, oldest first, to the end that there is when it is reached.

        To that end, not to one fixed before: of a message that goes while it is read the body is
        missing, and the change that says so must be there too.
        """
        decoder = msgspec.json.Decoder(Page)
        after = 0
        while True:
            page = decoder.decode(self.call(
                "GET", f"/api/v1/admin/feed?after={after}&limit={PAGE}"))
            if page.changes:
                yield page
            after = page.cursor
            if not page.changes or after >= page.last:
                return

    def import_(self, lines: list[bytes]) -> None:
        """Import changes, each of which must be new to the server."""
        answer = json.loads(self.call("POST", "/api/v1/admin/import",
                                      b'{"changes":[' + b",".join(lines) + b"]}"))
        if answer["applied"] != len(lines):
            raise BackupError(f"{len(lines) - answer['applied']} changes are in it twice")

    def seal(self) -> None:
        """Refuse all writes but imports: nothing expires by itself."""
        self.call("POST", "/api/v1/admin/seal", b'{"epoch":1}')

    def unseal(self) -> None:
        """Take writes again."""
        self.call("POST", "/api/v1/admin/unseal", b'{"epoch":1}')


def _detail(text: bytes) -> str:
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return "not with a problem document of coordd"
