"""Level team as its agents meet it: inboxes through nginx and TLS, with a token each."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from bench.daemon import BenchError, drive
from bench.driver import Job, Outcome
from bench.figures import spread
from bench.kit import team
from bench.results import Row
from bench.workloads import AGENTS, message
from coordctl.api import Api

if TYPE_CHECKING:
    from bench.stand import Stand

RATE: Final = 1000.0
CONNECTIONS: Final = 32
STORED: Final = 10_000


def inbox(stand: Stand) -> None:
    """The newest hundred of an inbox, cache warm, and the share of reads that the cache answers.

    Limits of the same run: the same server without nginx and TLS, asked from the machine's own
    network; an answer that needs neither store nor cache, through nginx and TLS.
    """
    if not stand.has_lab("kit-inbox"):
        return
    site = team(stand)
    url, authority = f"https://{site.addresses['m1']}", site.folder / "ca.crt"
    with Api(url, site.token(), authority) as api:
        tokens = {agent: api.issue(agent)["token"] for agent in AGENTS}
        stand.say(f"  storing {STORED:,} messages")
        rng = random.Random(0)
        for _ in range(STORED // 1000):
            api.call("POST", "/api/v1/messages/batch", json=[message(rng) for _ in range(1000)])
        outside = Job(port=443, host=site.addresses["m1"], authority=str(authority),
                      workload="inbox", connections=CONNECTIONS, rate=RATE,
                      seconds=stand.scale.seconds, warm_s=1.0, tokens=tokens)
        loads: dict[str, tuple[Job, list[str]]] = {
            "nginx, TLS": (outside, []),
            "coordd alone": (replace(outside, host="127.0.0.1", port=8000, authority=""),
                                 site.inside()),
            "/health": (replace(outside, workload="health"), [])}
        outcomes: dict[str, list[Outcome]] = {name: [] for name in loads}
        for number in range(stand.scale.rounds):
            for name, (job, inside) in loads.items():
                stand.say(f"  round {number + 1}, {name}")
                outcomes[name].append(drive(job, inside))
        stand.latency("GET /inbox, newest 100", "team: nginx, TLS", RATE, outcomes["nginx, TLS"],
                      bar="p99 ≤ 5 ms", passed=lambda p99: p99 <= 0.005)
        stand.latency("GET /inbox, newest 100", "team: coordd alone", RATE,
                      outcomes["coordd alone"])
        stand.latency("GET /health", "team: nginx, TLS", RATE, outcomes["/health"])

        hits = []
        for number in range(stand.scale.rounds):
            stand.say(f"  round {number + 1}, sends and three times as many reads")
            before = _counted(api)
            drive(replace(outside, workload="mix"))
            after = _counted(api)
            hits.append(100 * (after[0] - before[0]) / (sum(after) - sum(before)))
    row = Row(name="inbox reads that the cache answers, 3 reads to a send", unit="%",
              ours=spread(hits), bar="≥ 80 %")
    row.passed = row.ours.median >= 80
    stand.rows.append(row)


def _counted(api: Api) -> tuple[float, float]:
    """Inbox reads so far: those that the cache answered, those that the store did."""
    metrics = api.metrics()
    try:
        return metrics["coordd_cache_hits_total"], metrics["coordd_cache_misses_total"]
    except KeyError as error:
        raise BenchError(f"/metrics does not tell {error}") from None
