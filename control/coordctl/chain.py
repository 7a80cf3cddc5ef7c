"""The chain of messages, computed again from what the server gives: docs/work.md.

It holds where every message has its link and every link its message, each hash is that of the one
before and the message, and the last is the server's head (and one that was noted earlier is among
them). What is gone by right is counted: texts of deleted and expired messages, and messages that
the server's settings let go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

START = bytes(32)


class Verdict(NamedTuple):
    """What was found. `wrong`: the first message that differs, and how; "" where none does.
    `messages` were compared, of `gone` only the link is left, `later` are not in the chain yet.
    """

    wrong: str
    messages: int
    gone: int
    later: int
    head: str
    noted: bool


class Link(NamedTuple):
    """As the server's: docs/api.md."""

    pos: int
    message_id: str
    digest: str
    hash: str


def digest(change: dict[str, Any]) -> str:
    """Of the message that a `sent` change brings."""
    message = change["message"]
    told = [message["id"], message["from_agent"], change.get("deliveries", []), message["subject"],
            message["body"], message["priority"], message["thread_id"], message["in_reply_to"],
            message["created_at"], message["expires_at"]]
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Check:
    """One reading of feed and chain, both in order. `forgets`: as the server says; `noted`: a head
    of earlier, in hex.
    """

    def __init__(self, *, forgets: bool, noted: str | None) -> None:
        self._forgets = forgets
        self._noted = noted
        self._seen_noted = noted is None or noted == START.hex()
        self._head = START
        self._emptied: dict[str, set[str]] = {}
        """Messages without their text → whose deliveries must be told to be gone."""
        self._messages = self._gone = self._later = 0

    def run(self, changes: Iterable[dict[str, Any]], links: Iterator[Link], position: int,
            head: str, step: Callable[[], None]) -> Verdict:
        """The verdict. `position`, `head`: how far the server says the chain is."""
        link = next(links, None)
        for change in changes:
            step()
            if change["type"] != "sent":
                if change["type"] in ("deleted", "expired"):
                    self._is_gone(change["id"], change["agent"])
                continue
            at = change["pos"]
            while link is not None and link.pos < at:
                if wrong := self._missing(link):
                    return self._verdict(wrong)
                link = next(links, None)
            if link is None or link.pos > at:
                if at <= position:
                    return self._verdict(f"{change['message']['id']} is not in the chain")
                self._later += 1
                continue
            if wrong := self._compared(link, change):
                return self._verdict(wrong)
            link = next(links, None)
        while link is not None:
            if wrong := self._missing(link):
                return self._verdict(wrong)
            link = next(links, None)
        for message_id in self._emptied:
            return self._verdict(f"{message_id} has lost its text and was not deleted")
        if self._head.hex() != head:
            return self._verdict("the chain's last link is not its head")
        return self._verdict("")

    def _verdict(self, wrong: str) -> Verdict:
        return Verdict(wrong, self._messages, self._gone, self._later, self._head.hex(),
                       self._seen_noted)

    def _follow(self, link: Link) -> str:
        self._head = hashlib.sha256(self._head + bytes.fromhex(link.digest)).digest()
        if self._head.hex() != link.hash:
            return f"{link.message_id}: its link does not follow from the one before"
        self._seen_noted = self._seen_noted or link.hash == self._noted
        return ""

    def _compared(self, link: Link, change: dict[str, Any]) -> str:
        message = change["message"]
        if link.message_id != message["id"]:
            return f"{message['id']} stands in the place of {link.message_id}"
        if digest(change) != link.digest:
            if message["body"] is not None:
                return f"{message['id']} is not what was stored"
            self._gone += 1
            self._emptied[message["id"]] = {to for to, _ in change.get("deliveries", ())}
        else:
            self._messages += 1
        return self._follow(link)

    def _missing(self, link: Link) -> str:
        if not self._forgets:
            return f"{link.message_id} is gone"
        self._gone += 1
        return self._follow(link)

    def _is_gone(self, message_id: str, agent: str) -> None:
        left = self._emptied.get(message_id)
        if left is not None:
            left.discard(agent)
            if not left:
                del self._emptied[message_id]
