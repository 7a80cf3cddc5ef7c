"""RFC 9457 problem documents: every error that the API answers, in one table."""

from __future__ import annotations

import logging
import re
from typing import Final, Literal

import msgspec

from coordd.http.request import PROBLEM_JSON, Response
from coordd.store import (
    BadCursorError,
    ImportRefusedError,
    KeyConflictError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreSealedError,
    StoreUnavailableError,
    StoreUnknownError,
)

log = logging.getLogger("coordd")

Kind = Literal["bad-request", "no-token", "forbidden", "not-found", "method-not-allowed",
               "key-conflict", "too-large", "invalid", "rate-limited", "internal", "overloaded",
               "sealed", "unavailable", "unknown-outcome", "full"]

KINDS: Final[dict[Kind, tuple[int, str]]] = {
    "bad-request": (400, "The request cannot be read"),
    "no-token": (401, "A token is needed"),
    "forbidden": (403, "The token may not do this"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "key-conflict": (409, "The idempotency key was used for another request"),
    "too-large": (413, "The request is too large"),
    "invalid": (422, "A value is missing, unknown or out of range"),
    "rate-limited": (429, "Too many requests"),
    "internal": (500, "A defect of the server"),
    "overloaded": (503, "Too much is waiting"),
    "sealed": (503, "The store is being moved"),
    "unavailable": (503, "The database can't be reached"),
    "unknown-outcome": (503, "It is not known whether the request was stored"),
    "full": (507, "No room on the disk"),
}

ERRORS_MAX: Final = 20
"""Of a batch with a thousand bad items the first few say enough."""


class Fault(msgspec.Struct):
    """One value that will not do. `where` is its path in the request: `[3].to_agent`, `limit`."""

    where: str
    problem: str


class ProblemDocument(msgspec.Struct, omit_defaults=True):
    """The document, as RFC 9457 has it; `errors` where values of the request are at fault."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Fault] = []


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """An answer that is an error; raise it anywhere below a handler."""

    def __init__(self, kind: Kind, detail: str, *, errors: list[Fault] | None = None,
                 headers: tuple[tuple[str, str], ...] = (), status: int | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors or []
        self.headers = headers
        self.status = status or KINDS[kind][0]

    def response(self) -> Response:
        """The document as an answer."""
        document = ProblemDocument(f"/problems/{self.kind}", KINDS[self.kind][1], self.status,
                                   self.detail, self.errors[:ERRORS_MAX])
        return Response(self.status, msgspec.json.encode(document), PROBLEM_JSON, self.headers)


def invalid(faults: list[Fault]) -> Problem:
    """422 for values at fault; the detail names the first and counts the others."""
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Problem("invalid", f"{first.where}: {first.problem}{more}", errors=faults)


def not_found(what: str) -> Problem:
    """404 in the same words for what is not there and for what the token may not see."""
    return Problem("not-found", f"no such {what}, or none that you may see")


def of(error: BaseException) -> Problem:
    """The problem that `error` is to the client. One that is unknown here is logged as a defect."""
    match error:
        case Problem():
            return error
        case StoreBusyError():
            return Problem("overloaded", "too much is waiting to be stored: try again in a second",
                           headers=(("Retry-After", "1"),))
        case StoreSealedError():
            return Problem("sealed", "the store takes no writes while it is moved: try again in a "
                           "second", headers=(("Retry-After", "1"),))
        case StoreUnavailableError():
            return Problem("unavailable", "the database can't be reached, nothing was stored: try "
                           "again in a second", headers=(("Retry-After", "1"),))
        case StoreUnknownError():
            return Problem("unknown-outcome", "the connection to the database was lost while the "
                           "request was being stored: send it again with the same "
                           "Idempotency-Key, which stores it once",
                           headers=(("Retry-After", "1"),))
        case StoreFullError():
            return Problem("full", "no room on the server's disk; nothing was stored")
        case KeyConflictError():
            return Problem("key-conflict", "this Idempotency-Key was used for another request in "
                           "the last 24 hours: use a new key for a new request")
        case BadCursorError():
            return invalid([Fault("cursor", "is none that this server gave for this list: begin "
                                  "again without it")])
        case ImportRefusedError():
            return invalid([Fault(f"changes[{error.index}]", error.reason)])
    log.error("a defect: %r", error, exc_info=error)
    detail = "the store failed" if isinstance(error, StoreError) else "the request was not handled"
    return Problem("internal", f"{detail}; the server's log says why")


_AT: Final = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`\Z")
_FIELD: Final = re.compile(r"Object (?P<how>missing required|contains unknown) field "
                           r"`(?P<name>.*)`", re.DOTALL)


def fault_of(error: msgspec.ValidationError, where: str = "") -> Fault:
    """A fault of ``Expected `str`, got `int` - at `$[3].subject` ``.

    `where` is the name of what was decoded, if it has one.
    """
    text = str(error)
    path = ""
    if found := _AT.search(text):
        path, text = found["path"], text[: found.start()]
    path = (where + path).removeprefix(".")
    if found := _FIELD.match(text):
        path = f"{path}.{found['name']}".removeprefix(".")
        text = "is missing" if found["how"].startswith("missing") else "is unknown"
    return Fault(path[:200] or "the request", text.replace("`", "").replace("Expected", "expected"))
