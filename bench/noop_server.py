"""coordd without a store: its HTTP server, routing, checks and encoding, over a store that answers
at once and keeps nothing. What coordd reaches of this is what storing costs.

`python -m bench.noop_server --settings FILE`. A limit to measure against, no server to use.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import uvloop

from bench.workloads import AGENTS, message
from coordd import __main__ as command
from coordd import settings
from coordd.daemon import Daemon
from coordd.model import Message, Token
from coordd.store import AgentStats, MessageJson, Page, Receipt, Stats, Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from coordd.store import Claim, Draft

ID = "0199b0a0-0000-7000-8000-0000000"
AT = "2026-01-01T00:00:00.000000Z"


class NoStore:
    """The part of the store port that the bench's requests reach."""

    shared = False
    position = 0

    async def open(self) -> None:
        """Make up a page and counts once, of the size that a full store's have."""
        self._loop = asyncio.get_running_loop()
        rng = random.Random(0)
        self._page = Page([MessageJson(msgspec.json.encode(msgspec.convert({
            "id": f"{ID}{number:05d}", "seq": 20_000 - number, "thread_id": f"{ID}{number:05d}",
            "created_at": AT, "in_reply_to": None, "expires_at": None, "state": "unread",
            "read_at": None, "acked_at": None, "priority": "normal", **message(rng)}, Message)))
            for number in range(100)], "20000", 20_000)
        self._stats = Stats(1_000_000, 1_000_000, {"SENT": 1_000_000}, {
            name: AgentStats(20_000, 20_000, 20_000) for name in AGENTS}, 500_000_000)
        self._seq = 0

    async def close(self) -> None:
        """Nothing is waiting."""

    async def prove(self) -> None:
        """Nothing can fail."""

    def on_commit(self, listener: Callable[[str, int], None]) -> None:
        """Nobody waits."""

    def append(self, drafts: Sequence[Draft], _claim: Claim | None = None
               ) -> Awaitable[list[Receipt]]:
        """Made-up receipts, there already."""
        future: asyncio.Future[list[Receipt]] = self._loop.create_future()
        receipts = []
        for draft in drafts:
            self._seq += 1
            made_up = f"{ID}{self._seq % 100_000:05d}"
            receipts.append(Receipt(made_up, made_up, AT, [(draft.recipients[0], self._seq)]))
        future.set_result(receipts)
        return future

    async def inbox(self, _agent: str, **_how: object) -> Page:
        """Always the same hundred."""
        return self._page

    async def stats(self) -> Stats:
        """Always the same."""
        return self._stats

    async def tokens(self) -> list[Token]:
        """None."""
        return []


def main() -> int:
    """Serve until a signal, as coordd does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path, required=True)
    wanted = settings.load(parser.parse_args().settings, os.environ)
    assert wanted.data is not None
    wanted.data.mkdir(parents=True, exist_ok=True)  # the work behind sends has a file there
    daemon = Daemon(wanted, cast("Store", NoStore()), "noop")
    with command._bound(wanted) as sock:
        uvloop.run(command._serve(wanted, daemon, sock))
    return 0


if __name__ == "__main__":
    sys.exit(main())
