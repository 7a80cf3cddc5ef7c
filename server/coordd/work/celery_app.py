"""The Celery app of a worker: `COORDD_SETTINGS=FILE celery -A coordd.work.celery_app worker`.

It runs what a server would run itself: the same functions, on the same rows of the store. Threads
of Celery hand tasks to one event loop, which has the connections to the database.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from celery.signals import setup_logging, worker_ready, worker_shutdown, worker_shutting_down
from celery.worker.consumer import Consumer as CeleryConsumer

from coordd import settings as all_settings
from coordd.notify import notify
from coordd.settings import Settings, SettingsError
from coordd.store import StoreError
from coordd.work.broker import CALL, FOLD, make_app
from coordd.work.calls import Calls
from coordd.work.ledger import Ledger
from coordd.work.model import TaskId
from coordd.work.opening import open_work_store
from coordd.work.store import WorkStore

FILE: Final = "COORDD_SETTINGS"
STORE_TRIES: Final = 15
STORE_PAUSE_S: Final = 2.0
FOLD_S: Final = 5.0

log = logging.getLogger("coordd.work")
T = TypeVar("T")


def _settings() -> Settings:
    environ = dict(os.environ)
    file = environ.pop(FILE, None)
    try:
        wanted = all_settings.load(Path(file) if file else None, environ)
    except SettingsError as error:
        _end(str(error))
    if wanted.queue != "rabbitmq":
        _end(f'{file}: queue = "{wanted.queue}" has no workers: set "rabbitmq"')
    return wanted


def _end(reason: str) -> NoReturn:
    sys.stderr.write(f"coordd.work: {reason}\n")
    raise SystemExit(2)


class Loop:
    """An event loop in a thread, with the store open in it."""

    def __init__(self, wanted: Settings) -> None:
        self._wanted = wanted
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store: WorkStore
        self._calls: Calls

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it answers; from any other thread."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def call(self, task: TaskId) -> None:
        """Do a task; what the store can't be told now is told when it is back."""
        store, calls = await self._opened()
        if await calls.run(task):
            await store.done([task])

    async def fold(self) -> None:
        """Keep the ledger up for some seconds."""
        store, _ = await self._opened()
        if self._wanted.provenance:
            await Ledger(store).extend(time.monotonic() + FOLD_S)

    async def _opened(self) -> tuple[WorkStore, Calls]:
        if not hasattr(self, "_calls"):
            store = open_work_store(self._wanted, None)
            await store.open()
            # Another one may have been as quick.
            if hasattr(self, "_calls"):
                await store.close()
            else:
                self._store, self._calls = store, Calls(self._wanted, store)
        return self._store, self._calls

    def close(self) -> None:
        """Let go of the store."""
        if hasattr(self, "_store"):
            self.run(self._store.close())


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Celery's, with nothing but the queue: no talk among workers, no delayed delivery. So a
    worker needs rights on `coordd.work` alone.
    """

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[misc]
        """The steps of a start."""

        default_steps = tuple(step for step in CeleryConsumer.Blueprint.default_steps
                              if not step.endswith(":DelayedDelivery"))

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options |= {"without_mingle": True, "without_gossip": True, "without_heartbeat": True}
        super().__init__(*arguments, **options)


wanted: Final = _settings()
app: Final = make_app(wanted)
app.conf.worker_consumer = "coordd.work.celery_app:Consumer"
_loop: Final = Loop(wanted)


def _stored(work: Any, *arguments: Any) -> None:
    """A store that is away is waited for; then its row brings the task again."""
    for left in range(STORE_TRIES - 1, -1, -1):
        try:
            _loop.run(work(*arguments))
        except StoreError as error:
            log.warning("a task waits for the store: %s", error)
            if left:
                time.sleep(STORE_PAUSE_S)
        else:
            return


@app.task(name=CALL)  # type: ignore[untyped-decorator]
def call(hook: str, event: str) -> None:
    """Tell that hook of that event, unless it was done."""
    _stored(_loop.call, TaskId(hook, event))


@app.task(name=FOLD)  # type: ignore[untyped-decorator]
def fold() -> None:
    """Keep the chain and the counts up."""
    _stored(_loop.fold)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log(**_: Any) -> None:
    logging.basicConfig(stream=sys.stderr, level=wanted.log_level.upper(),
                        format="%(asctime)s %(levelname)s %(message)s")
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _ready(**_: Any) -> None:
    notify("READY=1")


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stopping(**_: Any) -> None:
    notify("STOPPING=1")


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _stopped(**_: Any) -> None:
    _loop.close()
