"""What an imported change must be, whatever the store holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coordd.engines.entries import ENTRIES, entry_of
from coordd.engines.times import text_to_us
from coordd.model import is_id, is_name, is_subject
from coordd.store import Change


class Checks:
    """The checks of one import, whose changes share times and names."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._names: set[str] = set()

    def moments(self, changes: Iterable[Change]) -> Iterator[int]:
        """The changes' times, microseconds since 1970. Raises ValueError in the place of one that
        is refused.
        """
        times = self._times
        for change in changes:
            us = times.get(change.at)
            if us is None:
                us = times[change.at] = _time(change.at)
            if change.type == "sent":
                self._check_sent(change)
            elif change.type in ENTRIES:
                _check_entry(change)
            yield us

    def _check_sent(self, change: Change) -> None:
        core, names = change.message, self._names
        if core is None or not change.deliveries:
            raise ValueError("a change of type sent needs message and deliveries")
        message_id, thread_id, subject, body = core.id, core.thread_id, core.subject, core.body
        if not is_id(message_id) or not (thread_id == message_id or is_id(thread_id)):
            raise ValueError(f"{message_id!r} or its thread {thread_id!r} is no id")
        if core.from_agent not in names:
            if not is_name(core.from_agent):
                raise ValueError(f"{core.from_agent!r} is no name of a sender")
            names.add(core.from_agent)
        # What is printable has no control character, and is known sooner.
        if not subject.isprintable() and not is_subject(subject):
            raise ValueError(f"the subject of {message_id} holds a control character")
        if body is not None and "\0" in body:
            raise ValueError(
                f"the body of {message_id} holds a NUL, which Postgres has no place for")
        if core.created_at not in self._times:
            self._times[core.created_at] = _time(core.created_at)
        if core.expires_at is not None:
            _time(core.expires_at)
        for name, _ in change.deliveries:
            if name not in names:
                if not is_name(name):
                    raise ValueError(f"{name!r} is no name of a recipient")
                names.add(name)


def _check_entry(change: Change) -> None:
    if not isinstance(entry_of(change), ENTRIES[change.type]):
        raise ValueError(f"a change of type {change.type} needs {change.type}_entry")  # noqa: TRY004


def _time(text: str) -> int:
    try:
        return text_to_us(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time with an offset from UTC") from error
