"""A run as the person sees it: one live row a phase; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coordctl.ansible.run import Event

_TASK_WIDTH: Final = 34
_LIVE_PER_S: Final = 8


@dataclass
class Phase:
    """One playbook's run. `state`: waiting, skipped, running, done, failed."""

    name: str
    state: str = "waiting"
    hosts: int = 0
    finished: set[str] = field(default_factory=set)
    task: str = ""
    changed: int = 0
    began: float = 0.0
    elapsed_s: float = 0.0

    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.began if self.state == "running" else self.elapsed_s


@dataclass(frozen=True)
class Failure:
    """A task that failed on a host. `place`: file:line."""

    host: str
    phase: str
    task: str
    place: str
    message: str
    unreachable: bool


class Progress:
    """What has happened so far: phases, changes with their diffs, failures."""

    def __init__(self, console: Console, phases: Sequence[str], held: Sequence[str] = ()) -> None:
        self._console = console
        self.phases = {name: Phase(name, "skipped" if name in held else "waiting")
                       for name in phases}
        self.failures: list[Failure] = []
        self.changes: list[Event] = []
        """The results that changed something, in order, each with its `phase`."""
        self.watched: dict[str, dict[str, list[tuple[str, str]]]] = {}
        """Phase → host → (kind, name) of what its tasks looked after."""
        self._now: Phase | None = None
        self._live: Live | None = None

    @property
    def changed(self) -> int:
        """How many tasks changed something, over all hosts."""
        return sum(phase.changed for phase in self.phases.values())

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the rows while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self.table, console=self._console,
                  refresh_per_second=_LIVE_PER_S) as self._live:
            yield
        self._live = None

    def handle(self, event: Event) -> None:
        """Take an event in."""
        getattr(self, f"_{event['event']}")(event)

    def interrupted(self) -> None:
        """The run was ended before it was done."""
        if self._now is not None and self._now.state == "running":
            self._over(self._now, "failed")

    def table(self) -> Table:
        """The rows as they stand."""
        table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
        for heading, justify in (("", "left"), ("phase", "left"), ("hosts", "right"),
                                 ("task", "left"), ("changed", "right"), ("time", "right")):
            table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for phase in self.phases.values():
            mark, style = _MARKS[phase.state]
            task = phase.task if phase.state == "running" else _WORDS[phase.state]
            shown = task if len(task) <= _TASK_WIDTH else task[:_TASK_WIDTH - 1] + "…"
            quiet = phase.state in ("waiting", "skipped")
            table.add_row(
                Text(mark, style), Text(phase.name, "dim" if quiet else ""),
                "" if quiet else f"{len(phase.finished)}/{phase.hosts}",
                Text(f"{shown:<{_TASK_WIDTH}}", "dim"), "" if quiet else str(phase.changed),
                "" if quiet else f"{phase.seconds():.1f} s")
        return table

    def _playbook(self, event: Event) -> None:
        self._now = self.phases[event["name"]]
        self._now.state, self._now.began = "running", time.monotonic()
        if self._live is None:
            self._console.print(f"{self._now.name:<12} …", highlight=False)

    def _play(self, event: Event) -> None:
        if self._now is not None:
            self._now.hosts = max(self._now.hosts, event["hosts"])

    def _task(self, event: Event) -> None:
        if self._now is not None:
            self._now.task = event["name"].rpartition(" : ")[2]
            self._now.finished = set()

    def _result(self, event: Event) -> None:
        phase = self._now
        if phase is None:
            return
        phase.finished.add(event["host"])
        if event["status"] == "changed":
            phase.changed += 1
            self.changes.append(event | {"phase": phase.name})
        if event["status"] in ("failed", "unreachable"):
            phase.state = "failed"
            self.failures.append(Failure(
                event["host"], phase.name, event["task"].rpartition(" : ")[2], event["path"],
                event.get("msg", ""), event["status"] == "unreachable"))

    def _watched(self, event: Event) -> None:
        if self._now is not None:
            hosts = self.watched.setdefault(self._now.name, {})
            hosts.setdefault(event["host"], []).extend(
                (kind, name) for kind, name in event["facts"])

    def _end(self, event: Event) -> None:
        if self._now is not None:
            self._over(self._now, "failed" if event["failed"] else "done")

    def _over(self, phase: Phase, state: str) -> None:
        phase.elapsed_s = time.monotonic() - phase.began
        phase.state = state
        if self._live is None:
            self._console.print(
                f"{phase.name:<12} {_WORDS[state]}: {phase.hosts} "
                f"host{'s' * (phase.hosts != 1)}, {phase.changed} changed, "
                f"{phase.elapsed_s:.1f} s", highlight=False)


_MARKS: Final = {"waiting": ("·", "dim"), "skipped": ("✓", "dim"), "running": ("▸", "cyan"),
                 "done": ("✓", "green"), "failed": ("✗", "bold red")}
_WORDS: Final = {"waiting": "", "skipped": "holds", "running": "", "done": "done",
                 "failed": "failed"}
