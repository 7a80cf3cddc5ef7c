"""How a call is made to last: when to try again, how long, and what to say at the end. No I/O here.

`exchange` is a generator that a session drives: it asks for a request to be sent or for time to
pass and is told what came of it. The same decisions thus serve `Client`, `AsyncClient` and tests.

A call may always be sent again: reads, marks and registry entries come out the same, and every
send carries an Idempotency-Key. So the outcome of an attempt that got no answer is settled by the
next one.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from coord import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

RETRIED = (429, 502, 503, 504)
"""Statuses that waiting may mend. 507 is none of them: someone must make room."""
NOTHING_STORED = ("/problems/overloaded", "/problems/sealed", "/problems/unavailable",
                  "/problems/rate-limited")
"""Problems with which the server says that it did not take the request up."""


class Call(NamedTuple):
    """One call of the API. `path`, with its query, is below the server's address.

    `wait_s`: how long the server is asked to hold its answer. `again`: the command that sends a
    write again with its `key`.
    """

    method: str
    path: str
    body: bytes | None = None
    key: str | None = None
    wait_s: float = 0.0
    again: str = ""

    def headers(self, token: str | None) -> dict[str, str]:
        """The request's headers but those of the connection."""
        headers = {"Accept": "application/json", "User-Agent": "coord"}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.key is not None:
            headers["Idempotency-Key"] = self.key
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return headers


class Policy(NamedTuple):
    """How long a call tries.

    `deadline_s`: in all, None for ever; a call that asks the server to wait has that much more.
    `unreached_s`: in all, while no attempt has reached a server; None: `deadline_s`.
    `attempt_s`: for one answer. `pause_s`: the first pause; each is twice the one before, up to
    `pause_max_s`, less a random part of up to half so that agents do not come back in step.
    """

    deadline_s: float | None = 30.0
    unreached_s: float | None = None
    attempt_s: float = 10.0
    pause_s: float = 0.1
    pause_max_s: float = 3.0


class Send(NamedTuple):
    """Send the call. `connect_s`: the most to wait for a connection, `timeout_s`: for an answer."""

    call: Call
    connect_s: float
    timeout_s: float


class Sleep(NamedTuple):
    """Let `seconds` pass, then go on. `reason`: why the last attempt was none."""

    seconds: float
    reason: str
    key: str | None


