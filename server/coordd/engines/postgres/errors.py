"""What psycopg raises, in the port's words."""

from __future__ import annotations

import psycopg
from psycopg import errors
from psycopg_pool import PoolTimeout, TooManyRequests

from coordd.store import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreSealedError,
    StoreUnavailableError,
)

SEALED = ("the store is sealed: its messages are being moved to another store; "
          "try again, the address stays the same")


class LostError(Exception):
    """The connection ended, or nothing came in time: whether the statement was done is unknown."""


def is_lost(error: BaseException) -> bool:
    """Whether `error` leaves it open if the statement was done."""
    if isinstance(error, (errors.LockNotAvailable, errors.DiskFull, errors.TooManyConnections)):
        return False
    return isinstance(error, (LostError, psycopg.OperationalError, psycopg.InterfaceError, OSError,
                              TimeoutError, errors.ReadOnlySqlTransaction, errors.InternalError_))


def translated(error: BaseException) -> StoreError:
    """The port's error for one after which surely nothing was stored, or for a read."""
    match error:
        case StoreError():
            return error
        case errors.LockNotAvailable():
            return StoreBusyError("the database's lock of writes was held by another server")
        case PoolTimeout() | TooManyRequests() | errors.TooManyConnections():
            return StoreUnavailableError("no connection to the database was free in time")
        case errors.DiskFull():
            return StoreFullError("there is no room on the database's disk")
        case errors.DataCorrupted() | errors.IndexCorrupted():
            return StoreDamagedError(str(error).strip())
        case psycopg.Error() if error.sqlstate == "CD001":
            return StoreSealedError(SEALED)
        case psycopg.Error() if error.sqlstate == "CD002":
            return StoreError(error.diag.message_primary or str(error))
        case LostError() | TimeoutError():
            return StoreUnavailableError("the database does not answer")
        case _ if is_lost(error):
            return StoreUnavailableError(f"the database can't be reached: {_line(error)}")
    return StoreError(f"the database refused a statement: {_line(error)}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
