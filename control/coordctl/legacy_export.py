"""Writing the store's messages as the old tool's tree, from the server's feed of changes.

What `legacy_tree` reads back from it is the same messages in the same order, with the same times
and states; `Losses` counts what the old format has no place for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from coordctl.durable import sync_folder
from coordctl.errors import CoordctlError
from coordctl.legacy import (
    DELETED,
    READ,
    SENT,
    FormatError,
    OldEvent,
    OldMessage,
    moment,
    render_event,
    render_message,
)

Feed = Iterable[tuple[dict[str, Any], int]]
"""Changes of the feed, each with the newest position there is."""

_GONE: Final = ("deleted", "expired")


@dataclass
class Losses:
    """What the store holds, and of that, what the old format can't say. Deliveries are counted."""

    messages: int = 0
    gone: int = 0
    priority: int = 0
    thread: int = 0
    reply: int = 0
    expiry: int = 0
    acked: int = 0
    expired: int = 0
    registry: int = 0

    def lines(self) -> list[str]:
        """A line for each thing that is lost, for a person."""
        told = ((self.priority, "messages have a priority: not written"),
                (self.thread, "messages are in another's thread: not written"),
                (self.reply, "messages are replies: to which is not written"),
                (self.expiry, "messages will expire: when is not written"),
                (self.expired, "messages have expired: written as DELETED"),
                (self.acked, "acknowledgements: written as READ where nothing else says so"),
                (self.registry, "entries of agents, groups and tokens: not written"))
        return [f"{count:,} {what}" for count, what in told if count]


def count(feed: Feed, step: Callable[[int], None]) -> Losses:
    """Read the feed once. `step(last)` is called for each change."""
    losses = Losses()
    for change, last in feed:
        step(last)
        kind = change["type"]
        if kind == "sent":
            message = change["message"]
            losses.messages += len(change["deliveries"])
            losses.priority += message["priority"] != "normal"
            losses.thread += message["thread_id"] != message["id"]
            losses.reply += message["in_reply_to"] is not None
            losses.expiry += message["expires_at"] is not None
        elif kind in _GONE:
            losses.gone += 1
            losses.expired += kind == "expired"
        elif kind == "acked":
            losses.acked += 1
        elif kind != "read":
            losses.registry += 1
    return losses


class _Tree:
    """The tree as it is written. Memory: an id, a sender and a subject a message."""

    def __init__(self, folder: Path, log: BinaryIO) -> None:
        self._inbox = folder / "inbox"
        self._inbox.mkdir()
        self._log = log
        self._messages: dict[str, tuple[str, str]] = {}
        self._acked: dict[tuple[str, str], str] = {}
        self._expiring: dict[tuple[str, str], str] = {}
        self._read: set[tuple[str, str]] = set()
        self.files = 0

    def add(self, change: dict[str, Any]) -> None:
        """Write one change."""
        kind, at = change["type"], change["at"]
        if kind == "sent":
            self._sent(change["message"], change["deliveries"], at)
        elif kind == "read":
            self._line(at, READ, change["id"], change["agent"])
            self._read.add((change["id"], change["agent"]))
        elif kind == "acked":
            self._acked[change["id"], change["agent"]] = at
        elif kind in _GONE:
            self._gone(change["id"], change["agent"], at)

    def finish(self) -> None:
        """Write what no change has said: expired messages and those acknowledged unread."""
        now = datetime.now(UTC)
        for (id_, agent), expires_at in list(self._expiring.items()):
            if moment(expires_at) <= now:
                self._gone(id_, agent, expires_at)
        # Left as unread they would be done a second time.
        for (id_, agent), at in self._acked.items():
            if (id_, agent) not in self._read:
                self._line(at, READ, id_, agent)

    def _sent(self, message: dict[str, Any], deliveries: list[list[Any]], at: str) -> None:
        id_ = message["id"]
        self._messages[id_] = (message["from_agent"], message["subject"])
        for agent, _ in deliveries:
            self._line(at, SENT, id_, agent)
            if message["body"] is None:
                continue
            if message["expires_at"] is not None:
                self._expiring[id_, agent] = message["expires_at"]
            file = self._file(id_, agent)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(render_message(OldMessage(
                id_, message["from_agent"], agent, message["subject"], message["created_at"],
                message["body"])))
            self.files += 1
            sent_s = moment(message["created_at"]).timestamp()
            os.utime(file, (sent_s, sent_s))

    def _gone(self, id_: str, agent: str, at: str) -> None:
        file = self._file(id_, agent)
        if file.exists():
            file.unlink()
            self.files -= 1
        self._line(at, DELETED, id_, agent)
        self._acked.pop((id_, agent), None)
        self._expiring.pop((id_, agent), None)

    def _file(self, id_: str, agent: str) -> Path:
        return self._inbox / agent / f"{id_}.msg"

    def _line(self, at: str, kind: str, id_: str, agent: str) -> None:
        from_agent, subject = self._messages[id_]
        self._log.write(render_event(OldEvent(at, kind, id_, from_agent, agent, subject)))


class Target:
    """The folder to be written: absent or empty before, whole or untouched after."""

    def __init__(self, path: Path, run_id: str) -> None:
        """Raises CoordctlError where something is at `path` already."""
        self.path = path.absolute()
        self._beside = self.path.with_name(f".{self.path.name}.{run_id}.tmp")
        try:
            there = next(self.path.iterdir(), None)
        except FileNotFoundError:
            there = None
        except OSError as error:
            raise CoordctlError(f"{path}: {error.strerror}", mend="coordctl export NEW_FOLDER"
                                ) from None
        if there is not None:
            raise CoordctlError(f"{path} is not empty ({there.name} …)",
                                mend="coordctl export NEW_FOLDER")

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._beside.mkdir(mode=0o700)
        except OSError as error:
            raise CoordctlError(f"{self._beside} can't be made: {error.strerror}",
                                mend="coordctl export NEW_FOLDER") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._beside)

    def write(self, feed: Feed, step: Callable[[int], None]) -> int:
        """Write the tree of `feed`; the number of message files. Raises CoordctlError, OSError."""
        log_file = self._beside / "events.log"
        with log_file.open("wb") as log:
            tree = _Tree(self._beside, log)
            for change, last in feed:
                step(last)
                try:
                    tree.add(change)
                except (FormatError, KeyError) as error:
                    raise CoordctlError(f"the feed's change at position {change.get('pos')} can't "
                                        f"be written: {error}", mend="coordctl status") from error
            tree.finish()
            log.flush()
            os.fsync(log.fileno())
        # One sync of all is faster by far than an fsync of each small file.
        os.sync()
        self._beside.rename(self.path)
        sync_folder(self.path.parent)
        return tree.files
