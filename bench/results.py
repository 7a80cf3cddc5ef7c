"""What a run of the bench found: plain data, written as JSON and read by the table and the plot."""

from __future__ import annotations

import msgspec

from bench.figures import Spread  # msgspec reads the annotations


class Limit(msgspec.Struct, frozen=True):
    """What bounds a measure from outside our code, measured in the same run."""

    name: str
    value: Spread


class Row(msgspec.Struct, kw_only=True):
    """One measure. `bar` is its text, None for a row that is for information; `passed` is None
    then. The first limit is the one that the ratio is to.
    """

    name: str
    unit: str
    ours: Spread
    limits: list[Limit] = []
    bar: str | None = None
    passed: bool | None = None

    @property
    def ratio(self) -> float | None:
        """Ours in parts of the first limit."""
        return self.ours.median / self.limits[0].value.median if self.limits else None


class Latency(msgspec.Struct, kw_only=True):
    """The latency of one open loop: `curve` is the repetitions' median, seconds by percentile.

    `late` is the driver's own p99 of lateness in seconds, contained in the curve.
    """

    name: str
    server: str
    rate: float
    curve: dict[str, float]
    p99: Spread
    late: float
    bar: str | None = None
    passed: bool | None = None


class Size(msgspec.Struct, kw_only=True):
    """What the same requests cost on a store of `messages`: messages a second of single sends and
    of batches, seconds of an inbox page (p50, p99) and of the counts (p50), bytes on the disk.
    """

    messages: int
    send: Spread
    batch: Spread
    inbox_p50: Spread
    inbox_p99: Spread
    stats_p50: Spread
    size_bytes: int


class Results(msgspec.Struct, kw_only=True):
    """A whole run. `machine` says where and with what; `plans`: the database's, by what they are
    for.
    """

    at: str
    machine: dict[str, str]
    quick: bool
    seconds: float
    rows: list[Row]
    latencies: list[Latency]
    engine: str = "files"
    sizes: list[Size] = []
    plans: dict[str, str] = {}

    def missed(self) -> list[str]:
        """The measures whose bar was missed."""
        return [row.name for row in self.rows if row.passed is False] + [
            f"{found.name}, {found.server}" for found in self.latencies if found.passed is False]
