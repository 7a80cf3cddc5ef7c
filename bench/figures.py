"""The bench's arithmetic: percentiles of latencies, medians and spreads of repetitions."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

CURVE = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99, 100.0)
"""The percentiles of a latency curve, in percent."""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of `ordered` (rising, not empty) don't exceed.

    The nearest rank: always a value that was measured, never one between two.
    """
    # Rounded first: 99.9 / 100 * 1000 is a little above 999, and would be a rank too high.
    rank = math.ceil(round(percent / 100 * len(ordered), 6))
    return ordered[max(rank, 1) - 1]


def curve(ordered: Sequence[float]) -> dict[str, float]:
    """The percentiles of CURVE by name ("99.9"), in the unit of `ordered`; {} for no values."""
    if not ordered:
        return {}
    return {f"{percent:g}": percentile(ordered, percent) for percent in CURVE}


class Spread(msgspec.Struct, frozen=True):
    """Repetitions of one measure: their median, and how far they lie apart."""

    median: float
    least: float
    most: float
    values: list[float]


def spread(values: Sequence[float]) -> Spread:
    """The median and the extremes of at least one repetition, in the order they were measured."""
    return Spread(statistics.median(values), min(values), max(values), list(values))


def median_curve(curves: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of the repetitions at each percentile."""
    return {name: statistics.median(curve[name] for curve in curves) for name in curves[0]}
