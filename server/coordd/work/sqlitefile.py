"""An SQLite file in a thread of its own, every transaction synced before its caller goes on."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from coordd.store import StoreError, StoreFullError

ROOM_BYTES: Final = 1 << 20
"""With less the disk is called full where SQLite could not write."""

T = TypeVar("T")


class SqliteFile:
    """Made where it is not there. `prepare` is given the open connection, to make the schema.

    Calls raise StoreFullError where the disk has no room, StoreError, and what `prepare` raises.
    """

    def __init__(self, file: Path, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self._file = file
        self._prepare = prepare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=file.name)
        self._opened: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open it; a call after a failure tries again."""
        await self._do(lambda: self._db)

    async def close(self) -> None:
        """Let go of it, and of the thread."""
        def close() -> None:
            if self._opened is not None:
                self._opened.close()

        await self._do(close)
        self._thread.shutdown()

    async def fetch(self, query: str, **parameters: Any) -> list[Any]:
        """The rows of one statement, which may write; `:now` is the time, in seconds since 1970."""
        parameters["now"] = time.time()
        return await self._do(lambda: self._db.execute(query, parameters).fetchall())

    async def whole(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` does, all or nothing."""
        def run() -> T:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._db)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            return result

        return await self._do(run)

    @property
    def _db(self) -> sqlite3.Connection:
        """Opened by the first who needs it, in the thread: on a full disk it has to wait."""
        if self._opened is None:
            self._file.touch(0o600)
            db = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
            try:
                for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                    db.execute(f"PRAGMA {pragma}")
                self._prepare(db)
            except BaseException:
                db.close()
                raise
            self._opened = db
        return self._opened

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            text = f"{self._file}: {error}"
            if self._no_room(getattr(error, "sqlite_errorcode", 0)):
                raise StoreFullError(text) from error
            raise StoreError(text) from error

    def _no_room(self, code: int) -> bool:
        """Whether the disk is full: SQLite says so of some writes only (its result codes)."""
        primary = code & 0xFF
        return primary == sqlite3.SQLITE_FULL or (
            primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
            and shutil.disk_usage(self._file.parent).free < ROOM_BYTES)
