"""What is counted, and how Prometheus reads it.

The hot path adds to plain numbers; a collector turns them into metrics when somebody asks, and
prometheus_client is imported only then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from coordd.http.router import Route

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

BOUNDS_S: Final = (.0005, .001, .002, .003, .005, .0075, .01, .02, .05, .1, .25, .5, 1., 2.5, 10.)


class Histogram:
    """How long things took. `counts[i]` are those up to `BOUNDS_S[i]`, the last one the others."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts as Prometheus has them, `+Inf` the last."""
        total, out = 0, []
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=True):
            total += count
            out.append((bound, float(total)))
        return out


class Metrics:
    """The numbers of this process."""

    def __init__(self) -> None:
        self.messages_stored = 0
        """Messages of sends that were answered 200 (replays of a key among them)."""
        self.send = Histogram()
        """From the complete request to its answer, of timed routes."""


class Exporter:
    """Metrics as Prometheus text. `gauges` and `counters` are read when asked: (name, help,
    number).
    """

    def __init__(self, metrics: Metrics, routes: Sequence[Route],
                 gauges: Callable[[], Iterable[tuple[str, str, float]]],
                 counters: Callable[[], Iterable[tuple[str, str, float]]]) -> None:
        self._metrics = metrics
        self._routes = routes
        self._gauges = gauges
        self._counters = counters
        self._registry: Any = None

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        if self._registry is None:
            registry = CollectorRegistry()
            registry.register(self)
            ProcessCollector(registry=registry)
            self._registry = registry
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What a prometheus_client collector yields."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        requests = CounterMetricFamily(
            "coordd_http_requests", "Requests answered.", labels=("method", "route", "status"))
        for route in self._routes:
            for status, count in sorted(route.counts.items()):
                requests.add_metric((route.method, route.path, str(status)), count)
        yield requests
        yield CounterMetricFamily(
            "coordd_messages_stored", "Messages of sends that were answered 200.",
            value=self._metrics.messages_stored)
        send = HistogramMetricFamily(
            "coordd_send_duration_seconds", "From a complete send to its durable answer.")
        send.add_metric((), self._metrics.send.buckets(), self._metrics.send.sum_s)
        yield send
        for name, text, value in self._counters():
            yield CounterMetricFamily(name, text, value=value)
        for name, text, value in self._gauges():
            yield GaugeMetricFamily(name, text, value=value)
