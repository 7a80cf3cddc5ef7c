"""A way to a server that loses what tests tell it to: answers on their way, or everything."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self
from urllib.parse import urlsplit

_CHUNK = 65_536


class Relay:
    """Listens on a port of 127.0.0.1, a free one where none is given, and passes bytes on to the
    server of `url` and back.

    `loss`: the part of the answers that are lost, each with its connection. `lose(mark)`: as soon
    as a client has sent those bytes, what the server answers to it is lost. `pause`: nothing
    passes, nothing ends, as on a wire that was cut.
    """

    def __init__(self, url: str, seed: int = 0, port: int = 0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._to = parts.hostname, parts.port
        self._path = parts.path
        self._port = port
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._marks: Counter[bytes] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self.loss = 0.0
        self.lost = 0
        """How many answers were."""
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(self._listen())
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"postgresql://127.0.0.1:{port}{self._path}"
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def lose(self, mark: bytes, times: int = 1) -> None:
        """Lose the next answers to what has those bytes in it."""
        self._marks[mark] = times

    def pause(self) -> None:
        """Pass nothing on until `resume`; connections stay and new ones are taken."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def resume(self) -> None:
        """Go on with what was held back."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> asyncio.Server:
        self._flows.set()
        return await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there = None
        doomed = False

        def asked(data: bytes) -> bool:
            nonlocal doomed
            for mark in [mark for mark, times in self._marks.items() if times and mark in data]:
                self._marks[mark] -= 1
                doomed = True
            return True

        def answered(_data: bytes) -> bool:
            if doomed or self._random.random() < self.loss:
                self.lost += 1
                return False
            return True

        try:
            server_reader, there = await asyncio.open_connection(*self._to)
            ways = [asyncio.ensure_future(self._pass(reader, there, asked)),
                    asyncio.ensure_future(self._pass(server_reader, writer, answered))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass
        except asyncio.CancelledError:
            pass  # the relay ends
        finally:
            self._tasks.discard(task)
            for each in (writer, there):
                if each is not None:
                    each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
                    may_pass: Callable[[bytes], bool]) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flows.wait()
                if not may_pass(data):
                    return
                writer.write(data)
                await writer.drain()
