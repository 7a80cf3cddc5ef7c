"""The first connection: whether the database can be reached and, where it can't, why.

A pool tells only that no connection came in time, so one is made by itself before.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from coordd.engines.postgres.database import Connection, connect
from coordd.store import StoreUnavailableError

REACH_LIMIT_S: Final = 10.0
_PAUSE_S: Final = 0.1
_NO_SERVER: Final = ("start Postgres, or its pgbouncer, there, or correct postgres_url of the "
                     "settings")
_NO_DATABASE: Final = ("create it there (createdb {name}), then its schema (python -m "
                       "coordd.schema upgrade --settings FILE), or correct postgres_url of the "
                       "settings")
_NO_LOGIN: Final = ("correct postgres_user and postgres_password_file of the settings, or the "
                    "server's own list of who may connect")
# Postgres has no code for who is refused a connection. A refusal in another language than English
# is taken for a server that is not ready: it is tried again, and told with the advice for that.
_REFUSALS: Final = (
    (re.compile(r"database .* does not exist|no such database"), _NO_DATABASE),
    (re.compile(r"password|authentication|pg_hba|role .* does not exist"), _NO_LOGIN),
)
_WAYS: Final = (
    (re.compile(r"resolve host"), "correct the host in postgres_url of the settings"),
    (re.compile(r"SSL|certificate"), "correct postgres_ca_file, or the server's certificate"),
)
_BEFORE: Final = re.compile(r"(connection failed: )?(connection to server [^\n]*? failed: )?"
                            r"(FATAL: +)?")


async def reached(parameters: dict[str, Any]) -> Connection:
    """A connection of one's own. A server that is not there yet is waited for, a refusal is final.

    Raises StoreUnavailableError, which says where, why, and what to do; never the password.
    """
    deadline = time.monotonic() + REACH_LIMIT_S
    while True:
        try:
            return await connect(parameters)
        except (psycopg.OperationalError, OSError) as error:
            reason = _reason(error)
            mend = _mend(reason, _REFUSALS)
            if mend is None and time.monotonic() + _PAUSE_S < deadline:
                await asyncio.sleep(_PAUSE_S)
                continue
            told = conninfo_to_dict(parameters["conninfo"])
            mend = (mend or _mend(reason, _WAYS) or _NO_SERVER).format(name=told["dbname"])
            raise StoreUnavailableError(
                f"the database at {_place(told)} cannot be reached: {reason}: {mend}") from error


def _mend(reason: str, ways: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    return next((mend for found, mend in ways if found.search(reason)), None)


def _place(told: dict[str, Any]) -> str:
    """HOST:PORT/NAME."""
    host = f"[{told['host']}]" if ":" in told["host"] else told["host"]
    return f"{host}:{told.get('port', 5432)}/{told['dbname']}"


def _reason(error: Exception) -> str:
    """The first line without what it begins with on every connection."""
    line = str(error).split("\n", 1)[0]
    return line[match.end():] if (match := _BEFORE.match(line)) else line
