"""A scale level as data: what stack it gets, how large, what it must hold, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from coordctl import kit
from coordctl.checked import Strict, check, load
from coordctl.errors import CoordctlError

LEVELS: Final = ("individual", "team", "organization", "enterprise")
"""From the smallest to the largest: the names of the profile files."""

Count = Annotated[int, Field(ge=0, le=64, strict=True)]
Range = Annotated[tuple[int, int], Field(description="from, to")]


class Scale(Strict):
    """Whom the level is for."""

    people: Annotated[str, Field(min_length=1)]
    agents: Annotated[str, Field(min_length=1)]
    messages_per_day: Annotated[int, Field(ge=1)]
    concurrent_operations: Annotated[int, Field(ge=1)]


class Targets(Strict):
    """What the level must hold."""

    sustained_per_s: Annotated[float, Field(gt=0)]
    peak_per_s: Annotated[float, Field(gt=0)]
    send_p99_ms: Annotated[float, Field(gt=0)]
    availability_percent: Annotated[float, Field(gt=0, lt=100)]
    storage_mb_per_day: Annotated[float, Field(gt=0)]


class Cost(Strict):
    """What a month of it costs, in USD, from the cheapest to the dearest."""

    low_usd: Annotated[int, Field(ge=0)]
    high_usd: Annotated[int, Field(ge=0)]
    with_staff: bool = False


class Stack(Strict):
    """The choices of a level. Each may be overridden in site.yml, under `stack`."""

    store: Literal["files", "postgres", "sharded-postgres"]
    shards: Annotated[int, Field(ge=1, le=64, strict=True)]
    store_nodes: Annotated[int, Field(ge=1, le=6, strict=True)]
    pooling: Literal["none", "pgbouncer"]
    cache: Literal["in-process", "redis", "redis-cluster"]
    cache_nodes: Annotated[int, Field(ge=0, le=12, strict=True)]
    queue: Literal["in-process", "rabbitmq"]
    queue_nodes: Annotated[int, Field(ge=0, le=7, strict=True)]
    message_servers: Annotated[int, Field(ge=1, le=64, strict=True)]
    load_balancers: Annotated[int, Field(ge=0, le=2, strict=True)]
    log_rotation: Literal["none", "logrotate"]
    access: Literal["open", "tokens"]
    backup: Literal["none", "nightly", "pgbackrest"]
    monitoring: Literal["none", "prometheus"]

    @model_validator(mode="after")
    def _agrees(self) -> Stack:
        """What can't stand together is told with what would do."""
        files = self.store == "files"
        for wrong, key, why in (
            (files and self.message_servers > 1, "message_servers",
             "the files store has one writer: 1 will do, or store: postgres"),
            (files and (self.shards > 1 or self.store_nodes > 1), "shards",
             "the files store is one folder: shards: 1 and store_nodes: 1 will do"),
            (files and self.pooling != "none", "pooling",
             "there is no database to pool: none will do"),
            (files and self.backup == "pgbackrest", "backup",
             "pgBackRest is for Postgres: nightly will do"),
            (not files and self.backup == "nightly", "backup",
             "nightly is for the files store: pgbackrest will do"),
            (self.store == "postgres" and self.shards > 1, "shards",
             "several shards are store: sharded-postgres"),
            (self.load_balancers == 0 and self.message_servers > 1, "load_balancers",
             "several message servers need one: 1 will do"),
            (self.load_balancers == 0 and self.access == "tokens", "load_balancers",
             "tokens need TLS, and nginx brings it: 1 will do"),
            (self.load_balancers > 0 and self.access == "open", "access",
             "a load balancer is reached over the network: tokens will do"),
            (self.cache == "redis" and self.cache_nodes != 1, "cache_nodes",
             "one Redis is one node: 1 will do, or cache: redis-cluster"),
            (self.cache == "redis-cluster" and self.cache_nodes < 3, "cache_nodes",
             "a Redis Cluster has three nodes at least: 3 will do"),
            (self.queue == "rabbitmq" and self.queue_nodes not in (1, 3, 5, 7), "queue_nodes",
             "a quorum is odd: 3 will do"),
        ):
            if wrong:
                raise ValueError(f"{key} is {getattr(self, key)!r}: {why}")
        return self


