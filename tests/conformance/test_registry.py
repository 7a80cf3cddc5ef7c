"""Agents, groups and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from coordd.model import Token, parse_time

if TYPE_CHECKING:
    from conformance.engines import Harness
    from coordd.store import Store


async def test_an_agent_is_written_and_written_again(store: Store) -> None:
    first = await store.put_agent("bob", "builds")
    assert (first.name, first.description, first.created_at) == ("bob", "builds", first.updated_at)
    assert parse_time(first.created_at)
    second = await store.put_agent("bob", "tests\nand ships 🚢")
    assert (second.description, second.created_at) == ("tests\nand ships 🚢", first.created_at)
    assert parse_time(second.updated_at) >= parse_time(first.updated_at)
    assert await store.agent("bob") == second
    assert await store.agent("carol") is None


async def test_agents_are_listed_by_name(store: Store) -> None:
    assert await store.agents() == []
    for name in ("carol", "Bob", "alice", "0"):
        await store.put_agent(name, name)
    assert [agent.name for agent in await store.agents()] == ["0", "Bob", "alice", "carol"]


async def test_a_group_is_replaced(store: Store) -> None:
    first = await store.put_group("ops", ["bob", "alice"])
    assert (first.name, first.members) == ("ops", ["bob", "alice"])
    second = await store.put_group("ops", ["carol"])
    assert (second.members, second.created_at) == (["carol"], first.created_at)
    empty = await store.put_group("none", [])
    assert await store.group("ops") == second
    assert await store.groups() == [empty, second]
    assert await store.group("bob") is None
    assert await store.agent("ops") is None


async def test_tokens_are_listed_in_the_order_made(store: Store) -> None:
    assert await store.tokens() == []
    tokens = [
        Token(keyid, agent, f"{number:064x}", f"2026-01-0{number}T00:00:00Z")
        for number, (keyid, agent) in enumerate([("zz", "bob"), ("aa", "carol"), ("mm", "bob")], 1)
    ]
    for token in tokens:
        await store.put_token(token)
    assert await store.tokens() == tokens
    tokens[0] = msgspec.structs.replace(tokens[0], revoked_at="2026-02-01T00:00:00Z")
    await store.put_token(tokens[0])
    assert await store.tokens() == tokens
    tokens.append(Token("op", "operator", "ff" * 32, "2026-03-01T00:00:00Z", admin=True))
    await store.put_token(tokens[3])
    assert await store.tokens() == tokens


@pytest.mark.parametrize("how", ["reopen", "crash"])
async def test_the_registry_survives_a_restart(engine: Harness, store: Store, how: str) -> None:
    await store.put_agent("bob", "builds")
    await store.put_agent("bob", "tests")
    await store.put_group("ops", ["bob"])
    await store.put_group("none", [])
    await store.put_token(Token("k", "bob", "00" * 32, "2026-01-01T00:00:00Z"))
    before = (await store.agents(), await store.groups(), await store.tokens())
    store = await getattr(engine, how)(store)
    assert (await store.agents(), await store.groups(), await store.tokens()) == before
    written = await store.put_agent("bob", "rests")
    assert written.created_at == before[0][0].created_at
