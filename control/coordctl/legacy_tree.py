"""From the old tool's tree to changes for `POST /api/v1/admin/import`, in the order of arrival.

The tree is read as a stream, more than once: what is held is one small entry a message (its key
and what is known of it), never a body. Every thing found becomes a change, a repeat, or a reject
with its place and reason: nothing is dropped in silence.

The order is that of the SENT lines, oldest log first. A message that no SENT line tells of is
placed by its time, then its file's modification time, then its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import IntFlag
from typing import Any, Final, Literal, NamedTuple

from coordctl.legacy import (
    DELETED,
    READ,
    SENT,
    FormatError,
    OldEvent,
    OldMessage,
    is_name,
    moment,
    parse_event,
    parse_message,
)
from coordctl.legacy_folder import OldFolder, Unreadable, shown

CHANGE_BYTES_MAX: Final = 8 * 1024 * 1024 - 64 * 1024
"""A change as JSON must fit in a request of 8 MiB, and JSON escapes some bytes."""


class Change(NamedTuple):
    """A change as the API's JSON. `place`: where in the tree it comes from."""

    kind: Literal["sent", "read", "deleted"]
    place: str
    data: bytes


class Repeat(NamedTuple):
    """A READ or DELETED line that says what an earlier line said: the earlier one counts."""

    place: str


class Reject(NamedTuple):
    """What could not be taken as it stands. `imported`: its message is, nevertheless."""

    place: str
    reason: str
    imported: bool = False


Item = Change | Repeat | Reject


class _Is(IntFlag):
    """What is known of one message in one inbox."""

    FILE = 1        # its file is there
    SENT = 2        # a SENT line tells of it
    DELETED = 4     # a DELETED line after that one
    IMPORTED = 8    # given as a change, as are the next two
    READ = 16
    GONE = 32


class _Sent(NamedTuple):
    """One recipient of a message about to be given. `event` is None where only a file is."""

    to_agent: str
    place: str
    event: OldEvent | None


class _Unlogged(NamedTuple):
    """A message that no SENT line tells of. Sorts by time, file time, name."""

    time_s: float
    changed_ns: int
    name: str
    to_agent: str


def _change(kind: Literal["sent", "read", "deleted"], place: str, fields: dict[str, Any]) -> Change:
    text = json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":"))
    return Change(kind, place, text.encode())