class Sizes(Strict):
    """How large the parts are. Also `sizes` in site.yml."""

    cache_memory_mb: Annotated[int, Field(ge=16, le=1 << 20, strict=True)]
    events_log_days: Annotated[int, Field(ge=1, le=3650, strict=True)]
    backups_kept: Annotated[int, Field(ge=1, le=365, strict=True)]
    rate_per_s: Annotated[int, Field(ge=0, le=10**6, strict=True)]
    rate_burst: Annotated[int, Field(ge=1, le=10**6, strict=True)]
    pending_messages: Annotated[int, Field(ge=1, le=10**7, strict=True)]


class Tier(Strict):
    """Machines of one kind. `count`: a number, or the choices of `stack` whose product it is.

    `roles` are those that a seat of this tier bears when the stack asks for them. Two seats of a
    tier never share a machine; with `compact`, a tier shrinks to what can stand apart, down to
    `least`, and only what is below that shares.
    """

    tier: Annotated[str, Field(pattern=r"^[a-z]{2,12}$")]
    count: Annotated[int, Field(ge=1, le=64)] | tuple[str, ...]
    least: Annotated[int, Field(ge=1, le=64)] = 1
    memory_mb: Annotated[int, Field(ge=64)]
    disk_gb: Annotated[int, Field(ge=1)]
    roles: Annotated[tuple[str, ...], Field(min_length=1)]


class Profile(Strict):
    """A whole level. `local`: without machines in site.yml it stands on this one."""

    name: Literal["individual", "team", "organization", "enterprise"]
    summary: Annotated[str, Field(min_length=1)]
    local: bool
    scale: Scale
    targets: Targets
    cost_per_month: Cost
    stack: Stack
    sizes: Sizes
    placement: Annotated[tuple[Tier, ...], Field(min_length=1)]

    def with_overrides(self, stack: Mapping[str, Any], sizes: Mapping[str, Any], source: str, *,
                       mend: str) -> Profile:
        """The profile with the site's choices. Raises CoordctlError for one that can't be."""
        chosen = check({"stack": self.stack.model_dump() | dict(stack),
                        "sizes": self.sizes.model_dump() | dict(sizes)},
                       _Choices, WANTED, source, mend=mend)
        if chosen.stack.access == "open" and not self.local:
            raise CoordctlError(f"{source}: stack.access is 'open': only a level on this computer "
                                "may be, for whoever reaches it may read all: tokens will do",
                                mend=mend)
        return self.model_copy(update={"stack": chosen.stack, "sizes": chosen.sizes})

    def count(self, tier: Tier) -> int:
        """How many machines of that tier, by the stack's choices."""
        if isinstance(tier.count, int):
            return tier.count
        number = 1
        for choice in tier.count:
            number *= int(getattr(self.stack, choice))
        return number


class _Choices(Strict):
    stack: Stack
    sizes: Sizes


WANTED: Final[dict[str, str]] = {
    "shards": "a whole number from 1 to 64 will do",
    "store_nodes": "a whole number from 1 to 6 will do (the leader and its replicas)",
    "cache_nodes": "a whole number from 0 to 12 will do",
    "queue_nodes": "a whole number from 0 to 7 will do",
    "message_servers": "a whole number from 1 to 64 will do",
    "load_balancers": "0, 1 or 2 will do",
    "cache_memory_mb": "a whole number of MiB, 16 or more, will do",
    "events_log_days": "a whole number of days from 1 to 3650 will do",
    "backups_kept": "a whole number from 1 to 365 will do",
    "rate_per_s": "a whole number of requests a second will do, 0 for no limit",
    "rate_burst": "a whole number from 1 to 1000000 will do",
    "pending_messages": "a whole number from 1 to 10000000 will do",
}


@cache
def profile(name: str) -> Profile:
    """The profile of a level. Raises CoordctlError for a name that is none."""
    if name not in LEVELS:
        raise CoordctlError(f"{name!r} is no level: {', '.join(LEVELS)} are",
                            mend="coordctl levels")
    return load(kit.PROFILES / f"{name}.yml", Profile, WANTED)


def profiles() -> list[Profile]:
    """All four, from the smallest to the largest."""
    return [profile(name) for name in LEVELS]
