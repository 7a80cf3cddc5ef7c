"""What was asked of a store and what it answered, and the judge of what a power loss has left."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec

from coordd.engines.files import FilesOptions, FilesStore
from coordd.model import Event, Message
from coordd.store import Claim, Draft, Receipt, StoreError, StoreFullError
from faults.crashdisk import CrashState, Platter, RecordingDisk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from coordd.model import Mark

SMALL = FilesOptions(segment_bytes=2500)
FOLDER_PREFIX = "coordd-powerloss-"


@dataclass(slots=True)
class Sent:
    """An append. `answered`: how many disk calls were made before its answer; None: none came."""

    drafts: list[Draft]
    claim: Claim | None
    receipts: list[Receipt] | None = None
    refused: bool = False
    answered: int | None = None


@dataclass(slots=True)
class Marked:
    """A mark of one delivery."""

    id: str
    agent: str
    mark: Mark
    submitted: int
    answered: int | None = None


@dataclass
class History:
    """All that was asked of one store, in the order asked."""

    sends: list[Sent] = field(default_factory=list)
    marks: list[Marked] = field(default_factory=list)
    heard: list[tuple[str, int, int]] = field(default_factory=list)
    """(recipient, seq, calls made): what the listeners were told."""
    entries: list[tuple[str, int | None]] = field(default_factory=list)
    """(description, calls made at the answer) of the one registry entry that is written."""


class Client:
    """Uses a store and writes down what it asked, what it was answered, and when."""

    def __init__(self, disk: RecordingDisk, history: History | None = None) -> None:
        self.disk = disk
        self.history = history or History()
        self._store: FilesStore | None = None
        self._made = sum(len(sent.drafts) for sent in self.history.sends)

    @property
    def store(self) -> FilesStore:
        assert self._store is not None
        return self._store

    async def open(self, folder: Path, options: FilesOptions = SMALL) -> None:
        self._store = FilesStore(folder, options, self.disk)
        self._store.on_commit(
            lambda to, seq: self.history.heard.append((to, seq, self.disk.now))
        )
        await self._store.open()

    async def send(self, *recipients: Sequence[str], key: str | None = None,
                   size: int = 40) -> list[Receipt] | None:
        """Send a batch with a message to each of `recipients`; None when it was refused."""
        drafts = []
        for to in recipients:
            self._made += 1
            token = f"m{self._made}"
            body = f"{token} é\n" + "x" * size
            drafts.append(Draft(f"s{self._made % 3}", tuple(to), token, body))
        claim = Claim("s", key, key, len(drafts)) if key else None
        sent = Sent(drafts, claim)
        self.history.sends.append(sent)
        try:
            sent.receipts = await self.store.append(drafts, claim)
        except StoreFullError:
            sent.refused = True
        sent.answered = self.disk.now
        return sent.receipts

    async def mark(self, message_id: str, agent: str, mark: Mark) -> None:
        marked = Marked(message_id, agent, mark, self.disk.now)
        self.history.marks.append(marked)
        await self.store.mark(message_id, agent, mark)
        marked.answered = self.disk.now

    async def put(self, description: str) -> None:
        entries = self.history.entries
        entries.append((description, None))
        await self.store.put_agent("bob", description)
        entries[-1] = (description, self.disk.now)


@dataclass
class _Found:
    """What a store shows after the power loss."""

    events: list[Event]
    inboxes: dict[str, list[Message]]
    description: str | None


async def _look(store: FilesStore) -> _Found:
    log = (await store.events(limit=100_000)).events
    inboxes = {}
    for name in {event.to_agent for event in log}:
        page = await store.inbox(name, limit=100_000, order="oldest")
        inboxes[name] = [msgspec.json.decode(m, type=Message) for m in page.messages]
    entry = await store.agent("bob")
    return _Found(log, inboxes, entry.description if entry else None)


async def judge(history: History, calls: int, folder: Path) -> list[str]:
    """What is wrong with the store in `folder`, which lost its power after that many `calls`."""
    try:
        store = FilesStore(folder, SMALL)
        await store.open()
    except (StoreError, OSError) as error:
        return [f"does not open: {error}"]
    try:
        found = await _look(store)
        wrong = [
            *_wrong_messages(history, calls, found), *_wrong_marks(history, calls, found),
            *_wrong_entry(history, calls, found),
        ]
        if not wrong:
            wrong += await _wrong_claims(history, calls, store)
            last = (await store.inbox("bob", limit=1)).last_seq
            [receipt] = await store.append([Draft("judge", ("bob",), "after", "after")])
            if receipt.deliveries != [("bob", last + 1)]:
                wrong.append(f"after {last} came {receipt.deliveries}")
    finally:
        await store.close()
    if wrong:
        return wrong
    store = FilesStore(folder, SMALL)
    await store.open()
    try:
        again = await _look(store)
        if again.events[: len(found.events)] != found.events:
            wrong.append("shows other events when it is opened once more")
        if not any(message.id == receipt.id for message in again.inboxes["bob"]):
            wrong.append("lost what was sent after the power loss")
    finally:
        await store.close()
    return wrong


def _wrong_messages(history: History, calls: int, found: _Found) -> Iterator[str]:
    sent_events: dict[str, list[Event]] = defaultdict(list)
    for event in found.events:
        if event.type == "SENT":
            sent_events[event.subject].append(event)
    submitted = {draft.subject: draft for sent in history.sends for draft in sent.drafts}
    yield from (f"invented {token}" for token in sent_events if token not in submitted)
    for number, sent in enumerate(history.sends):
        acked = sent.answered is not None and sent.answered <= calls
        there = [len(sent_events[draft.subject]) for draft in sent.drafts]
        whole = [len(draft.recipients) for draft in sent.drafts]
        if acked and sent.refused and any(there):
            yield f"send {number} was refused and is there"
        elif acked and not sent.refused and there != whole:
            yield f"lost: send {number} was acknowledged, of its messages {there} are there"
        elif there != whole and any(there):
            yield f"torn: of send {number} there is {there}, not {whole}"
        if sent.receipts and there == whole:
            for draft, receipt in zip(sent.drafts, sent.receipts, strict=True):
                if {event.message_id for event in sent_events[draft.subject]} != {receipt.id}:
                    yield f"{draft.subject} has another id than its receipt"
    seqs: dict[str, int] = defaultdict(int)
    places: dict[tuple[str, str], int] = {}
    order = {token: number for number, token in enumerate(submitted)}
    newest: dict[str, int] = defaultdict(lambda: -1)
    for event in found.events:
        if event.type == "SENT" and event.subject in order:
            seqs[event.to_agent] += 1
            places[event.message_id, event.to_agent] = seqs[event.to_agent]
            if order[event.subject] < newest[event.to_agent]:
                yield f"{event.subject} to {event.to_agent} changed its place"
            newest[event.to_agent] = order[event.subject]
    for sent in history.sends:
        if sent.answered is not None and sent.answered <= calls:
            for receipt in sent.receipts or []:
                for to, seq in receipt.deliveries:
                    if places.get((receipt.id, to)) != seq:
                        yield f"lost: {receipt.id} to {to} was given seq {seq}"
    for to, seq, when in history.heard:
        if when <= calls and seqs[to] < seq:
            yield f"lost: a listener was told of seq {seq} of {to}"
    deleted = {(m.id, m.agent) for m in history.marks if m.mark == "deleted"}
    for to, messages in found.inboxes.items():
        shown = {message.id for message in messages}
        for (message_id, owner), seq in places.items():
            if owner == to and message_id not in shown and (message_id, to) not in deleted:
                yield f"lost: seq {seq} of {to} is in the events only"
        for message in messages:
            asked = submitted.get(message.subject)
            if asked is None or (message.body, message.from_agent) != (
                asked.body, asked.from_agent
            ) or to not in asked.recipients:
                yield f"invented or changed: {message.subject} to {to}"
            if places.get((message.id, to)) != message.seq:
                yield f"{message.subject} to {to} shows seq {message.seq}"


def _wrong_marks(history: History, calls: int, found: _Found) -> Iterator[str]:
    shown = {(m.id, m.to_agent): m for messages in found.inboxes.values() for m in messages}
    asked = {(mark.id, mark.agent, mark.mark) for mark in history.marks}
    for (message_id, to), message in shown.items():
        if message.read_at and (message_id, to, "read") not in asked:
            yield f"nobody read {message_id} to {to}"
        if message.acked_at and (message_id, to, "acked") not in asked:
            yield f"nobody acknowledged {message_id} to {to}"
    for mark in history.marks:
        if mark.answered is None or mark.answered > calls:
            continue
        entry = shown.get((mark.id, mark.agent))
        if mark.mark == "deleted":
            if entry is not None:
                yield f"lost: {mark.id} to {mark.agent} was deleted and is there"
        elif entry is not None and not (entry.read_at if mark.mark == "read" else entry.acked_at):
            yield f"lost: {mark.id} to {mark.agent} was {mark.mark}"


def _wrong_entry(history: History, calls: int, found: _Found) -> Iterator[str]:
    written = [description for description, _ in history.entries]
    acked = [d for d, answered in history.entries if answered is not None and answered <= calls]
    if found.description is None:
        if acked:
            yield "lost: the registry entry"
    elif found.description not in written:
        yield f"invented: the registry says {found.description!r}"
    elif acked and written.index(found.description) < written.index(acked[-1]):
        yield f"lost: the registry says {found.description!r} after {acked[-1]!r}"


async def _wrong_claims(history: History, calls: int, store: FilesStore) -> list[str]:
    wrong = []
    for sent in history.sends:
        if sent.claim is not None and not sent.refused:
            acked = sent.answered is not None and sent.answered <= calls
            receipts = await store.append(sent.drafts, sent.claim)
            if acked and receipts != sent.receipts:
                wrong.append(f"lost: the key {sent.claim.key}")
            again = await store.append(sent.drafts, sent.claim)
            if again != receipts:
                wrong.append(f"the key {sent.claim.key} stores twice")
    return wrong


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of states are built, each for a moment."""
    memory = Path("/dev/shm")
    where = str(memory) if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, dir=where) as name:
        yield Path(name)


