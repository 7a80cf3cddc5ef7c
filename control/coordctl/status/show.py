"""A site's facts as a picture of at most 80 columns where its names allow it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from coordctl.output import size

Facts = Mapping[str, Any]


def picture(facts: Facts, *, scrolls: bool = True) -> RenderableType:
    """All of it. What is wrong comes where the eye is: last where the terminal scrolls, else early,
    for a low one cuts off the end.
    """
    parts: list[RenderableType] = []
    for part in (_machines(facts), _database(facts), _servers(facts), _behind(facts)):
        if part is not None:
            parts += [Text(), part]
    wrong = [Text(), *_wrong(facts)]
    return Group(_head(facts), *([*parts, *wrong] if scrolls else [*wrong, *parts]))


def _head(facts: Facts) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for label, text in _lines(facts):
        grid.add_row(label, text)
    return grid


def _lines(facts: Facts) -> Iterator[tuple[str, Text]]:
    yield "site", Text(f"{facts['site']}, level {facts['level']}")
    state = (Text("ready", "green") if facts["ready"] else Text("stopped", "red")
             if facts["running"] is False else Text("not ready", "bold red"))
    yield "address", Text.assemble(facts["address"], "  ", state)
    if facts["pid"] is not None:
        yield "process", Text(f"{facts['pid']}, since {facts['since']}")
    if facts["version"] is not None:
        yield "version", Text(facts["version"] + (
            f", release {facts['release']}" if facts["release"] else ""))
    if facts["messages"] is not None:
        yield "messages", Text(f"{facts['messages']:,}, {facts['unread']:,} unread, "
                               f"{size(facts['size'])}")
    sends = _sends(facts)
    if sends:
        yield "sends", Text(", ".join(sends))
    if facts["cache_hit_rate"] is not None:
        yield "cache", Text(f"answers {facts['cache_hit_rate']:.1%} of the reads")
    if facts["error_rate"]:
        yield "errors", Text(f"{facts['error_rate']:.2%} of the requests are answered 5xx",
                             "red" if facts["error_rate"] > 0.01 else "")


def _sends(facts: Facts) -> list[str]:
    sends = []
    if facts["throughput_per_s"] is not None:
        sends.append(f"{facts['throughput_per_s']:,.1f}/s")
    sends += [f"{word} ≤ {facts[key]:g} ms" for word, key in (
        ("p50", "send_p50_ms"), ("p99", "send_p99_ms")) if facts[key] is not None]
    return sends


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _machines(facts: Facts) -> Table | None:
    if not facts["machines"]:
        return None
    table = _table("MACHINE", "ADDRESS", "STATE", "ROLES", "FREE")
    everybody = {"machine"}
    if len(facts["machines"]) > 1:
        everybody.update(set.intersection(*({*each["roles"]} for each in facts["machines"])))
    for machine in facts["machines"]:
        free = "-" if machine["free"] is None else size(machine["free"])
        table.add_row(machine["name"], machine["address"],
                      Text(machine["state"], "" if machine["state"] == "up" else "red"),
                      ", ".join(role for role in machine["roles"] if role not in everybody),
                      Text(free, "red" if (machine["free_part"] or 1) < 0.1 else "",
                           no_wrap=True))
    return table


def _database(facts: Facts) -> Table | None:
    if facts["database"] is None:
        return None
    table = _table("DATABASE", "ROLE", "STATE", "BEHIND", "TIMELINE")
    for member in facts["database"]["members"]:
        behind = "-" if member["lag_bytes"] is None else size(member["lag_bytes"])
        if member["lag_s"] is not None:
            behind += f", {member['lag_s']:g} s"
        fine = member["state"] in ("running", "streaming")
        leads = member["role"] == "leader"
        table.add_row(member["machine"], Text(member["role"], "bold" * leads),
                      Text(member["state"], "" if fine else "red"), behind,
                      "-" if member["timeline"] is None else str(member["timeline"]))
    return table


def _servers(facts: Facts) -> Table | None:
    if not facts["servers"]:
        return None
    table = _table("SERVER", "READY", "SENDS/S", "P50, MS", "P99, MS", "CACHE", "WAIT")
    for server in facts["servers"]:
        cache = server["cache_hit_rate"]
        table.add_row(server["machine"],
                      Text("yes" if server["ready"] else "no", "" if server["ready"] else "red"),
                      _number(server["throughput_per_s"], "{:,.1f}"),
                      _number(server["send_p50_ms"], "≤ {:g}"),
                      _number(server["send_p99_ms"], "≤ {:g}"),
                      _number(cache, "{:.1%}"), _number(server["waiting"], "{:,}"))
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _behind(facts: Facts) -> Table | None:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    if (queue := facts["queue"]) is not None:
        grid.add_row("work", f"{queue['kind']}: {queue['waiting']:,} wait, {queue['lag']:,} not "
                             f"looked at yet, {queue['dead']:,} dead")
    if (backup := facts["backup"]) is not None:
        grid.add_row("backup", "none" if backup["at"] is None else (
            f"{backup['kind']}, {_ago(backup['age_s'])} ago, {size(backup['size_bytes'])}, "
            f"on {backup['machine']}"))
    if facts["alerts"] is not None:
        grid.add_row("alerts", _alerts(facts["alerts"]))
    return grid if grid.row_count else None


def _alerts(alerts: list[dict[str, Any]]) -> Text:
    if not alerts:
        return Text("none")
    return Text("\n").join(
        Text(f"{alert['name']}{' on ' + alert['machine'] if alert['machine'] else ''}, since "
             f"{_clock(alert['since'])}", "red" if alert["severity"] == "critical" else "yellow")
        for alert in alerts)


def _clock(stamp: str) -> str:
    return datetime.fromisoformat(stamp).astimezone().strftime("%b %d %H:%M:%S")


def _ago(seconds: int) -> str:
    minutes, hours = seconds // 60, seconds // 3600
    return (f"{minutes} min" if hours < 2 else f"{hours} h" if hours < 48
            else f"{hours // 24} days")


def _wrong(facts: Facts) -> Iterator[RenderableType]:
    if not facts["problems"]:
        yield Text("Nothing is wrong.", "green")
        return
    yield Text("What is wrong, and what mends it", "bold red")
    for problem in facts["problems"]:
        yield Text(f"  {problem['what']}")
        # Not broken up: a command is copied.
        yield Text(f"    {problem['mend']}", "cyan", no_wrap=True, overflow="ignore")
