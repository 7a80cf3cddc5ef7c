"""`python -m coordd.schema show|upgrade --settings FILE`: the schema of the database.

Upgrade before the servers are: old servers go on with the new schema. It goes to
postgres_direct_url where that is set, since an upgrade may take long.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from coordd import settings
from coordd.engines.postgres import schema
from coordd.engines.postgres.address import parameters_of
from coordd.engines.postgres.errors import translated
from coordd.engines.postgres.reaching import reached
from coordd.settings import Settings, SettingsError
from coordd.store import StoreError


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit code: 1 where a server could not start, 2 for a wrong setting."""
    parser = argparse.ArgumentParser(prog="python -m coordd.schema",
                                     description="The schema of coordd's database.")
    parser.add_argument("command", choices=("show", "upgrade"))
    parser.add_argument("--settings", type=Path, metavar="FILE",
                        help="coordd's settings; COORDD_<KEY> overrides a key")
    arguments = parser.parse_args(argv)
    try:
        wanted = settings.load(arguments.settings, os.environ)
        return asyncio.run(_run(arguments.command, wanted))
    except SettingsError as error:
        return _failed(error, 2)
    except StoreError as error:
        return _failed(error, 1)


async def _run(command: str, wanted: Settings) -> int:
    if wanted.engine != "postgres":
        raise SettingsError(f"engine = \"{wanted.engine}\" has no schema: set \"postgres\"")
    url = wanted.postgres_direct_url or wanted.postgres_url
    assert url is not None  # noqa: S101 - the settings were checked
    try:
        async with await reached(parameters_of(wanted, url)) as connection:
            if command == "upgrade":
                for done in await schema.upgrade(connection):
                    sys.stdout.write(f"applied {done.version} ({done.name})\n")
            version = await schema.check(connection)
    except (StoreError, SettingsError):
        raise
    except Exception as error:
        raise translated(error) from error
    sys.stdout.write(f"the schema is version {version}, which this coordd works with\n")
    return 0


def _failed(error: Exception, code: int) -> int:
    sys.stderr.write(f"coordd.schema: {' '.join(str(error).split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
