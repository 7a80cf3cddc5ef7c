"""Whoever follows skips nothing, though a transaction may stay open while others want to commit.

A write holds the lock of the store's row from before it takes its numbers to its commit; so what
commits later has higher ones. A test holds such a transaction open itself.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

import pytest

from coordd.engines.postgres import arrays
from coordd.engines.postgres.sending import SEND, Flush, Send
from coordd.store import Draft
from faults.history import INBOXES, Attempt, Place
from faults.siteload import Load, await_, whole_feed
from faults.twoservers import ADMIN, Site, site_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.postgres import Databases

pytestmark = pytest.mark.timeout(400)

REFUSED_S = 10.0
"""The lock is waited for 6 s; who waits behind such a flush is refused with it."""
HELD_S = 0.5
LOOSE_SEND = """
DECLARE
  v_base bigint := nextval('coordd.loose');
BEGIN
  o_at := coordd.time_text(clock_timestamp());
  o_position := v_base;
  o_last_seqs := (SELECT string_agg(v_base::text, ',') FROM unnest(p_agents));
  INSERT INTO coordd.messages (pos, id, from_agent, subject, body, created_at, deliveries, priority)
  SELECT v_base + number, id, sender, subject, body, o_at, 1, priority
    FROM unnest(p_ids, p_senders, p_subjects, p_bodies, p_priorities)
         WITH ORDINALITY AS given (id, sender, subject, body, priority, number);
  INSERT INTO coordd.deliveries (pos, message, seq, priority, to_agent)
  SELECT v_base + number, v_base + number, v_base + nth, priority, name
    FROM unnest(p_to, p_nths, p_priorities)
         WITH ORDINALITY AS given (name, nth, priority, number);
END $function$"""
"""Numbers out of a sequence, as a store without a lock would take them."""


class Held:
    """A send of one message to each inbox by a connection of our own, not committed yet."""

    number = 0

    def __init__(self, site: Site, load: Load) -> None:
        Held.number += 1
        self._history = load.history
        self._subject = f"held/{Held.number}"
        self._began = time.monotonic()
        self._connection = site.machine.connect(
            site.machine.direct_url(site.database), autocommit=False)
        arrays.register(self._connection)
        # A future has a loop, which nobody runs.
        loop = asyncio.new_event_loop()
        flush = Flush([Send([Draft("holder", (to,), self._subject, "held") for to in INBOXES], None,
                            loop.create_future())], 0, None)
        loop.close()
        row = self._connection.execute(SEND, flush.parameters).fetchone()
        assert row is not None
        at, _, last_seqs, _ = row
        self._places = tuple(
            Place(self._subject, receipt.id, to, seq)
            for receipt in flush.receipts(at, last_seqs)[0] for to, seq in receipt.deliveries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def commit(self) -> None:
        """Now it is as if it had been answered."""
        self._connection.commit()
        self._end("ok")

    def roll_back(self) -> None:
        """Nothing of it is ever seen."""
        self._connection.rollback()
        self._end("failed")

    def _end(self, outcome: str) -> None:
        self._history.attempts.append(Attempt(
            "holder", Held.number, None, (self._subject,), self._began, time.monotonic(),
            outcome, self._places if outcome == "ok" else ()))  # type: ignore[arg-type]


@pytest.fixture
def site(databases: Databases, tmp_path: Path) -> Iterator[Site]:
    with site_of(databases, tmp_path) as site:
        site.start()
        yield site


def seen(load: Load) -> tuple[list[int], int]:
    """How much the followers have been shown, of inboxes and of the feed."""
    return [len(follower.places) for follower in load.followers], len(load.feeder.changes)


def caught_up(load: Load) -> Callable[[], bool]:
    """Whether followers have seen what was acknowledged when this was called."""
    last = dict(load.history.answered)
    return lambda: all(follower.after >= last[follower.to] for follower in load.followers)


def test_who_wants_to_commit_waits_and_is_refused_at_last(site: Site) -> None:
    load = Load(site, 7)
    load.start()
    load.run()
    for end in (Held.commit, Held.roll_back):
        for sender in load.senders:
            sender.refusals.clear()
        with Held(site, load) as held:
            began = time.monotonic()
            await_(caught_up(load), load.failed)
            # Nothing more can be committed, so that this is the whole of it.
            fed = len(whole_feed(site.addresses[0], ADMIN))
            await_(lambda fed=fed: len(load.feeder.changes) >= fed, load.failed)
            stored, followed = load.acknowledged, seen(load)
            await_(lambda: all(sender.refusals for sender in load.senders), load.failed)
            assert time.monotonic() - began < REFUSED_S
            assert {kind for sender in load.senders for _, kind in sender.refusals} == {
                "/problems/overloaded"}
            assert (load.acknowledged, seen(load)) == (stored, followed)
            end(held)
        load.resumed()
        load.run(20)
    assert load.stop() == []


def test_what_waits_for_a_short_while_is_stored_behind_it(site: Site) -> None:
    load = Load(site, 8)
    load.start()
    for end in (Held.commit, Held.roll_back, Held.commit):
        load.run(20)
        with Held(site, load) as held:
            time.sleep(HELD_S)
            end(held)
    load.resumed()
    assert load.stop() == []
    assert not any(sender.refusals for sender in load.senders)


@pytest.mark.parametrize("loose", [True, False])
def test_without_the_lock_followers_skip(site: Site, *, loose: bool) -> None:
    """The same acts on the real schema, and on one that takes its numbers from a sequence."""
    if loose:
        with site.machine.connect(site.machine.direct_url(site.database)) as connection:
            row = connection.execute(
                "SELECT pg_get_functiondef('coordd.send_1'::regproc)").fetchone()
            assert row is not None
            head, mark, _ = row[0].partition("AS $function$")
            assert mark
            connection.execute("CREATE SEQUENCE coordd.loose INCREMENT 10000")
            connection.execute(head + mark + LOOSE_SEND)
            for to in INBOXES:
                connection.execute("INSERT INTO coordd.inboxes (agent) VALUES (%s)", (to,))
    load = Load(site, 9)
    # Claims, and fan-out, the doctored function has not; nor can readers tell what to expect.
    load.senders = [sender for sender in load.senders if not sender.keys]
    for sender in load.senders:
        sender.fan_out = False
    load.clients = [*load.senders, *load.followers]
    load.start()
    load.run()
    with Held(site, load) as held:
        if loose:
            load.run(40)
            await_(caught_up(load), load.failed)
        else:
            time.sleep(HELD_S)
        held.commit()
    load.run(20)
    found = load.stop()
    skipped = [problem for problem in found if "skipped" in problem]
    if loose:
        assert len(skipped) == len(load.followers), found
    else:
        assert found == []
