"""What clients asked of servers that suffer, their answers, and the judge.

An attempt is ok (answered 200), failed (answered that nothing was stored) or unknown (no answer:
it may have been stored). A message is known by its subject, which no two messages share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

INBOXES = ("bob", "carol", "dave")

Outcome = Literal["ok", "failed", "unknown"]


class Place(NamedTuple):
    """Where a message is."""

    subject: str
    id: str
    to: str
    seq: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to store messages. A request that is tried again has the same `key`.

    `subjects` rise with `number`, which counts the sender's requests; times are of one clock.
    """

    sender: str
    number: int
    key: str | None
    subjects: tuple[str, ...]
    started: float
    ended: float
    outcome: Outcome
    places: tuple[Place, ...] = ()


class Marked(NamedTuple):
    """A delivery that was read or acknowledged, as the answer said."""

    id: str
    to: str
    mark: Literal["read", "ack"]


class Shown(NamedTuple):
    """A message of an inbox at the end."""

    subject: str
    id: str
    seq: int
    read: bool
    acked: bool


@dataclass
class History:
    """All attempts, all that followers were shown, all marks, in the order of the answers.

    `name`: tells the histories of one store apart, in their inboxes, subjects and keys.
    """

    attempts: list[Attempt] = field(default_factory=list)
    followed: dict[str, list[list[Place]]] = field(default_factory=lambda: defaultdict(list))
    """For each inbox what each of its followers was shown."""
    marks: list[Marked] = field(default_factory=list)
    fed: list[list[Any]] = field(default_factory=list)
    """What each follower of the feed was given: changes, as JSON."""
    answered: dict[str, int] = field(default_factory=dict)
    """The highest seq of each inbox that an answer has named."""
    marked: dict[Marked, float] = field(default_factory=dict)
    """When each mark was answered first."""

    answers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When the clients of each kind were answered 200, by the monotonic clock."""
    name: str = ""

    @property
    def inboxes(self) -> tuple[str, ...]:
        """The recipients of all messages."""
        return tuple(f"{name}{self.name}" for name in INBOXES)

    def longest_gap_s(self, kind: str, since: float) -> float:
        """The longest time since then in which no client of that kind was answered."""
        times = [since, *(at for at in self.answers[kind] if at > since)]
        return max((after - before for before, after in pairwise(times)), default=0.0)

    def was_answered(self, place: Place) -> None:
        """An answer names `place`: whoever asks from now on has to be shown it."""
        self.answered[place.to] = max(self.answered.get(place.to, 0), place.seq)


def problems(history: History, inboxes: dict[str, list[Shown]], *, late: bool = False
             ) -> list[str]:
    """What is wrong with the inboxes at the end, oldest first, of which nothing was deleted.

    `late`: a request without an answer may be stored when its sender has gone on already, as the
    servers' database does not end with them.
    """
    return [
        *_lost(history, inboxes), *_doubled(history, inboxes),
        *_out_of_order(history, inboxes, late=late),
        *_badly_followed(history, inboxes), *_unmarked(history, inboxes),
    ]


def feed_problems(history: History, whole: list[Any]) -> list[str]:
    """What is wrong with what followers of the feed were given. `whole`: the feed at the end."""
    found = []
    positions = [change["pos"] for change in whole]
    if positions != sorted(set(positions)):
        found.append("the feed is out of order")
    for number, changes in enumerate(history.fed):
        if changes != whole[: len(changes)]:
            wrong = next(n for n, change in enumerate(changes)
                         if n >= len(whole) or change != whole[n])
            found.append(f"follower {number} of the feed skipped or repeated: place {wrong + 1} "
                         f"was {changes[wrong]}")
    return found


def _lost(history: History, inboxes: dict[str, list[Shown]]) -> Iterator[str]:
    at = {(to, shown.seq): shown for to, messages in inboxes.items() for shown in messages}
    there = {shown.subject for shown in at.values()}
    may_be: set[str] = set()
    answers: dict[str, tuple[Place, ...]] = {}
    for attempt in history.attempts:
        if attempt.outcome != "failed":
            may_be.update(attempt.subjects)
        if attempt.outcome == "ok":
            for place in attempt.places:
                shown = at.get((place.to, place.seq))
                if shown is None or (shown.subject, shown.id) != (place.subject, place.id):
                    yield f"lost: {place} was acknowledged, there is {shown}"
            if attempt.key is not None and answers.setdefault(
                attempt.key, attempt.places
            ) != attempt.places:
                yield f"the key {attempt.key} had two answers"
        there_of_it = [subject in there for subject in attempt.subjects]
        if any(there_of_it) != all(there_of_it):
            yield f"torn: a part of {attempt.subjects} is there"
    yield from (f"{subject} is there and was refused or never sent" for subject in there - may_be)


def _doubled(history: History, inboxes: dict[str, list[Shown]]) -> Iterator[str]:
    counts = Counter((shown.subject, to) for to, messages in inboxes.items() for shown in messages)
    yield from (f"doubled: {subject} to {to}, {n} times"
                for (subject, to), n in counts.items() if n > 1)
    ids = Counter(message_id for message_id, _ in {
        (shown.id, shown.subject) for messages in inboxes.values() for shown in messages})
    yield from (f"the id {each} was given {n} times" for each, n in ids.items() if n > 1)


def _out_of_order(history: History, inboxes: dict[str, list[Shown]], *, late: bool
                  ) -> Iterator[str]:
    sent_as: dict[str, tuple[str, int, int]] = {}
    started: dict[str, float] = {}
    ended: dict[str, float] = {}
    for attempt in history.attempts:
        for place, subject in enumerate(attempt.subjects):
            sent_as[subject] = attempt.sender, attempt.number, place
            started[subject] = min(started.get(subject, attempt.started), attempt.started)
            if attempt.outcome == "ok":
                ended[subject] = min(ended.get(subject, attempt.ended), attempt.ended)
    for to, messages in inboxes.items():
        seqs = [shown.seq for shown in messages]
        if seqs != list(range(1, len(seqs) + 1)):
            yield f"the seqs of {to} are not 1 to {len(seqs)}"
        newest: dict[str, tuple[int, int]] = {}
        for shown in messages:
            if shown.subject in sent_as and (shown.subject in ended or not late):
                sender, *when = sent_as[shown.subject]
                if tuple(when) <= newest.get(sender, (-1, -1)):
                    yield f"out of order: {shown.subject} of {sender} in {to}"
                newest[sender] = when[0], when[1]
        earliest_end = float("inf")
        for shown in reversed(messages):
            if earliest_end < started.get(shown.subject, 0.0):
                yield f"out of order: {shown.subject} in {to} was sent after a later one's answer"
            earliest_end = min(earliest_end, ended.get(shown.subject, float("inf")))


def _badly_followed(history: History, inboxes: dict[str, list[Shown]]) -> Iterator[str]:
    for to, followers in history.followed.items():
        whole = [Place(shown.subject, shown.id, to, shown.seq) for shown in inboxes.get(to, [])]
        for number, places in enumerate(followers):
            if places != whole[: len(places)]:
                wrong = next(n for n, place in enumerate(places)
                             if n >= len(whole) or place != whole[n])
                yield (f"follower {number} of {to} skipped or repeated: place {wrong + 1} was "
                       f"{places[wrong]}")


def _unmarked(history: History, inboxes: dict[str, list[Shown]]) -> Iterator[str]:
    shown_as = {(shown.id, to): shown for to, messages in inboxes.items() for shown in messages}
    for mark in history.marks:
        shown = shown_as.get((mark.id, mark.to))
        if shown is None or not (shown.read if mark.mark == "read" else shown.acked):
            yield f"lost: the {mark.mark} of {mark.id} to {mark.to}"
