"""The work of one server, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from coordd.settings import Settings, SettingsError
from coordd.store import Store, StoreError
from coordd.work.dispatcher import Dispatcher, Queue
from coordd.work.model import Totals
from coordd.work.store import WorkStore

LOOK_EVERY_S: Final = 5.0
log = logging.getLogger("coordd.work")


def open_work_store(settings: Settings, engine: Any) -> WorkStore:
    """Where the work of a store is kept, not opened. `engine`: the store itself, of files."""
    if settings.engine == "postgres":
        from coordd.engines.postgres.address import parameters_of
        from coordd.work.postgres import PostgresWork

        assert settings.postgres_url is not None  # noqa: S101 - the settings were checked
        return PostgresWork(parameters_of(settings, settings.postgres_url),
                            settings.postgres_wait_s)
    from coordd.work.sqlite import FilesWork

    assert settings.data is not None  # noqa: S101 - the settings were checked
    return FilesWork(settings.data, engine)


class Work:
    """Hooks, dispatcher and queue of a server. Raises SettingsError for a file that will not do."""

    def __init__(self, settings: Settings, store: Store, server: str) -> None:
        self.store = open_work_store(settings, getattr(store, "inner", store))
        self.queue = self._queue(settings)
        self.queue_name = settings.queue
        self._messages = store
        self.dispatcher = Dispatcher(self.store, self.queue, server,
                                     provenance=settings.provenance)
        self._looking: asyncio.Task[None] | None = None
        self._totals: Totals | None = None

    def _queue(self, settings: Settings) -> Queue:
        if settings.queue == "rabbitmq":
            try:
                from coordd.work.broker import RabbitQueue
            except ModuleNotFoundError as error:
                raise SettingsError(f'queue = "rabbitmq" needs {error.name}, which is not '
                                    "installed: pip install 'coordctl[server,work]'") from error
            return RabbitQueue(settings)
        from coordd.work.pool import InProcess

        return InProcess(settings, self.store, lambda: self.dispatcher.wake())

    async def open(self) -> None:
        """After the messages' store. Raises StoreError, OSError."""
        await self.store.open()
        await self.queue.open()
        self._messages.on_commit(self.dispatcher.wake)
        self.dispatcher.start()
        self._looking = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Before the messages' store."""
        if self._looking is not None:
            self._looking.cancel()
            await self.dispatcher.stop()
            await self.queue.close()
            await self.dispatcher.release()
        await self.store.close()

    async def _look(self) -> None:
        """For the metrics, which can't wait for an answer."""
        while True:
            with suppress(StoreError):
                self._totals = await self.store.totals()
            await asyncio.sleep(LOOK_EVERY_S)

    def gauges(self) -> Iterable[tuple[str, str, float]]:
        """For the metrics: (name, help, number)."""
        if (totals := self._totals) is not None:
            yield "coordd_work_lag", "Changes that are not dispatched to hooks yet.", totals.lag
            yield ("coordd_work_depth", "Tasks of hooks that wait, for a worker or another try.",
                   totals.waiting + totals.queued)
            yield "coordd_work_dead", "Dead letters.", totals.dead
            if self.dispatcher.provenance:
                yield ("coordd_work_chain_lag", "Changes that are not in the chain yet.",
                       totals.last - totals.folded)

    def counters(self) -> Iterable[tuple[str, str, float]]:
        """As `gauges`. Of the site, not of this server, so that workers' are among them."""
        if (totals := self._totals) is not None:
            yield "coordd_work_done", "Calls of hooks that succeeded.", totals.done
            yield "coordd_work_failed", "Calls of hooks that failed.", totals.failed
