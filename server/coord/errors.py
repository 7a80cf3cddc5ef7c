"""What can go wrong between an agent and its message server: one tree under `CoordError`.

The text of each says what happened, as the server put it, and what to do next.
"""
# ruff: noqa: N818  (an agent's code reads better as `except NotFound`)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class CoordError(Exception):
    """A call failed."""


class BadCall(CoordError, ValueError):
    """The call can't be made as it was asked for: a wrong address, a text that is not UTF-8."""


class Answered(CoordError):
    """The server answered with a problem (RFC 9457).

    `problem` is its document (`type`, `title`, `status`, `detail`, perhaps `errors`), `status` the
    HTTP status.
    """

    def __init__(self, text: str, problem: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.problem = problem

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.problem["status"])


class Refused(Answered):
    """The request is at fault (4xx). Nothing was stored; the same request fails again."""


class Unauthorized(Refused):
    """401: no token, an unknown or a revoked one."""


class Forbidden(Refused):
    """403: the token may not do this."""


class NotFound(Refused):
    """404: no such thing, or none that the token may see."""


class KeyConflict(Refused):
    """409: the idempotency key was used for another request."""


class TooLarge(Refused):
    """413: the request is larger than the server takes."""


class Invalid(Refused):
    """422: a value is missing, unknown or out of range."""


class ServerFault(Answered):
    """500 or another 5xx that waiting does not mend. Whether a write was stored is unknown."""


class StoreFull(Answered):
    """507: no room on the server's disk. Nothing was stored; reads go on."""


class UnexpectedAnswer(CoordError):
    """What answered does not speak as coordd does: another server, or a proxy's page."""


class Unavailable(CoordError):
    """No answer until the deadline, or only that the server is busy.

    `outcome_unknown`: a write may have been stored. `key`: sending again with it can't double.
    `problem`: the last problem document, where there was one.
    """

    def __init__(self, text: str, *, outcome_unknown: bool = False, key: str | None = None,
                 problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.outcome_unknown = outcome_unknown
        self.key = key
        self.problem = problem
