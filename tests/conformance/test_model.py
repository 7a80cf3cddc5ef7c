"""Random lives of a store, each step compared with a model over a list."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from conformance.model import Delivery, Model
from conformance.reads import counted, decoded, events, feed, inbox, search, sent, thread
from coordd.model import PRIORITIES, Message
from coordd.store import Claim, Draft, KeyConflictError, StoreError, StoreSealedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from conformance.engines import Harness
    from coordd.model import Mark, Order, Priority

AGENTS = ("ann", "Bob", "c.c")
WORDS = ("red", "Grün", "ПРИВЕТ", '"q"', "\\", "a\nb", "日本")

TEXT = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # as the API does
agents = st.sampled_from(AGENTS)
texts = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
drafts = st.builds(
    Draft,
    from_agent=agents,
    recipients=st.lists(agents, min_size=1, max_size=3, unique=True).map(tuple),
    subject=texts.map(lambda text: text.replace("\n", " ")),
    body=st.one_of(texts, st.text(TEXT, max_size=60),
                  st.integers(0, 4000).map("x".__mul__)),
    priority=st.sampled_from(PRIORITIES),
    thread_id=st.sampled_from([None, None, "t-1", "t-2"]),
    in_reply_to=st.sampled_from([None, "m"]),
)
claims = st.one_of(st.none(), st.tuples(agents, st.sampled_from("kl"), st.sampled_from("de")))


class Life(RuleBasedStateMachine):
    """A store and its model. Every rule asks both and compares the answers."""

    new_harness: Callable[[Path], Harness]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.harness = type(self).new_harness(Path(self.folder.name))
        self.store = self.run(self.harness.open())
        self.model = Model()
        self.contents: dict[tuple[str, str, int], tuple[list[bytes], int]] = {}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        try:
            self.compare_all()
        finally:
            self.run(self.harness.close())
            self.runner.close()
            self.folder.cleanup()

    def same(self, messages: list[Message], deliveries: list[Delivery]) -> None:
        assert len(messages) == len(deliveries), (messages, deliveries)
        for message, delivery in zip(messages, deliveries, strict=True):
            assert delivery.is_shown_by(message), (message, delivery)

    @rule(batch=st.lists(drafts, min_size=1, max_size=4), used=claims)
    def append(self, batch: list[Draft], used: tuple[str, str, str] | None) -> None:
        claim = Claim(*used, len(batch)) if used else None

        async def append() -> Any:
            return await self.store.append(batch, claim)

        try:
            known = self.model.known(claim)
        except KeyConflictError:
            with pytest.raises(KeyConflictError):
                self.run(append())
            return
        if known is not None:
            assert self.run(append()) == known
        elif self.model.sealed is not None:
            with pytest.raises(StoreSealedError):
                self.run(append())
        else:
            places = self.model.expected(batch)
            receipts = self.run(append())
            assert [receipt.deliveries for receipt in receipts] == places
            self.model.append(batch, receipts, claim)

    @rule(calls=st.lists(st.lists(drafts, min_size=1, max_size=2), min_size=2, max_size=6))
    def append_at_once(self, calls: list[list[Draft]]) -> None:
        async def append() -> Any:
            waiting = [self.store.append(batch) for batch in calls]
            return await asyncio.gather(*waiting, return_exceptions=True)

        for batch, receipts in zip(calls, self.run(append()), strict=True):
            if self.model.sealed is not None:
                assert isinstance(receipts, StoreSealedError)
            else:
                assert [r.deliveries for r in receipts] == self.model.expected(batch)
                self.model.append(batch, receipts, None)

    @rule(pick=st.integers(0, 1000), mark=st.sampled_from(["read", "acked", "deleted"]),
          agent=st.one_of(st.none(), agents))
    def mark(self, pick: int, mark: Mark, agent: str | None) -> None:
        if not self.model.deliveries:
            return
        delivery = self.model.deliveries[pick % len(self.model.deliveries)]
        owner = agent or delivery.to
        asked = self.store.mark(delivery.id, owner, mark)
        if self.model.sealed is not None:
            # A repeat may be answered, a change is refused.
            try:
                self.run(asked)
            except StoreSealedError:
                return
            before = len(self.model.events)
            self.model.mark(delivery.id, owner, mark)
            assert len(self.model.events) == before, "a sealed store has changed"
            return
        answer = self.run(asked)
        expected = self.model.mark(delivery.id, owner, mark)
        if expected is None:
            assert answer is None
        elif expected.deleted:
            assert answer == msgspec.Raw(b"{}")
        else:
            assert expected.is_shown_by(msgspec.json.decode(answer, type=Message))

    @rule(agent=agents, order=st.sampled_from(["newest", "oldest"]), after=st.integers(0, 8),
          unread=st.booleans(), priority=st.sampled_from([None, *PRIORITIES]),
          limit=st.integers(1, 5))
    def read_inbox(self, agent: str, order: Order, after: int, unread: bool,
                   priority: Priority | None, limit: int) -> None:
        found = self.run(inbox(self.store, agent, limit=limit, order=order, after=after,
                               unread=unread, min_priority=priority))
        self.same(found, self.model.inbox(
            agent, order=order, after=after, unread=unread, min_priority=priority))

    @rule(query=st.lists(st.sampled_from(["RED", "grün", "привет", "q", "\\", "b", "n"]),
                         min_size=1, max_size=2).map(" ".join),
          party=st.one_of(st.none(), agents), limit=st.integers(1, 5))
    def search(self, query: str, party: str | None, limit: int) -> None:
        found = self.run(search(self.store, query, party=party, limit=limit))
        self.same_sets(found, self.model.search(query, party))

    @rule(name=st.sampled_from(["t-1", "t-2"]), party=st.one_of(st.none(), agents),
          limit=st.integers(1, 5))
    def read_thread(self, name: str, party: str | None, limit: int) -> None:
        found = self.run(thread(self.store, name, party=party, limit=limit))
        self.same_sets(found, self.model.thread(name, party))

    def same_sets(self, messages: list[Message], deliveries: list[Delivery]) -> None:
        """The same messages in the same order; deliveries of one message in any."""
        assert [m.id for m in messages] == [d.id for d in deliveries]
        key = {(d.id, d.to): d for d in deliveries}
        assert len(key) == len(messages)
        for message in messages:
            assert key[message.id, message.to_agent].is_shown_by(message)

    @rule(name=agents, description=texts)
    def put_agent(self, name: str, description: str) -> None:
        asked = self.store.put_agent(name, description)
        if self.model.sealed is not None:
            with pytest.raises(StoreSealedError):
                self.run(asked)
        else:
            self.run(asked)
            self.model.agents[name] = description

    @rule(epoch=st.integers(1, 5), unseal=st.booleans())
    def seal(self, epoch: int, unseal: bool) -> None:
        asked: Any = self.store.unseal(epoch) if unseal else self.store.seal(epoch)
        if epoch < self.model.epoch:
            with pytest.raises(StoreError):
                self.run(asked)
        else:
            self.run(asked)
            self.model.epoch = epoch
            self.model.sealed = None if unseal else epoch

    @rule()
    def unseal(self) -> None:
        if self.model.sealed is not None:
            self.run(self.store.unseal(self.model.epoch))
            self.model.sealed = None

    @rule()
    def reopen(self) -> None:
        self.store = self.run(self.harness.reopen(self.store))

    @rule()
    def crash(self) -> None:
        self.store = self.run(self.harness.crash(self.store))

    @rule()
    def upkeep(self) -> None:
        self.run(self.harness.upkeep(self.store))

    @rule()
    def move(self) -> None:
        """Go on in another store, made from the feed."""
        target = self.run(self.harness.open())
        changes = self.run(feed(self.store, 3))
        if changes:
            self.run(target.import_(changes))
        if self.model.epoch:
            self.run(target.unseal(self.model.epoch))
        self.store, self.model.sealed = target, None

    @invariant()
    def a_version_is_one_content(self) -> None:
        for agent in AGENTS:
            page = self.run(self.store.inbox(agent, limit=1000))
            assert self.run(self.store.version(agent)) == page.version
            content = [bytes(message) for message in page.messages], page.last_seq
            if page.version:
                known = self.contents.setdefault(
                    (self.store.generation, agent, page.version), content)
                assert known == content

    @rule()
    def compare_all(self) -> None:
        for agent in AGENTS:
            self.same(self.run(inbox(self.store, agent)), self.model.inbox(
                agent, order="oldest", after=0, unread=False, min_priority=None))
            assert self.run(self.store.inbox(agent, limit=1)).last_seq == (
                self.model.last_seq(agent))
            self.same_sets(self.run(sent(self.store, agent)), [
                d for d in reversed(self.model.shown()) if d.draft.from_agent == agent])
        for message_id in {d.id for d in self.model.deliveries}:
            self.same(decoded(self.run(self.store.message(message_id))), [
                d for d in self.model.shown() if d.id == message_id])
        log = self.run(events(self.store, limit=3))
        assert [(e.type, e.message_id, e.to_agent) for e in log] == self.model.events
        stats = counted(self.run(self.store.stats()))
        shown = self.model.shown()
        assert stats["messages"] == len(shown)
        assert stats["unread"] == sum(d.state == "unread" for d in shown)
        for agent in AGENTS:
            assert stats["agents"].get(agent, (0, 0, 0)) == (
                sum(d.draft.from_agent == agent for d in self.model.deliveries),
                sum(d.to == agent for d in self.model.deliveries),
                sum(d.to == agent and d.state == "unread" for d in shown),
            )
        entries = self.run(self.store.agents())
        assert {entry.name: entry.description for entry in entries} == self.model.agents
        assert self.run(self.store.sealed()) == self.model.sealed


def test_a_random_life_is_that_of_the_model(new_harness: Callable[[Path], Harness]) -> None:
    life = type("Life", (Life,), {"new_harness": staticmethod(new_harness)})
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck), database=None,
        ),
    )
