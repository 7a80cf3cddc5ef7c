"""`python -m bench`: load a coordd of its own, print the tables, write results and the plot.

Exit code 0: every bar was met; 1: one was missed or the run failed.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click
import msgspec
import psycopg
from rich.console import Console

from bench import report
from bench.daemon import BenchError
from bench.disk import MEMORY_FILE_SYSTEMS, file_system
from bench.measures import MEASURES
from bench.organization import MEASURES as LEVEL_MEASURES
from bench.outages import MEASURES as OUTAGE_MEASURES
from bench.postgres.measures import MEASURES as POSTGRES_MEASURES
from bench.postgres.stand import FULL as POSTGRES_FULL
from bench.postgres.stand import QUICK as POSTGRES_QUICK
from bench.postgres.stand import PostgresStand
from bench.results import Results
from bench.stand import FULL, QUICK, Stand

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PUBLISHED = ROOT / "docs" / "bench"
PUBLISHED_NAMES = {"files": {"tables.txt": "tables.txt", "plot.svg": "plot.svg"},
                   "postgres": {"tables.txt": "postgres.txt", "plot.svg": "postgres.svg"},
                   "organization": {"tables.txt": "organization.txt"}}
"""By engine: a run's files, and their names in the docs."""
ORGANIZATION_MEASURES = LEVEL_MEASURES | OUTAGE_MEASURES
NAMES = {"files": list(MEASURES), "postgres": list(POSTGRES_MEASURES),
         "organization": list(ORGANIZATION_MEASURES)}


@click.command()
@click.option("--engine", type=click.Choice(list(NAMES)), default="files", show_default=True,
              help="The store behind coordd, or the whole of level organization. postgres and "
                   "organization need root, for machines of the lab.")
@click.option("--quick", is_flag=True,
              help="About a minute, five more with the lab: 100,000 messages, short loads.")
@click.option("--only", "only", multiple=True,
              type=click.Choice([name for names in NAMES.values() for name in names]),
              help="Only this measure of the engine's; may be repeated.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), default=ROOT / ".cache",
              show_default="the repository's .cache",
              help="Where the servers' data folders are made, on a real disk; removed at the end.")
@click.option("--no-bars", is_flag=True, help="Exit 0 where a bar is missed.")
@click.option("--publish", is_flag=True, help="Copy the tables and the plot to docs/bench.")
def main(engine: str, quick: bool, only: tuple[str, ...], data: Path, no_bars: bool,
         publish: bool) -> None:
    """Load a coordd of its own and compare it with its limits and bars."""
    if others := set(only) - set(NAMES[engine]):
        raise click.UsageError(f"--only {min(others)} is no measure of engine {engine}: it has "
                               f"{', '.join(NAMES[engine])}")
    console = Console(width=report.WIDTH)
    notes = Console(stderr=True, style="dim", highlight=False)
    data.mkdir(parents=True, exist_ok=True)
    kind = file_system(data)
    if kind in MEMORY_FILE_SYSTEMS:
        raise click.ClickException(f"--data {data} is on {kind}, where a sync costs nothing; "
                                   "name a folder on a disk: python -m bench --data FOLDER")
    busy = _busy()
    if busy > 0.1:
        notes.print(f"The machine is busy with other work ({busy:.0%} of its cores): the figures "
                    "will be lower and further apart.", style="yellow")
    began = time.monotonic()
    stand, measures = _planned(engine, quick, Path(tempfile.mkdtemp(prefix="bench-", dir=data)),
                               notes.print)
    machine = _machine(kind, busy)
    try:
        for name, measure in measures.items():
            if not only or name in only:
                notes.print(f"{name}:")
                measure()
                stand.release()
        machine |= stand.versions()
    except (BenchError, psycopg.Error) as error:
        raise click.ClickException(
            f"{error}\nThe data folders are kept: look at them, then rm -r {stand.folder}"
        ) from error
    finally:
        stand.close()
    shutil.rmtree(stand.folder)
    results = Results(
        at=datetime.now(UTC).isoformat(timespec="seconds"), quick=quick,
        machine=machine, engine=engine, seconds=round(time.monotonic() - began, 1),
        rows=stand.rows, latencies=stand.latencies, sizes=stand.sizes, plans=stand.plans)
    report.show(results, console)
    _write(results, notes, publish=publish)
    if missed := results.missed():
        console.print(f"[bold red]missed:[/] {'; '.join(missed)}", soft_wrap=True)
        sys.exit(0 if no_bars else 1)


def _planned(engine: str, quick: bool, folder: Path, say: Callable[[str], None]
             ) -> tuple[Stand, dict[str, Callable[[], None]]]:
    """The engine's stand, and what measures on it."""
    if engine == "postgres":
        database = PostgresStand(folder, POSTGRES_QUICK if quick else POSTGRES_FULL, say)
        return database, {name: partial(measure, database)
                          for name, measure in POSTGRES_MEASURES.items()}
    stand = Stand(folder, QUICK if quick else FULL, say)
    chosen = ORGANIZATION_MEASURES if engine == "organization" else MEASURES
    return stand, {name: partial(measure, stand) for name, measure in chosen.items()}


def _busy() -> float:
    """The share of all cores that was in use during one second, before the bench does anything."""
    def ticks() -> tuple[int, int]:
        """Idle ones (waiting for the disk is idle), all."""
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
        values = [int(value) for value in first.split()[1:9]]
        return values[3] + values[4], sum(values)

    idle, total = ticks()
    time.sleep(1)
    idle_after, total_after = ticks()
    return 1 - (idle_after - idle) / max(total_after - total, 1)


def _machine(file_system_name: str, busy: float) -> dict[str, str]:
    return {"cores": str(os.cpu_count()), "memory":
            f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
            "disk": file_system_name, "Linux": platform.release(),
            "Python": platform.python_version(), "uvicorn": version("uvicorn"),
            "uvloop": version("uvloop"), "busy before": f"{busy:.0%}"}


def _write(results: Results, notes: Console, *, publish: bool) -> None:
    from bench import plot  # Matplotlib's import would count against a short run

    folder = RESULTS / results.at.replace(":", "")[:17]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    (folder / "tables.txt").write_text(report.as_text(results), encoding="utf-8")
    drawn = [path.name for path in plot.draw(results, folder)]
    notes.print(f"written: {folder.relative_to(ROOT)}/: "
                + " ".join(["results.json", "tables.txt", *drawn]))
    if publish:
        PUBLISHED.mkdir(parents=True, exist_ok=True)
        for name, published in PUBLISHED_NAMES[results.engine].items():
            shutil.copy(folder / name, PUBLISHED / published)
        notes.print(f"published: {PUBLISHED.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