def _digest(state: CrashState, root: Path) -> bytes:
    hashed = hashlib.blake2b(digest_size=16)
    for path, data in sorted(state.files.items()):
        hashed.update(f"{path.relative_to(root)} {len(data)} ".encode())
        hashed.update(data)
    return hashed.digest()


async def replay(history: History, disk: RecordingDisk, root: Path, *, seed: int, samples: int,
                 begin: int = 0, stop_at_first: bool = False) -> tuple[int, list[str]]:
    """Lose the power after each call of the trace from `begin` on.

    `root`: the folder that was there before; `samples`: mixtures built a crash point. The number
    of states that were judged, and what was wrong with them.
    """
    random = Random(seed)
    platter = Platter(root)
    seen: set[tuple[bytes, int]] = set()
    wrong: list[str] = []
    for calls, call in enumerate(disk.trace, 1):
        platter.do(call)
        if calls < begin:
            continue
        answers = [s.answered for s in history.sends] + [m.answered for m in history.marks]
        acked = sum(answered is not None and answered <= calls for answered in answers)
        for state in platter.after_power_loss(random, samples):
            key = _digest(state, root), acked
            if key in seen:
                continue
            seen.add(key)
            with quick_folder() as folder:
                state.build(root, folder)
                wrong += [
                    f"power loss after call {calls} ({call.name} {call.path.name}): {problem}"
                    for problem in await judge(history, calls, folder / "data")
                ]
            if wrong and stop_at_first:
                return len(seen), wrong
    return len(seen), wrong


async def settle() -> None:
    """Let the loop run what is ready."""
    for _ in range(3):
        await asyncio.sleep(0)
