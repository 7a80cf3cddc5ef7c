"""Numbers out of what machines told: speeds, latencies, who leads the database."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

Metrics = Mapping[str, float]

ENOUGH: Final = 20
"""Sends, or reads, that tell of the time between two looks; with fewer, all since the start do."""
_BUCKET: Final = "coordd_send_duration_seconds_bucket"


class Looks(NamedTuple):
    """Two looks at a server's metrics, `span_s` apart."""

    first: Metrics
    later: Metrics
    span_s: float


def speeds(looks: Iterable[Looks]) -> dict[str, float | None]:
    """Of all servers together: sends a second, the bounds that half and 99 of 100 sends keep, the
    part of reads that the cache answered, the part of requests answered 5xx. None: not known.
    """
    pairs = list(looks)
    stored = "coordd_messages_stored_total"
    rates = [(pair.later[stored] - pair.first[stored]) / pair.span_s for pair in pairs
             if pair.span_s and stored in pair.first and stored in pair.later]
    buckets = _counted(pairs, [name for pair in pairs for name in pair.later
                               if name.startswith(_BUCKET)])
    cache = _counted(pairs, ["coordd_cache_hits_total", "coordd_cache_misses_total"])
    answers = _counted(pairs, [f"requests_{digit}xx" for digit in "12345"])
    return {"throughput_per_s": round(sum(rates), 1) if rates else None,
            "send_p50_ms": _bound_ms(buckets, 0.5), "send_p99_ms": _bound_ms(buckets, 0.99),
            "cache_hit_rate": _part(cache["coordd_cache_hits_total"], sum(cache.values())),
            "error_rate": _part(answers["requests_5xx"], sum(answers.values()))}


def _counted(pairs: Iterable[Looks], names: Iterable[str]) -> dict[str, float]:
    """What was counted between the looks; where that is little, since the servers' start."""
    wanted = list(dict.fromkeys(names))
    since = dict.fromkeys(wanted, 0.0)
    between = dict.fromkeys(wanted, 0.0)
    for pair in pairs:
        for name in wanted:
            since[name] += pair.later.get(name, 0.0)
            between[name] += pair.later.get(name, 0.0) - pair.first.get(name, 0.0)
    # Buckets are cumulative: the largest number of any kind will do. A server that was started
    # between the looks counts from nought.
    few = max(between.values(), default=0.0) < ENOUGH or min(between.values(), default=0.0) < 0
    return since if few else between


def _bound_ms(buckets: Mapping[str, float], part: float) -> float | None:
    """The smallest bound that this part of all keeps; None where no bound is large enough."""
    bounds = sorted((math.inf if bound == "+Inf" else float(bound), count) for bound, count in
                    ((name.partition('le="')[2].partition('"')[0], count)
                     for name, count in buckets.items()))
    total = bounds[-1][1] if bounds else 0.0
    for bound, count in bounds:
        if total and count >= part * total:
            return None if bound == math.inf else round(bound * 1000, 3)
    return None


def _part(some: float, all_: float) -> float | None:
    return round(some / all_, 4) if all_ else None


def database(told: Mapping[str, Mapping[str, Any]], *, synchronous: bool, now: datetime
             ) -> dict[str, Any]:
    """The cluster, from what Patroni says on each of its machines.

    `told`: machine → `{"is": …}` or `{"error": …}`. `synchronous`: whether a commit shall be on two
    machines; the answer's own `synchronous` is whether it is. `leader` is None where nobody leads,
    or more than one machine says so.
    """
    leaders = [machine for machine, part in told.items()
               if part.get("is", {}).get("role") in ("primary", "master")
               and part["is"].get("state") == "running"]
    at: int | None = None
    if len(leaders) == 1:
        at = told[leaders[0]]["is"].get("xlog", {}).get("location")
    members = [_member(machine, part, leaders, at, now) for machine, part in told.items()]
    return {"leader": leaders[0] if len(leaders) == 1 else None, "leaders": leaders,
            "wanted_synchronous": synchronous,
            "synchronous": any(member["role"] == "synchronous" and member["state"] == "streaming"
                               for member in members),
            "paused": any(part.get("is", {}).get("pause", False) for part in told.values()),
            "members": members}


def _member(machine: str, part: Mapping[str, Any], leaders: list[str], at: int | None,
            now: datetime) -> dict[str, Any]:
    state: Mapping[str, Any] = part.get("is", {})
    member: dict[str, Any] = {
        "machine": machine, "role": "unknown", "state": part.get("error", "no answer"),
        "lag_bytes": None, "lag_s": None, "timeline": state.get("timeline"),
        "pending_restart": bool(state.get("pending_restart"))}
    if not state:
        return member
    member["state"] = state.get("state", "unknown")
    if machine in leaders:
        return member | {"role": "leader"}
    streams = state.get("replication_state") == "streaming"
    member |= {"role": "synchronous" if state.get("sync_standby") else "replica",
               "state": "streaming" if streams else member["state"]}
    replayed = state.get("xlog", {}).get("replayed_location")
    if at is not None and replayed is not None:
        member["lag_bytes"] = max(0, at - replayed)
        member["lag_s"] = _behind_s(state["xlog"].get("replayed_timestamp"), now) if (
            member["lag_bytes"]) else 0.0
    return member


def _behind_s(stamp: str | None, now: datetime) -> float | None:
    """How long ago the last change that is there was made."""
    if not stamp:
        return None
    return round(max(0.0, (now - datetime.fromisoformat(stamp)).total_seconds()), 1)
