from __future__ import annotations

import asyncio

from coordd.hub import Hub


async def test_a_notification_before_the_wait_ends_it_at_once() -> None:
    hub = Hub()
    with hub.subscribe("code") as subscription:
        hub.notify("code", 1)
        hub.notify("code", 2)
        assert await subscription.wait(60)
        assert not await subscription.wait(0.01)


async def test_only_those_of_the_inbox_wake() -> None:
    hub = Hub()
    with hub.subscribe("code") as one, hub.subscribe("code") as two, hub.subscribe("chat") as three:
        waits = [asyncio.create_task(s.wait(0.2)) for s in (one, two, three)]
        await asyncio.sleep(0)
        hub.notify("code", 1)
        assert await asyncio.gather(*waits) == [True, True, False]


async def test_nobody_waits_when_all_have_left() -> None:
    hub = Hub()
    with hub.subscribe("code"), hub.subscribe("code"):
        assert hub.subscriptions == 2
    assert hub.subscriptions == 0
    hub.notify("code", 1)


async def test_closing_ends_all_waiting_now_and_later() -> None:
    hub = Hub()
    with hub.subscribe("code") as subscription:
        wait = asyncio.create_task(subscription.wait(60))
        await asyncio.sleep(0)
        hub.close()
        assert await wait
    with hub.subscribe("code") as late:
        assert await late.wait(60)
