"""LISTEN, on a connection of its own: a pooler in transaction mode has none to spare for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from coordd.engines.postgres.database import connect

_PING_S: Final = 5.0


class PostgresPush:
    """The notifications of the flushes. `parameters`: of a direct connection."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._parameters = parameters

    async def listen(self, heard: Callable[[str], None], ready: Callable[[], None]) -> None:
        """See `coordd.push.Source`."""
        async with await connect(self._parameters) as connection:
            await connection.execute("LISTEN coordd")
            ready()
            while True:
                async for notice in connection.notifies(timeout=_PING_S):
                    heard(notice.payload)
                # A server that is gone without a word is found out.
                async with asyncio.timeout(_PING_S):
                    await connection.execute("SELECT 1")