class Response(NamedTuple):
    """What came back, whole. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Failure(NamedTuple):
    """No whole answer. `reached`: the request may have arrived. `stale`: the connection had been
    kept open and may just have aged.
    """

    reason: str
    reached: bool
    stale: bool = False


def exchange(call: Call, url: str, policy: Policy, clock: Callable[[], float],
             random: Callable[[], float]
             ) -> Generator[Send | Sleep, Response | Failure | None, Any]:
    """Make `call` until it has an answer; returns its JSON (None for an empty answer).

    To a `Send` the driver answers with a Response or a Failure, to a `Sleep` with None. `clock`
    is in seconds, `random` in [0, 1). Raises CoordError.
    """
    start = clock()
    deadline_s = math.inf if policy.deadline_s is None else policy.deadline_s + call.wait_s
    unreached_s = deadline_s if policy.unreached_s is None else min(policy.unreached_s, deadline_s)
    pause_s = policy.pause_s
    reached = unknown = False
    problem: Mapping[str, Any] | None = None
    while True:
        spent_s = clock() - start
        connect_s = min(policy.attempt_s, (deadline_s if reached else unreached_s) - spent_s)
        timeout_s = min(policy.attempt_s + call.wait_s, deadline_s - spent_s)
        outcome = yield Send(call, max(connect_s, 0.1), max(timeout_s, 0.1))
        asked_s = 0.0
        if isinstance(outcome, Failure):
            reason = outcome.reason
            problem = None
            reached |= outcome.reached
            unknown |= outcome.reached
            if outcome.stale:
                continue
        else:
            assert outcome is not None  # noqa: S101  a Send is answered
            if outcome.status not in RETRIED:
                return read_answer(outcome, call, url)
            problem = read_problem(outcome)
            reason = f"{outcome.status} {problem['detail']}" if problem else str(outcome.status)
            reached = True
            unknown |= problem is None or problem["type"] not in NOTHING_STORED
            asked_s = retry_after_s(outcome.headers.get("retry-after", ""))
        # What the server asks for is a floor: the random part comes on top of it.
        pause = asked_s + pause_s * random() if asked_s else pause_s * (1 + random()) / 2
        spent_s = clock() - start
        if spent_s + pause > (deadline_s if reached else unreached_s):
            raise _given_up(call, url, reason, spent_s, asked_s, reached, unknown, problem)
        yield Sleep(pause, reason, call.key)
        pause_s = min(pause_s * 2, policy.pause_max_s)


def _given_up(call: Call, url: str, reason: str, spent_s: float, asked_s: float, reached: bool,
              unknown: bool, problem: Mapping[str, Any] | None) -> errors.Unavailable:
    unknown = unknown and call.key is not None
    if not reached:
        text = (f"No server answers at {url} ({reason}). Start one on this machine: coordctl up; "
                "or name another: --url or $COORD_URL.")
    elif problem is not None:
        text = (f"{sentence(problem['detail'])} Tried for {spent_s:.0f} s; try again "
                + (f"in {asked_s:.0f} s." if asked_s else "later."))
    else:
        text = (f"No answer from {url} within {spent_s:.0f} s ({reason}). "
                "Is it well? coordctl status.")
    if unknown:
        text += (" Whether it was stored is unknown; sent again with the same key it can't double: "
                 f"{call.again}")
    elif call.key is not None:
        text += " Nothing was stored."
    return errors.Unavailable(text, outcome_unknown=unknown, key=call.key, problem=problem)


def read_answer(response: Response, call: Call, url: str) -> Any:
    """The JSON of a final answer. Raises Answered for a problem, UnexpectedAnswer otherwise."""
    if 200 <= response.status < 300:
        if not response.body:
            return None
        try:
            return json.loads(response.body)
        except ValueError:
            raise _unexpected(response, call, url) from None
    problem = read_problem(response)
    if problem is None:
        raise _unexpected(response, call, url)
    kind, advice = _KINDS.get(response.status, (errors.Refused, ""))
    if response.status >= 500 and response.status != 507:
        kind = errors.ServerFault
        advice = "A defect of the server: its log says more."
        if call.key is not None:
            advice += f" Whether it was stored is unknown; to settle it: {call.again}"
    raise kind(" ".join(filter(None, (sentence(_told(problem)), advice))), problem)


_KINDS: dict[int, tuple[type[errors.Answered], str]] = {
    401: (errors.Unauthorized, "Put the agent's token in $COORD_TOKEN or in coord's config.toml."),
    403: (errors.Forbidden, ""),
    404: (errors.NotFound, ""),
    409: (errors.KeyConflict, "Send another message without --key, or with a new one."),
    413: (errors.TooLarge, "Send less at once."),
    422: (errors.Invalid, ""),
    507: (errors.StoreFull, "Nothing was stored. Make room on the server's disk, then send again."),
}


def read_problem(response: Response) -> dict[str, Any] | None:
    """The problem document of `response`, None where it holds none."""
    try:
        problem = json.loads(response.body)
    except ValueError:
        return None
    if not isinstance(problem, dict) or not isinstance(problem.get("type"), str):
        return None
    detail = problem.get("detail") or problem.get("title") or problem["type"]
    return {**problem, "status": response.status, "detail": str(detail)}


def _told(problem: Mapping[str, Any]) -> str:
    """The detail, and those errors of the document that it does not name itself."""
    detail: str = problem["detail"]
    more = [f"{one['where']}: {one['problem']}" for one in problem.get("errors") or ()
            if isinstance(one, dict) and {"where", "problem"} <= one.keys()]
    unsaid = [text for text in more if text.partition(": ")[2] not in detail]
    return detail if not unsaid else f"{detail.rstrip('.')}: {'; '.join(unsaid)}"


def _unexpected(response: Response, call: Call, url: str) -> errors.UnexpectedAnswer:
    kind = response.headers.get("content-type", "no type")
    text = (f"{url} answered {call.method} {call.path.partition('?')[0]} with {response.status} "
            f"({kind}), not as coordd does.")
    if 300 <= response.status < 400:
        return errors.UnexpectedAnswer(f"{text} It points to "
                                       f"{response.headers.get('location', 'nowhere')}: "
                                       "name the server itself with --url or $COORD_URL.")
    return errors.UnexpectedAnswer(f"{text} Is that the message server's address? "
                                   "Name it with --url or $COORD_URL.")


def sentence(text: str) -> str:
    """`text` with a full stop, for more to follow."""
    return text if text.endswith((".", "!", "?")) else text + "."


def retry_after_s(text: str) -> float:
    """The seconds that a Retry-After header asks for: a number or a date; 0 for neither."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    if not text:
        return 0.0
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class Follower:
    """A reader's place in one inbox: it asks for what is above its last seq, and so neither skips
    a message nor sees one twice, whatever happens between the two.
    """

    def __init__(self, agent: str, after: int, *, wait_s: float, limit: int = 100,
                 min_priority: str | None = None) -> None:
        self.agent = agent
        self.after = after
        self._options = {"limit": limit, "wait": wait_s, "min_priority": min_priority}

    def call(self) -> Call:
        """The next call: it waits on the server until there is something new."""
        from coord import calls

        return calls.inbox(self.agent, order="oldest", after=self.after, **self._options)  # type: ignore[arg-type]

    def take(self, page: Mapping[str, Any]) -> list[Any]:
        """The new messages of an answered page; the next call begins after them."""
        messages: list[Any] = page["messages"]
        if messages:
            self.after = messages[-1]["seq"]
        return messages
