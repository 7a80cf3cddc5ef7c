"""The run as a picture: throughput beside its limits, and the open loops' percentile curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.postgres.bare import COPY_LOOP, LARGE_LOOP, SMALL_LOOP

if TYPE_CHECKING:
    from pathlib import Path

    from bench.figures import Spread
    from bench.results import Results, Row

INK, PAPER, GRID = "#1f2328", "#ffffff", "#d8dee4"
OURS, LIMIT, BAR = "#1f6feb", "#8c959f", "#cf222e"
CURVES = ("#1f6feb", "#8c959f", "#1a7f37", "#bf5700", "#8250df", "#0a7ea4")
DARK = {INK: "#e6edf3", PAPER: "#0d1117", GRID: "#30363d", OURS: "#58a6ff", BAR: "#ff7b72",
        "#1a7f37": "#56d364", "#bf5700": "#f0883e", "#8250df": "#bc8cff", "#0a7ea4": "#39c5cf"}
"""What a viewer with a dark scheme sees instead, in the SVG."""



class Panel(NamedTuple):
    """Bars of one kind. `bars`: (the beginning of a row's name, which of its limits or "" for
    ours, label), from top to bottom.
    """

    title: str
    bar: int
    bars: tuple[tuple[str, str, str], ...]


_SEND, _BATCH, _TEN, _IMPORT = (
    "POST /messages, 64", "POST /messages/batch", "10 concurrent", "import, 5,000")
PANELS: Final = {
    "files": {
        "single": Panel("Single sends", 20_000, (
            (_SEND, "", "64 connections"), (_TEN, "", "10 senders"),
            (_TEN, "one sender", "one sender"), (_SEND, "no-op server", "no-op server"),
            (_SEND, "raw uvicorn", "raw uvicorn"), (_SEND, "fdatasync, each", "fdatasync, each"))),
        "batch": Panel("Batches of 100", 250_000, (
            (_BATCH, "", "16 connections"), (_BATCH, "no-op server", "no-op server"),
            (_SEND, "fdatasync, each 64", "fdatasync, each 64"))),
    },
    "postgres": {
        "single": Panel("Single sends", 12_000, (
            (_SEND, "", "64 connections"), (_TEN, "", "10 senders"),
            (_TEN, "one sender", "one sender"), (_SEND, SMALL_LOOP, "unnest, 64"),
            (_SEND, LARGE_LOOP, "unnest, 1,600"), (_SEND, "no-op server", "no-op server"))),
        "batch": Panel("Batches of 100", 50_000, (
            (_BATCH, "", "16 connections"), (_BATCH, LARGE_LOOP, "unnest, 1,600"),
            (_BATCH, COPY_LOOP, "COPY, 5,000"))),
        "import": Panel("Imports", 80_000, (
            (_IMPORT, "", "5,000 a commit"), (_IMPORT, COPY_LOOP, "COPY, 5,000"))),
    },
}
_LAYOUT: Final[dict[str, tuple[list[Any], float, tuple[int, ...]]]] = {
    "files": ([["single", "curves"], ["batch", "curves"]], 6.4, (6, 4)),
    "postgres": ([["single", "curves"], ["batch", "curves"], ["import", "sizes"],
                  [".", "sizes"]], 10.5, (6, 4, 3, 2)),
}
"""Panels, height in inches, parts of it."""


def draw(results: Results, folder: Path) -> list[Path]:
    """Write plot.svg and plot.png to `folder`; their paths, none for what is not drawn."""
    if results.engine not in _LAYOUT:
        return []
    plt.rcParams.update({
        "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID,
        "xtick.color": INK, "ytick.color": INK, "axes.facecolor": PAPER,
        "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "svg.fonttype": "none",
        "svg.hashsalt": "coordctl", "axes.spines.top": False, "axes.spines.right": False})
    mosaic, height, parts = _LAYOUT[results.engine]
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(12, height), layout="constrained",
                                      width_ratios=(5, 6), height_ratios=parts)
    for name, panel in PANELS[results.engine].items():
        _bars(axes[name], results.rows, panel)
    _curves(axes["curves"], results)
    if "sizes" in axes:
        _sizes(axes["sizes"], results)
    size = "quick run" if results.quick else "full run"
    synced = {"files": "fdatasync", "postgres": "a synced commit"}[results.engine]
    figure.suptitle(f"coordd bench, {size}, {results.at[:10]}: each answer after {synced}",
                    fontweight="bold", ha="left", x=0.01)
    paths = [folder / "plot.svg", folder / "plot.png"]
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=120)
    plt.close(figure)
    _add_dark(paths[0])
    return paths


def _bars(axis: Any, rows: list[Row], panel: Panel) -> None:
    shown: list[tuple[str, Spread, str]] = []
    for prefix, limit, label in panel.bars:
        owners = [row for row in rows if row.name.startswith(prefix)]
        if limit:
            shown += [(label, each.value, OURS if limit == "one sender" else LIMIT)
                      for row in owners for each in row.limits if each.name == limit]
        else:
            shown += [(label, row.ours, OURS) for row in owners]
    bar = panel.bar
    axis.set_title(f"{panel.title}, messages a second", loc="left", fontsize=11, pad=18)
    if not shown:
        axis.set_axis_off()
        return
    # The order of size would change from run to run; this one doesn't.
    places = range(len(shown))
    middle = [value.median for _, value, _ in shown]
    axis.barh(places, middle, color=[colour for *_, colour in shown], height=0.62)
    axis.errorbar(middle, places, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5, xerr=[
        [value.median - value.least for _, value, _ in shown],
        [value.most - value.median for _, value, _ in shown]])
    axis.set_yticks(places, [label for label, *_ in shown])
    axis.invert_yaxis()
    most = max([*(value.most for _, value, _ in shown), bar])
    for place, (_, value, _) in enumerate(shown):
        axis.annotate(f"{value.median:,.0f}", (value.most, place), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=9, zorder=5,
                      bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})
    axis.axvline(bar, color=BAR, linestyle="--", linewidth=1.2)
    axis.annotate(f"bar {bar:,}", (bar, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                  textcoords="offset points", color=BAR, fontsize=8.5, ha="center")
    axis.set_xlim(0, most * 1.18)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:,.0f}k"))
    axis.tick_params(axis="y", length=0)


def _curves(axis: Any, results: Results) -> None:
    axis.set_title("Latency by percentile, open loop, from the intended send time", loc="left",
                   fontsize=11, pad=18)
    # Only of one server: the curves of a whole team would not fit beside these.
    latencies = [found for found in results.latencies if not found.server.startswith("team: ")]
    if not latencies:
        axis.set_axis_off()
        return
    axis.set_xscale("log")
    axis.set_yscale("log")
    styles = {"no-op": ":"}
    colours: dict[str, str] = {}
    for found in latencies:
        points = [(100 / (100 - float(percent)), seconds * 1000)
                  for percent, seconds in found.curve.items() if 0 < float(percent) < 99.99]
        label = f"{found.name}, {found.rate:,.0f}/s, {found.server}"
        colour = CURVES[1]
        if found.server == "no-op":
            # The limit of a request has the colour of the request's first curve.
            colour = colours.get(found.name, colour)
        else:
            free = [one for one in CURVES if one not in colours.values() and one != CURVES[1]]
            colour = free[0] if free else colour
            colours.setdefault(found.name, colour)
            colours.setdefault(label, colour)
        axis.plot(*zip(*points, strict=True), styles.get(found.server, "-"), color=colour,
                  label=label, linewidth=1.8, marker="o", markersize=3)
    names = ("50", "90", "99", "99.9")
    axis.set_xticks([100 / (100 - float(name)) for name in names], [f"p{name}" for name in names])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms"))
    axis.grid(axis="both", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.07), ncols=2, fontsize=8, frameon=False,
                borderpad=0, columnspacing=1, handlelength=1.8)


def _sizes(axis: Any, results: Results) -> None:
    axis.set_title("Cost of a request, in parts of that on the smallest store", loc="left",
                   fontsize=11, pad=18)
    if not results.sizes:
        axis.set_axis_off()
        return
    first = results.sizes[0]
    stored = [size.messages for size in results.sizes]
    costs = {
        "a send": [first.send.median / size.send.median for size in results.sizes],
        "a message in a batch": [first.batch.median / size.batch.median for size in results.sizes],
        "an inbox page, p50": [size.inbox_p50.median / first.inbox_p50.median
                               for size in results.sizes],
        "stats, p50": [size.stats_p50.median / first.stats_p50.median for size in results.sizes]}
    colours = [colour for colour in CURVES if colour != LIMIT]
    for (label, values), colour in zip(costs.items(), colours, strict=False):
        axis.plot(stored, values, color=colour, label=label, linewidth=1.8, marker="o",
                  markersize=4)
    axis.axhline(1, color=LIMIT, linestyle=":", linewidth=1.2)
    axis.set_xscale("log")
    axis.set_xticks(stored, [f"{messages:,}" for messages in stored])
    axis.minorticks_off()
    axis.set_xlabel("messages stored")
    axis.set_ylim(0, max(2.0, *(1.1 * value for values in costs.values() for value in values)))
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.legend(loc="upper left", ncols=2, fontsize=8, frameon=False)


def _add_dark(path: Path) -> None:
    """Give the SVG the colours of a dark scheme; Matplotlib writes one colour an element."""
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items() for kind in ("fill", "stroke"))
    svg = path.read_text(encoding="utf-8")
    style = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"
    head, mark, rest = svg.partition("<defs>")
    # Texts without a fill of their own are black.
    path.write_text(f"{head}{style}{mark}{rest}", encoding="utf-8")
