"""The run as a picture: throughput beside its limits, and the open loops' percentile curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

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

PANELS = (
    ("Single sends", "POST /messages", 20_000,
     (("POST /messages, 64", "64 connections"), ("10 concurrent", "10 senders")),
     ("one sender", "no-op server", "raw uvicorn", "fdatasync, each")),
    ("Batches of 100", "POST /messages/batch", 250_000,
     (("POST /messages/batch", "16 connections"),),
     ("no-op server", "fdatasync, each 64")),
)


def draw(results: Results, folder: Path) -> list[Path]:
    """Write plot.svg and plot.png to `folder`; their paths."""
    plt.rcParams.update({
        "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID,
        "xtick.color": INK, "ytick.color": INK, "axes.facecolor": PAPER,
        "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "svg.fonttype": "none",
        "svg.hashsalt": "coordctl", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplot_mosaic(
        [["single", "curves"], ["batch", "curves"]], figsize=(12, 6.4), layout="constrained",
        width_ratios=(5, 6), height_ratios=(6, 4))
    for panel, axis in zip(PANELS, (axes["single"], axes["batch"]), strict=True):
        _bars(axis, results.rows, *panel)
    _curves(axes["curves"], results)
    size = "quick run" if results.quick else "full run"
    figure.suptitle(f"coordd bench, {size}, {results.at[:10]}: each answer after fdatasync",
                    fontweight="bold", ha="left", x=0.01)
    paths = [folder / "plot.svg", folder / "plot.png"]
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=120)
    plt.close(figure)
    _add_dark(paths[0])
    return paths


def _bars(axis: Any, rows: list[Row], title: str, request: str, bar: float,
          ours: tuple[tuple[str, str], ...], limits: tuple[str, ...]) -> None:
    shown: list[tuple[str, Spread, str]] = []
    for prefix, label in ours:
        shown += [(label, row.ours, OURS) for row in rows if row.name.startswith(prefix)]
    for name in limits:
        owners = [row for row in rows if name != "no-op server"
                  or row.name.startswith((f"{request},", f"{request} "))]
        shown += [(name, limit.value, OURS if name == "one sender" else LIMIT) for row in owners
                  for limit in row.limits if limit.name == name and row.unit == "msg/s"]
    axis.set_title(f"{title}, messages a second", loc="left", fontsize=11, pad=18)
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
