"""Reads that several callers share."""

from __future__ import annotations

import asyncio
import gc

import pytest

from coordd.looks import Looks


class Source:
    """Something to look at: what it shows is the number of looks that have begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.gate = asyncio.Event()

    async def look(self) -> int:
        self.begun += 1
        mine = self.begun
        await self.gate.wait()
        self.ended += 1
        if self.ended == 13:
            raise ValueError("the thirteenth")
        return mine


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_those_who_ask_during_a_look_share_the_next_one() -> None:
    looks, source = Looks[int](), Source()
    first = asyncio.ensure_future(looks.ask("a", source.look))
    await settle()
    later = [asyncio.ensure_future(looks.ask("a", source.look)) for _ in range(5)]
    await settle()
    assert source.begun == 1, "one look a key is under way"
    source.gate.set()
    assert await first == 1
    assert await asyncio.gather(*later) == [2] * 5
    assert source.begun == 2


async def test_nobody_is_shown_what_was_looked_at_before_the_call() -> None:
    looks, source = Looks[int](), Source()
    source.gate.set()
    for _ in range(3):
        asked = source.begun
        shown = await looks.ask("a", source.look)
        assert shown > asked

    async def ask(turns: int) -> None:
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        begun = source.begun
        assert await looks.ask("a", source.look) > begun

    await asyncio.gather(*(ask(turns) for turns in range(9)))


async def test_another_key_is_another_look() -> None:
    looks, source = Looks[int](), Source()
    both = [asyncio.ensure_future(looks.ask(key, source.look)) for key in "ab"]
    await settle()
    assert source.begun == 2
    source.gate.set()
    assert sorted(await asyncio.gather(*both)) == [1, 2]


async def test_an_error_is_of_that_look_alone() -> None:
    looks, source = Looks[int](), Source()
    source.ended = 12
    first = asyncio.ensure_future(looks.ask("a", source.look))
    await settle()
    second = asyncio.ensure_future(looks.ask("a", source.look))
    source.gate.set()
    with pytest.raises(ValueError, match="thirteenth"):
        await first
    assert await second == 2
    assert await looks.ask("a", source.look) == 3


async def test_a_caller_who_leaves_ends_no_look() -> None:
    looks, source = Looks[int](), Source()
    first = asyncio.ensure_future(looks.ask("a", source.look))
    await settle()
    second, third = (asyncio.ensure_future(looks.ask("a", source.look)) for _ in range(2))
    await settle()
    first.cancel()
    second.cancel()
    await settle()
    source.gate.set()
    assert await third == 2
    await settle()
    assert await looks.ask("a", source.look) == 3


async def test_a_look_that_fails_after_all_have_left_is_no_defect() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    looks, source = Looks[int](), Source()
    source.ended = 12
    only = asyncio.ensure_future(looks.ask("a", source.look))
    await settle()
    only.cancel()
    await settle()
    source.gate.set()
    await settle()
    gc.collect()
    assert complaints == []
