"""What the same requests cost on stores of different sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.figures import Spread, spread
from bench.results import Size

if TYPE_CHECKING:
    from bench.driver import Outcome
    from bench.postgres.stand import PostgresStand

INBOX_RATE: Final = 1000.0
STATS_RATE: Final = 100.0


def flat(stand: PostgresStand) -> None:
    """Pages and counts on all stores, in turn; then sends and batches, which make them larger: the
    size is what was there before.
    """
    seconds = max(stand.scale.seconds / 2, 1.0)
    stores = {messages: f"of-{messages}" for messages in stand.scale.sizes}
    names = list(stores.values())
    bytes_before = {name: _size_bytes(stand, name) for name in names}
    pages = stand.interleaved(names, lambda one: one.load(
        "inbox", 32, rate=INBOX_RATE, seconds=seconds))
    counts = stand.interleaved(names, lambda one: one.load(
        "stats", 4, rate=STATS_RATE, seconds=seconds))
    sends = stand.interleaved(names, lambda one: one.load("send", 64, seconds=seconds))
    batches = stand.interleaved(names, lambda one: one.load("batch", 16, seconds=seconds))
    for messages, name in stores.items():
        stand.sizes.append(Size(
            messages=messages, send=_rate(sends[name]), batch=_rate(batches[name]),
            inbox_p50=_percentile(pages[name], "50"), inbox_p99=_percentile(pages[name], "99"),
            stats_p50=_percentile(counts[name], "50"), size_bytes=bytes_before[name]))


def _size_bytes(stand: PostgresStand, store: str) -> int:
    with stand.connect(stand.store(store)) as connection:
        [(size,)] = connection.execute(
            "SELECT pg_database_size(current_database())").fetchall()
    return int(size)


def _rate(outcomes: list[Outcome]) -> Spread:
    return spread([outcome.messages_per_s for outcome in outcomes])


def _percentile(outcomes: list[Outcome], name: str) -> Spread:
    return spread([outcome.latency_s[name] for outcome in outcomes])
