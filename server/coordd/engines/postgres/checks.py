"""What an imported change must be, whatever the store holds."""

from __future__ import annotations

from collections.abc import Sequence

from coordd.engines.entries import ENTRIES, entry_of
from coordd.engines.times import text_to_us
from coordd.model import Core, is_id, is_name, is_subject
from coordd.store import Change, ImportRefusedError


def checked(changes: Sequence[Change]) -> list[int]:
    """The changes' times, microseconds since 1970. Raises ImportRefusedError."""
    moments = []
    known: dict[str, int] = {}
    names: set[str] = set()
    for number, change in enumerate(changes):
        try:
            us = known.get(change.at)
            if us is None:
                us = known[change.at] = _time(change.at)
            moments.append(us)
            if change.type == "sent":
                _check_sent(change, known, names)
            elif change.type in ENTRIES:
                _check_entry(change)
        except ValueError as error:
            raise ImportRefusedError(number, str(error)) from error
    return moments


def _check_entry(change: Change) -> None:
    if not isinstance(entry_of(change), ENTRIES[change.type]):
        raise ValueError(f"a change of type {change.type} needs {change.type}_entry")  # noqa: TRY004


def _check_sent(change: Change, known: dict[str, int], names: set[str]) -> None:
    core = change.message
    if core is None or not change.deliveries:
        raise ValueError("a change of type sent needs message and deliveries")
    _check_core(core, known, names)
    for name, _ in change.deliveries:
        if name not in names:
            if not is_name(name):
                raise ValueError(f"{name!r} is no name of a recipient")
            names.add(name)


def _check_core(core: Core, known: dict[str, int], names: set[str]) -> None:
    if not is_id(core.id) or not (core.thread_id == core.id or is_id(core.thread_id)):
        raise ValueError(f"{core.id!r} or its thread {core.thread_id!r} is no id")
    if core.from_agent not in names:
        if not is_name(core.from_agent):
            raise ValueError(f"{core.from_agent!r} is no name of a sender")
        names.add(core.from_agent)
    if not is_subject(core.subject):
        raise ValueError(f"the subject of {core.id} holds a control character")
    if core.body is not None and "\0" in core.body:
        raise ValueError(f"the body of {core.id} holds a NUL, which Postgres has no place for")
    if core.created_at not in known:
        known[core.created_at] = _time(core.created_at)
    if core.expires_at is not None:
        _time(core.expires_at)


def _time(text: str) -> int:
    try:
        return text_to_us(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time with an offset from UTC") from error
