"""The bench's stand: the servers under load, their folders, and what the run has found so far."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from bench.daemon import BenchError, Daemon
from bench.figures import Spread, median_curve, spread
from bench.lab import LabSite, why_not
from bench.results import Latency, Limit, Row, Size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.driver import Outcome


class Scale(msgspec.Struct, frozen=True):
    """How much a run does: messages in the large store, repetitions, seconds of each load, machines
    that are brought to level team with the clock running.
    """

    messages: int
    rounds: int
    seconds: float
    provisions: int


FULL = Scale(messages=1_000_000, rounds=3, seconds=5.0, provisions=2)
QUICK = Scale(messages=100_000, rounds=3, seconds=1.0, provisions=1)
SMALL = 10_000
"""Messages in the small store that the large one is compared with."""


class Stand:
    """Starts each server once, when it is first asked for, and ends them all; the lab's machines
    too. `levels`: for a level a site that stands at it, once there is one.
    """

    def __init__(self, folder: Path, scale: Scale, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.scale = scale
        self.say = say
        self.rows: list[Row] = []
        self.latencies: list[Latency] = []
        self.sizes: list[Size] = []
        self.plans: dict[str, str] = {}
        self.levels: dict[str, LabSite] = {}
        self._servers: dict[str, Daemon] = {}
        self._sites: list[LabSite] = []

    def server(self, name: str) -> Daemon:
        """`noop`, `raw`, or a coordd: `fresh` (empty at first), `small`, `large` (filled)."""
        if name not in self._servers:
            folder = self.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            self._servers[name] = daemon = self._daemon(name, folder)
            daemon.start()
            self._prepare(name, daemon)
        return self._servers[name]

    def _daemon(self, name: str, folder: Path) -> Daemon:
        """The server of that name, not started."""
        return Daemon(name if name in {"noop", "raw"} else "coordd", folder)

    def _prepare(self, name: str, daemon: Daemon) -> None:
        """Fill the store of a server that has just started for the first time."""
        filled = {"small": SMALL, "large": self.scale.messages}.get(name, 0)
        if filled:
            self.say(f"storing {filled:,} messages")
            daemon.load("fill", 4, count=filled // 1000)
            self._check_filled(daemon, filled)

    def _check_filled(self, daemon: Daemon, filled: int) -> None:
        _, stats = daemon.get("/api/v1/stats")
        _, page = daemon.get("/api/v1/inbox/agent-00")
        if stats["messages"] != filled or len(page["messages"]) != 100:
            raise BenchError(f"{filled} messages were sent, the server has {stats['messages']}; "
                             f"a page has {len(page['messages'])} of them")

    def has_lab(self, measure: str) -> bool:
        """Whether this computer can have a lab; says so where it can't. Ends the servers: what the
        lab's machines do has the processors for itself.
        """
        if why := why_not():
            self.say(f"  {measure} is left out: {why}")
            return False
        self._end_servers()
        return True

    def site(self, name: str) -> LabSite:
        """A new site for machines of the lab."""
        self._sites.append(LabSite(self.folder / name))
        return self._sites[-1]

    def close(self) -> None:
        """End servers and machines. Folders stay: after a failure they are what to look at."""
        self._end_servers()
        for site in self._sites:
            if site.is_up:
                site.down()

    def release(self) -> None:
        """Let go of what the next measure does not need."""

    def versions(self) -> dict[str, str]:
        """What else the figures depend on, of what this stand has used."""
        return {}

    def _end_servers(self) -> None:
        for daemon in self._servers.values():
            daemon.kill()

    def interleaved(self, servers: list[str], run: Callable[[Daemon], Outcome],
                    rounds: int | None = None) -> dict[str, list[Outcome]]:
        """`run` on each server in turn, and that as often as the scale says: what else the machine
        does meanwhile meets them alike.
        """
        outcomes: dict[str, list[Outcome]] = {name: [] for name in servers}
        for name in servers:
            self.server(name)
        for number in range(rounds or self.scale.rounds):
            for name in servers:
                self.say(f"  round {number + 1}, {name}")
                outcomes[name].append(run(self.server(name)))
                time.sleep(0.2)
        return outcomes

    def latency(self, name: str, server: str, rate: float, outcomes: list[Outcome], *,
                bar: str | None = None, passed: Callable[[float], bool] | None = None) -> Latency:
        """Add an open loop's percentiles; the bar is judged on the median of the p99s, in s."""
        p99 = spread([outcome.latency_s["99"] for outcome in outcomes])
        found = Latency(name=name, server=server, rate=rate, p99=p99, bar=bar,
                        curve=median_curve([outcome.latency_s for outcome in outcomes]),
                        late=spread([outcome.late_s.get("99", 0.0) for outcome in outcomes]).median,
                        passed=passed(p99.median) if passed else None)
        self.latencies.append(found)
        return found


def server_cpu(name: str, ours: list[Outcome], limits: dict[str, list[Outcome]]) -> Row:
    """A row, for information, of what a message costs the server's processors. It hardly
    changes with what else the machine does, so it is what to compare between two versions.
    """
    def cost(outcomes: list[Outcome]) -> Spread:
        return spread([outcome.server_cpu_us for outcome in outcomes])

    return Row(name=name, unit="µs", ours=cost(ours),
               limits=[Limit(name, cost(outcomes)) for name, outcomes in limits.items()])


def throughput(name: str, outcomes: list[Outcome]) -> Limit:
    """Messages a second of the repetitions, under a name."""
    return Limit(name, spread([outcome.messages_per_s for outcome in outcomes]))
