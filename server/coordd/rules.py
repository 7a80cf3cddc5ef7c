"""What a request's values must be, beside what their types say; each fault is told where it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from coordd.model import (
    BODY_BYTES_MAX,
    KEY_LENGTH_MAX,
    NAME_LENGTH_MAX,
    NewMessage,
    is_id,
    is_name,
    is_subject,
    parse_time,
)
from coordd.problems import Fault, Problem, fault_of, invalid

NAMES_REMEMBERED: Final = 20_000
RECIPIENTS_MAX: Final = 100
BODY_SURELY_SHORT: Final = BODY_BYTES_MAX // 4
"""A text of so many characters is within the limit in any UTF-8."""
CLOCKS_APART: Final = timedelta(minutes=10)
"""How far the clocks of sender, server and store may be from each other. Whether a message has
expired is told by the store's: one whose time passed in between is stored and not shown, and the
request that settles what became of it is answered.
"""

_key = re.compile(rb"[\x21-\x7e]{1,%d}\Z" % KEY_LENGTH_MAX)
_time = re.compile(r"[0-9][0-9A-Z:.+ -]{9,49}\Z")

_TIMES: Final = "use RFC 3339 with an offset, such as \"2030-01-31T12:00:00Z\""

T = TypeVar("T")


def decode(decoder: Callable[[bytes], T], body: bytes) -> T:
    """The request's JSON as the decoder's type. Raises Problem (400, 422)."""
    try:
        return decoder(body)
    except msgspec.ValidationError as error:
        raise invalid([fault_of(error)]) from None
    except msgspec.DecodeError as error:
        text = "the body is empty" if not body.strip() else f"the body is no JSON: {error}"
        raise Problem("bad-request", text) from None
    except UnicodeDecodeError as error:
        raise Problem("bad-request", f"the body is no UTF-8: {error.reason}") from None
    except RecursionError:
        raise Problem("bad-request", "the body is nested too deep") from None


def name_problem(name: str) -> str:
    """Why `name` is none."""
    return (f"{shown(name)} is no name: use 1-{NAME_LENGTH_MAX} letters, digits, \".\", \"_\", "
            "\"-\"")


def shown(value: str) -> str:
    """`value` in quotes, escaped, cut where it is long."""
    text = msgspec.json.encode(value[:60].encode("utf-8", "replace").decode()).decode()
    return text if len(value) <= 60 else text[:-1] + "…\""


def checked_name(name: str, where: str) -> str:
    """`name`, where it may be one. Raises Problem (422)."""
    if not is_name(name):
        raise invalid([Fault(where, name_problem(name))])
    return name


def checked_id(text: str, where: str = "id") -> str:
    """`text`, where it may be a message's or a thread's id. Raises Problem (422)."""
    if not is_id(text):
        raise invalid([Fault(where, f"{shown(text)} is no id: 1-200 letters, digits and . _ : + @ "
                                    "= ~ -")])
    return text


def checked_key(value: bytes | None) -> str | None:
    """An Idempotency-Key as text. Raises Problem (422)."""
    if value is None:
        return None
    if not _key.match(value):
        raise invalid([Fault("Idempotency-Key", f"use 1-{KEY_LENGTH_MAX} visible ASCII "
                                                "characters")])
    return value.decode()


def checked_text(text: str, where: str, bytes_max: int) -> str:
    """A text that is stored as it is. Raises Problem (422) where it is long or holds a NUL."""
    if "\0" in text or len(text.encode()) > bytes_max:
        raise invalid([Fault(where, f"use up to {bytes_max} bytes without NUL")])
    return text


class Names:
    """Names seen to be right, so that no message costs a regular expression. Bounded."""

    def __init__(self) -> None:
        self.known: set[str] = set()

    def right(self, name: str) -> bool:
        """Whether `name` is one; remembered."""
        if name in self.known:
            return True
        if not is_name(name):
            return False
        if len(self.known) >= NAMES_REMEMBERED:
            self.known.clear()
        self.known.add(name)
        return True

    def plain(self, new: NewMessage) -> bool:
        """Whether the message is right by a glance: one known recipient, no reply, no expiry.

        False says nothing against it. The hot path: keep it short.
        """
        known = self.known
        to_agent = new.to_agent
        return (to_agent.__class__ is str and to_agent in known and new.from_agent in known
                and new.subject.isprintable() and len(new.body) <= BODY_SURELY_SHORT
                and "\0" not in new.body and new.in_reply_to is None and new.thread_id is None
                and new.expires_at is None)

    def odd(self, news: list[NewMessage]) -> list[int]:
        """The indexes of the messages that are not plain. The same rule as `plain`, written out:
        a call for each message would cost as much as the rule.
        """
        known = self.known
        return [i for i, new in enumerate(news) if not (
            new.to_agent.__class__ is str and new.to_agent in known and new.from_agent in known
            and new.subject.isprintable() and len(new.body) <= BODY_SURELY_SHORT
            and "\0" not in new.body and new.in_reply_to is None and new.thread_id is None
            and new.expires_at is None)]

    def faults(self, new: NewMessage, prefix: str = "") -> list[Fault]:
        """All that is wrong with the message; `prefix` is its place in a batch: `[3].`."""
        out: list[Fault] = []

        def add(where: str, problem: str) -> None:
            out.append(Fault(prefix + where, problem))

        if not self.right(new.from_agent):
            add("from_agent", name_problem(new.from_agent))
        to = new.to_agent
        for i, name in enumerate([to] if isinstance(to, str) else to):
            if not self.right(name.removeprefix("@")):
                add("to_agent" if isinstance(to, str) else f"to_agent[{i}]", name_problem(name))
        if not is_subject(new.subject):
            add("subject", "holds a control character, such as a line's end")
        if "\0" in new.body:
            add("body", "holds a NUL")
        if len(new.body) > BODY_SURELY_SHORT and len(new.body.encode()) > BODY_BYTES_MAX:
            add("body", f"is longer than {BODY_BYTES_MAX} bytes of UTF-8")
        for where, text in (("thread_id", new.thread_id), ("in_reply_to", new.in_reply_to)):
            if text is not None and not is_id(text):
                add(where, f"{shown(text)} is no id: 1-200 letters, digits and . _ : + @ = ~ -")
        if new.expires_at is not None and (problem := _expiry_problem(new.expires_at)):
            add("expires_at", problem)
        return out


def _expiry_problem(text: str) -> str:
    moment = _moment(text)
    if moment is None:
        return f"{shown(text)} is no time: {_TIMES}"
    return "" if moment > datetime.now(UTC) - CLOCKS_APART else f"{shown(text)} is past"


def checked_time(text: str | None, where: str) -> datetime | None:
    """The moment that a query's parameter names. Raises Problem (422)."""
    if text is None:
        return None
    moment = _moment(text)
    if moment is None:
        space = "; in an address a + is written %2B" if " " in text else ""
        raise invalid([Fault(where, f"{shown(text)} is no time: {_TIMES}{space}")])
    return moment


def _moment(text: str) -> datetime | None:
    try:
        return parse_time(text).astimezone(UTC) if _time.match(text) else None
    except (ValueError, OverflowError):
        return None


def decoder_of(kind: Any) -> Callable[[bytes], Any]:
    """A JSON decoder, made once."""
    return msgspec.json.Decoder(kind).decode
