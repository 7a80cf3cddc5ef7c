"""The audit log of a span of time: since <= time < until, whatever the texts of the times say."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from conformance.reads import events, send
from coordd.model import Core, parse_time
from coordd.store import Change

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance.engines import Harness
    from coordd.model import Event, Order
    from coordd.store import Store

DAY = datetime(2026, 3, 1, tzinfo=UTC)
LONG = 300
"""Messages that are sent and read: more events than an engine looks at in one piece."""


def sent(number: int, at: str, to: Sequence[str] = ("bob",), by: str = "alice") -> Change:
    known = f"old-{number}"
    core = Core(known, by, f"s{number}", "body", "normal", known, None, at, None)
    return Change("sent", at, message=core, deliveries=[(name, 0) for name in to])


async def story(store: Store) -> None:
    """Every hour from `DAY` on a message, in texts of five kinds."""
    await store.import_([
        sent(0, "2026-03-01T00:00:00+0000"),
        sent(1, "2026-03-01T03:00:00.000000+02:00"),
        sent(2, "2026-02-28T20:00:00-06:00", ["bob", "carol"], "dave"),
        sent(3, "2026-03-01T03:00:00.000000Z"),
        sent(4, "2026-03-01T04:00:00.5Z", ["carol"], "bob"),
        Change("read", "2026-03-01T05:00:00Z", id="old-0", agent="bob"),
        Change("acked", "2026-03-01T06:00:00+0000", id="old-2", agent="carol"),
    ])


def hour(hours: float, offset: float = 0) -> datetime:
    """So long after `DAY`, written with an offset (hours) from UTC."""
    moment = DAY + timedelta(hours=hours)
    return moment.astimezone(timezone(timedelta(hours=offset)))


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_bounds_and_filters(store: Store, order: Order, limit: int) -> None:
    await story(store)

    async def seqs(**which: object) -> list[int]:
        found = await events(store, limit=limit, order=order, **which)  # type: ignore[arg-type]
        return [event.seq for event in found]

    def expected(*places: int) -> list[int]:
        return sorted(places, reverse=order == "newest")

    assert await seqs() == expected(*range(1, 9))
    assert await seqs(since=hour(1)) == expected(*range(2, 9))
    assert await seqs(since=hour(1, 9)) == expected(*range(2, 9))
    assert await seqs(since=hour(1) + timedelta(microseconds=1)) == expected(*range(3, 9))
    assert await seqs(until=hour(2)) == expected(1, 2)
    assert await seqs(until=hour(2, -3.5)) == expected(1, 2)
    assert await seqs(until=hour(2) + timedelta(microseconds=1)) == expected(1, 2, 3, 4)
    assert await seqs(since=hour(4.5 / 3600), until=hour(4)) == expected(2, 3, 4, 5)
    assert await seqs(since=hour(4), until=hour(4) + timedelta(seconds=0.5)) == []
    assert await seqs(since=hour(4) + timedelta(seconds=0.5), until=hour(5)) == expected(6)
    assert await seqs(since=hour(2), until=hour(2)) == []
    assert await seqs(since=hour(3), until=hour(2)) == []
    assert await seqs(since=hour(6)) == expected(8)
    assert await seqs(since=hour(7)) == []
    assert await seqs(until=DAY) == []
    assert await seqs(since=datetime.min.replace(tzinfo=UTC)) == expected(*range(1, 9))
    assert await seqs(until=datetime.max.replace(tzinfo=UTC)) == expected(*range(1, 9))

    assert await seqs(since=hour(2), type="SENT") == expected(3, 4, 5, 6)
    assert await seqs(since=hour(2), until=hour(6), type="ACKED") == []
    assert await seqs(since=hour(1), until=hour(6), agent="bob") == expected(2, 3, 5, 6, 7)
    assert await seqs(since=hour(1), until=hour(5), agent="carol") == expected(4, 6)
    assert await seqs(since=hour(1), agent="dave", type="ACKED") == expected(8)
    assert await seqs(since=hour(1), agent="nobody") == []
    assert await seqs(since=hour(1), after=4, agent="bob") == expected(5, 6, 7)


@pytest.mark.parametrize("order", ["oldest", "newest"])
async def test_a_cursor_goes_on_in_the_span(store: Store, order: Order) -> None:
    await story(store)
    span = {"since": hour(1), "until": hour(5)}
    first = await store.events(limit=2, order=order, **span)  # type: ignore[arg-type]
    assert first.next_cursor is not None
    await send(store)
    rest = await store.events(limit=3, cursor=first.next_cursor, **span)  # type: ignore[arg-type]
    assert [event.seq for event in (*first.events, *rest.events)] == (
        [2, 3, 4, 5, 6] if order == "oldest" else [6, 5, 4, 3, 2])
    assert (rest.next_cursor, rest.last_seq) == (None, 9)
    nothing = await store.events(limit=1, since=hour(90_000))
    assert (nothing.events, nothing.next_cursor, nothing.last_seq) == ([], None, 9)


async def test_what_the_store_stamps_itself(engine: Harness, store: Store) -> None:
    await story(store)
    receipt = await send(store, ["bob", "carol"])
    engine.clock.advance(hours=1)
    await store.mark(receipt.id, "bob", "read")
    at = parse_time(receipt.created_at)
    later = at + timedelta(minutes=30)
    assert [e.type for e in await events(store, since=at)] == ["SENT", "SENT", "READ"]
    assert [e.type for e in await events(store, since=at, until=later)] == ["SENT", "SENT"]
    assert [e.type for e in await events(store, since=later)] == ["READ"]
    assert await events(store, since=at + timedelta(microseconds=1), until=later) == []
    # What comes is seen, however often the log's end was looked at before.
    last = at + timedelta(hours=2)
    assert await events(store, since=last) == []
    engine.clock.advance(hours=2)
    await send(store, "dave", by="bob")
    assert [e.type for e in await events(store, since=last)] == ["SENT"]
    assert [e.type for e in await events(store, since=later, order="newest")] == ["SENT", "READ"]


async def test_a_long_log_in_no_order(engine: Harness, store: Store) -> None:
    """Every span is what a look at each event finds; imports go up and down in time."""
    changes = []
    for number in range(LONG):
        at = DAY + timedelta(days=number * 7 % 31 if number < 200 else number % 90, minutes=number)
        to = ["bob", "carol"] if number % 10 == 0 else ["bob" if number % 3 else "carol"]
        changes.append(sent(number, at.isoformat(), to, ("alice", "dave")[number % 2]))
        read = (at + timedelta(hours=number % 50)).isoformat(timespec="seconds")
        changes.append(Change("read", read, id=f"old-{number}", agent=to[-1]))
        if number == 150:
            await store.import_(changes)
            await store.put_agent("bob", "builds")
            changes = []
    await store.import_(changes)
    await send(store)
    log = await events(store)
    assert len(log) == 2 * LONG + LONG // 10 + 1
    times = {event.seq: parse_time(event.timestamp) for event in log}

    def wanted(event: Event, agent: str | None, kind: str | None) -> bool:
        return (agent in (None, event.from_agent, event.to_agent) and kind in (None, event.type))

    spans = [(DAY + timedelta(days=first), DAY + timedelta(days=first + days))
             for first in (-1, 3, 17, 60) for days in (1, 20, 100)]
    for reopened in (False, True):
        again = await engine.reopen(store) if reopened else store
        for (since, until), agent, kind in itertools.product(
                spans, (None, "carol", "dave"), (None, "READ")):
            expected = [event for event in log if since <= times[event.seq] < until
                        and wanted(event, agent, kind)]
            assert await events(again, since=since, until=until, agent=agent, type=kind,
                                limit=100) == expected
        some = await again.events(limit=7, order="newest", since=spans[4][0], until=spans[4][1])
        assert some.events == [event for event in reversed(log)
                               if spans[4][0] <= times[event.seq] < spans[4][1]][:7]