class OldTree:
    """One pass over a tree; iterate once. `logged`: there is at least one log."""

    def __init__(self, folder: OldFolder) -> None:
        self._folder = folder
        self._known: dict[str, _Is] = {}        # by "id/recipient"
        self._given: set[str] = set()           # ids
        self._shared: dict[str, list[str]] = {}  # id: recipients, where no SENT line tells of it
        self._logs: list[str] = []
        self.logged = False

    def __iter__(self) -> Iterator[Item]:
        yield from self._scan()
        self._read_ahead()
        unlogged: list[_Unlogged] = []
        for found in self._unlogged():
            if isinstance(found, Reject):
                yield found
            else:
                unlogged.append(found)
        unlogged.sort()
        yield from self._merge(unlogged)

    def _scan(self) -> Iterator[Reject]:
        for log in self._folder.logs():
            if isinstance(log, Unreadable):
                yield Reject(log.place, log.reason)
            else:
                self._logs.append(log)
        self.logged = bool(self._logs)
        for found in self._folder.messages():
            if isinstance(found, Unreadable):
                yield Reject(found.place, found.reason)
                continue
            folder, name = found
            if not is_name(folder):
                yield Reject(f"inbox/{shown(folder)}/{shown(name)}",
                             f"the recipient {shown(folder)!r} is not 1-50 of letters, digits"
                             " and ._-")
            else:
                self._known[f"{name.removesuffix('.msg')}/{folder}"] = _Is.FILE

    def _events(self) -> Iterator[tuple[str, OldEvent] | Reject]:
        for log in self._logs:
            for line in self._folder.lines(log):
                if isinstance(line, Unreadable):
                    yield Reject(line.place, line.reason)
                elif line.torn:
                    yield Reject(line.place, "a torn last line: it does not end in a newline")
                else:
                    try:
                        yield line.place, parse_event(line.data)
                    except FormatError as error:
                        yield Reject(line.place, str(error))

    def _read_ahead(self) -> None:
        """Learn which messages have a SENT line, and which a DELETED line after it."""
        for item in self._events():
            if isinstance(item, Reject):
                continue
            _, event = item
            key = f"{event.id}/{event.to_agent}"
            known = self._known.get(key, _Is(0))
            if event.type == SENT:
                self._known[key] = known | _Is.SENT
            elif event.type == DELETED and known & _Is.SENT:
                self._known[key] = known | _Is.DELETED

    def _unlogged(self) -> Iterator[_Unlogged | Reject]:
        keys = [key for key, known in self._known.items() if not known & _Is.SENT]
        ids = {key.split("/")[0] for key in keys}
        # A message to several, of whose lines one is lost: it belongs to the lines that are there.
        logged_ids = ids & {key.split("/")[0] for key, known in self._known.items()
                            if known & _Is.SENT}
        for key in keys:
            id_, to_agent = key.split("/")
            if id_ in logged_ids:
                self._shared.setdefault(id_, []).append(to_agent)
                continue
            try:
                message, changed_ns = self._message(id_, to_agent)
            except Unreadable as error:
                yield Reject(error.place, error.reason)
                continue
            self._shared.setdefault(id_, []).append(to_agent)
            yield _Unlogged(moment(message.timestamp).timestamp(), changed_ns, id_, to_agent)

    def _message(self, id_: str, to_agent: str) -> tuple[OldMessage, int]:
        """The message in a file. Raises Unreadable."""
        data, changed_ns = self._folder.read(to_agent, f"{id_}.msg")
        place = f"inbox/{to_agent}/{shown(id_)}.msg"
        try:
            message = parse_message(data)
        except FormatError as error:
            raise Unreadable(place, str(error)) from None
        if message.id != id_:
            raise Unreadable(place, f"its id, {message.id!r}, is not its name")
        if message.to_agent != to_agent:
            raise Unreadable(place, f"its recipient, {message.to_agent!r}, is not its folder")
        return message, changed_ns

    def _merge(self, unlogged: list[_Unlogged]) -> Iterator[Item]:
        waiting = iter(unlogged)
        nearest = next(waiting, None)
        group: list[_Sent] = []
        group_id = ""
        for item in self._events():
            if isinstance(item, Reject):
                yield item
                continue
            place, event = item
            if event.type == SENT and event.id == group_id:
                group.append(_Sent(event.to_agent, place, event))
                continue
            yield from self._sent(group_id, group)
            group, group_id = [], ""
            time_s = moment(event.at).timestamp()
            while nearest and nearest.time_s < time_s:
                yield from self._found(nearest.name)
                nearest = next(waiting, None)
            if event.type == SENT:
                group, group_id = [_Sent(event.to_agent, place, event)], event.id
            else:
                yield from self._mark(place, event)
        yield from self._sent(group_id, group)
        while nearest:
            yield from self._found(nearest.name)
            nearest = next(waiting, None)
        for id_ in list(self._shared):
            yield from self._found(id_)

    def _found(self, id_: str) -> Iterator[Item]:
        """A message without a SENT line; nothing where it was given already."""
        yield from self._sent(id_, [])

    def _sent(self, id_: str, group: list[_Sent]) -> Iterator[Item]:
        """One message to those who have its file or had it: the recipients that its lines name,
        then the inboxes where it lies and that no line names.
        """
        group = group + [_Sent(to_agent, f"inbox/{to_agent}/{id_}.msg", None)
                         for to_agent in sorted(self._shared.pop(id_, ()))]
        message: OldMessage | None = None
        taken: list[_Sent] = []
        for sent in group:
            key = f"{id_}/{sent.to_agent}"
            known = self._known[key]
            if known & _Is.IMPORTED or any(t.to_agent == sent.to_agent for t in taken):
                yield Reject(sent.place, "an earlier line says that this message was sent", True)
            elif id_ in self._given:
                yield Reject(sent.place, "its id is that of an earlier message")
            elif known & _Is.FILE:
                try:
                    own, _ = self._message(id_, sent.to_agent)
                except Unreadable as error:
                    yield Reject(error.place, error.reason)
                    continue
                if message is not None and own._replace(to_agent=message.to_agent) != message:
                    yield Reject(f"inbox/{sent.to_agent}/{id_}.msg",
                                 f"its id is that of another message, to {message.to_agent}")
                    continue
                message = own
                taken.append(sent)
            elif known & _Is.DELETED:
                taken.append(sent)
            else:
                yield Reject(sent.place, "sent, but there is no file and no DELETED line")
        if taken:
            yield from self._give(id_, taken, message)

    def _give(self, id_: str, taken: list[_Sent], message: OldMessage | None) -> Iterator[Item]:
        event = taken[0].event
        if message is not None:
            from_agent, subject = message.from_agent, message.subject
            created_at, body = message.timestamp, message.body
        else:
            assert event is not None  # noqa: S101  a message without a file comes from a line
            from_agent, subject, created_at, body = event.from_agent, event.subject, event.at, None
        change = _change("sent", taken[0].place, {
            "at": event.at if event else created_at,
            "message": {"id": id_, "from_agent": from_agent, "subject": subject, "body": body,
                        "priority": "normal", "thread_id": id_, "in_reply_to": None,
                        "created_at": created_at, "expires_at": None},
            "deliveries": [[sent.to_agent, 0] for sent in taken]})
        if len(change.data) > CHANGE_BYTES_MAX:
            yield Reject(taken[0].place, "the message is larger than a request of 8 MiB")
            return
        yield change
        self._given.add(id_)
        for sent in taken:
            key = f"{id_}/{sent.to_agent}"
            self._known[key] |= _Is.IMPORTED
            if sent.event is None:
                if self.logged:
                    yield Reject(sent.place, "a file that no SENT line tells of", True)
            elif (sent.event.from_agent, sent.event.subject) != (from_agent, subject):
                yield Reject(sent.place, "the file says another sender or subject than this line:"
                             " the file counts", True)

    def _mark(self, place: str, event: OldEvent) -> Iterator[Item]:
        key = f"{event.id}/{event.to_agent}"
        if event.id in self._shared:
            yield from self._found(event.id)
        known = self._known.get(key, _Is(0))
        done = _Is.READ if event.type == READ else _Is.GONE
        if not known & _Is.IMPORTED:
            yield Reject(place, f"{event.type} of a message that is not imported")
        elif known & done:
            yield Repeat(place)
        elif known & _Is.GONE:
            yield Reject(place, "read after it was deleted", True)
        elif event.type == DELETED and known & _Is.FILE:
            yield Reject(place, "deleted, but its file is there: the message is kept", True)
        else:
            self._known[key] = known | done
            yield _change("read" if event.type == READ else "deleted", place,
                          {"at": event.at, "id": event.id, "agent": event.to_agent})
