"""An import into an empty store, as the import call does it, and the proof that all of it is there.

`python -m bench.postgres.importer` reads a `Job` as JSON from stdin and writes an `Outcome` to
stdout: a process of its own, as coordd is. Exit code 1: what the store has is not what was given.
"""

from __future__ import annotations

import gc
import hashlib
import random
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import uvloop

from bench.workloads import message
from coordd import settings
from coordd.__main__ import GC_THRESHOLDS
from coordd.engines import open_engine
from coordd.model import Core, Message
from coordd.store import Change, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

_BEGIN: Final = datetime(2025, 7, 1, tzinfo=UTC)
_PAGE: Final = 1000
_decode: Final = msgspec.json.Decoder(Message).decode


class Job(msgspec.Struct, frozen=True):
    """What to import. `settings`: coordd's, of an empty store; `each`: messages an import."""

    settings: str
    messages: int
    each: int = 5000


class Outcome(msgspec.Struct, frozen=True):
    """Seconds of the imports, and of the verification after them."""

    imported_s: float
    verified_s: float


class DifferenceError(Exception):
    """The store has something else than was imported."""


def changes(count: int) -> list[Change]:
    """Messages as another store gives them: their ids and times, seqs left to this one."""
    rng = random.Random(0)
    made = []
    for number in range(count):
        one = message(rng)
        at = (_BEGIN + timedelta(seconds=number)).isoformat(timespec="microseconds")
        made.append(Change("sent", f"{at[:-6]}Z", message=Core(
            id=f"0198{number >> 28:04x}-0000-7000-8000-{number:012x}",
            from_agent=one["from_agent"], subject=one["subject"], body=one["body"],
            priority="normal", thread_id=f"0198{number >> 28:04x}-0000-7000-8000-{number:012x}",
            in_reply_to=None, created_at=f"{at[:-6]}Z", expires_at=None),
            deliveries=[(one["to_agent"], 0)]))
    return made


async def run(job: Job) -> Outcome:
    """Import, then verify. Raises DifferenceError, StoreError."""
    given = changes(job.messages)
    store = open_engine(settings.load(Path(job.settings), {}), _die, "bench")
    await store.open()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        began = time.perf_counter()
        for first in range(0, len(given), job.each):
            imported = await store.import_(given[first:first + job.each])
            if imported.skipped:
                raise DifferenceError(f"{imported.skipped} changes were skipped")
        done = time.perf_counter()
        await verify(store, given)
        return Outcome(done - began, time.perf_counter() - done)
    finally:
        await store.close()


async def verify(store: Store, given: Sequence[Change]) -> None:
    """Compare counts and, for each inbox, an ordered hash over all its messages.

    Raises DifferenceError.
    """
    expected: defaultdict[str, list[Message]] = defaultdict(list)
    for change in given:
        core, (to, _) = change.message, change.deliveries[0]
        if core is None or core.body is None:
            raise DifferenceError("a change without a message")
        expected[to].append(Message(
            id=core.id, seq=len(expected[to]) + 1, from_agent=core.from_agent, to_agent=to,
            subject=core.subject, body=core.body, priority=core.priority,
            thread_id=core.thread_id, in_reply_to=core.in_reply_to, created_at=core.created_at,
            expires_at=core.expires_at, state="unread", read_at=None, acked_at=None))
    stats = await store.stats()
    counts = {name: agent.received for name, agent in stats.agents.items() if agent.received}
    if (stats.messages, stats.events.get("SENT")) != (len(given), len(given)) or counts != {
            to: len(inbox) for to, inbox in expected.items()}:
        raise DifferenceError(f"the counts are {stats.messages}, {stats.events}, {counts}")
    for to, inbox in expected.items():
        if await _hash(store, to) != hash_of(inbox):
            raise DifferenceError(f"the inbox of {to} differs")


async def _hash(store: Store, agent: str) -> str:
    found: list[Message] = []
    cursor = None
    while True:
        page = await store.inbox(agent, limit=_PAGE, order="oldest", cursor=cursor)
        found += map(_decode, page.messages)
        cursor = page.next_cursor
        if cursor is None:
            return hash_of(found)


def hash_of(messages: Sequence[Message]) -> str:
    """SHA-256 over all fields of the messages, in their order."""
    digest = hashlib.sha256()
    for each in messages:
        digest.update(msgspec.json.encode(each) + b"\n")
    return digest.hexdigest()


def _die(error: BaseException) -> NoReturn:
    raise SystemExit(f"bench.postgres.importer: {error}")


def main() -> int:
    """Run the job on stdin."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        outcome = uvloop.run(run(job))
    except DifferenceError as error:
        print(f"bench.postgres.importer: {error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
