"""The run as two tables, for a terminal and (as text) for the docs."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from bench.figures import spread

if TYPE_CHECKING:
    from bench.figures import Spread
    from bench.results import Results

WIDTH = 100
SHOWN = ("50", "95", "99", "99.9")


def number(value: float) -> str:
    """A figure with as many digits as it deserves: three, or the whole of a large one."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _spread(value: Spread) -> str:
    if len(value.values) == 1:
        return number(value.median)
    return f"{number(value.median)} ({number(value.least)}-{number(value.most)})"


def _mark(passed: bool | None) -> str:
    return {None: "", True: "[green]ok[/]", False: "[bold red]NO[/]"}[passed]


def measures_table(results: Results) -> Table:
    """Each measure beside its limits."""
    table = Table(title="Measures: median (least-most); ratio: ours in parts of the limit",
                  title_justify="left", width=WIDTH, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("measure")
    table.add_column("ours", justify="right", no_wrap=True)
    table.add_column("limit")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right")
    table.add_column("bar", min_width=8)
    table.add_column("", width=2)
    for row in results.rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(
            f"{row.name}, {row.unit}", _spread(row.ours),
            "\n".join(limit.name for limit in row.limits),
            "\n".join(number(limit.value.median) for limit in row.limits),
            ratio, row.bar or "", _mark(row.passed), end_section=True)
    return table


def latencies_table(results: Results) -> Table:
    """The open loops' percentiles."""
    table = Table(title="Open-loop latency in ms from the intended send time, medians",
                  title_justify="left", width=WIDTH, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("request, offered rate, server or store")
    for percent in SHOWN:
        table.add_column(f"p{percent}", justify="right")
    table.add_column("p99 least-most", justify="right")
    table.add_column("driver", justify="right")
    table.add_column("bar", no_wrap=True)
    table.add_column("", width=2)
    for found in results.latencies:
        table.add_row(
            f"{found.name}, {found.rate:,.0f}/s, {found.server}",
            *(f"{found.curve[percent] * 1000:.2f}" for percent in SHOWN),
            f"{found.p99.least * 1000:.2f}-{found.p99.most * 1000:.2f}",
            f"{found.late * 1000:.2f}", found.bar or "", _mark(found.passed))
    return table


def sizes_table(results: Results) -> Table:
    """What the same costs on stores of different sizes."""
    table = Table(title="The same requests on stores of different sizes: medians (least-most)",
                  title_justify="left", width=WIDTH, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("stored", "sends, msg/s", "batches, msg/s", "inbox p50, ms", "inbox p99, ms",
                 "stats p50, ms", "disk, MiB"):
        table.add_column(name, justify="right")
    for size in results.sizes:
        table.add_row(
            f"{size.messages:,}", _spread(size.send), _spread(size.batch),
            *(_spread(spread([value * 1000 for value in times.values]))
              for times in (size.inbox_p50, size.inbox_p99, size.stats_p50)),
            number(size.size_bytes / 2**20))
    return table


def show(results: Results, console: Console) -> None:
    """Print the run."""
    console.print(", ".join(f"{key} {value}" for key, value in results.machine.items()))
    if results.rows:
        console.print(measures_table(results))
    if results.latencies:
        console.print(latencies_table(results))
        console.print("driver: p99 of how late the driver itself sent; it is contained in the "
                      "figures.", style="dim")
    if results.sizes:
        console.print(sizes_table(results))
    for name, plan in results.plans.items():
        console.print(f"EXPLAIN, {name}:", plan, sep="\n", markup=False, highlight=False,
                      soft_wrap=True)


def as_text(results: Results) -> str:
    """The same without colours, for a file."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False)
    show(results, console)
    file = console.file
    return file.getvalue() if isinstance(file, io.StringIO) else ""
