"""The roles that a stack is made of: when each is wanted, in which order it is set up, and which
ports it opens to whom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from coordctl.profile import Stack

ANYONE: Final = "anyone"


class Port(NamedTuple):
    """A TCP port of a role. `to`: the roles whose machines may reach it, or ANYONE."""

    number: int
    to: tuple[str, ...]


class Component(NamedTuple):
    """A role: `wanted` by which stacks; `does` in a few words for people."""

    role: str
    does: str
    wanted: Callable[[Stack], bool]
    ports: tuple[Port, ...] = ()


def _database(stack: Stack) -> bool:
    return stack.store != "files"


def _failover(stack: Stack) -> bool:
    return _database(stack) and stack.store_nodes > 1


def _monitored(stack: Stack) -> bool:
    return stack.monitoring == "prometheus"


COMPONENTS: Final = (
    Component("machine", "users, time, journal, firewall", lambda _: True),
    Component("etcd", "who leads the database", _database,
              (Port(2379, ("postgres",)), Port(2380, ("etcd",)))),
    Component("postgres", "the messages", _database,
              (Port(5432, ("postgres", "haproxy", "coordd", "worker")),
               Port(8008, ("postgres", "haproxy", "prometheus")))),
    Component("pgbackrest", "backups of the database", lambda stack: stack.backup == "pgbackrest",
              (Port(8432, ("pgbackrest",)),)),
    Component("pgbouncer", "database connections", lambda stack: stack.pooling == "pgbouncer",
              (Port(6432, ("haproxy", "coordd", "worker")),)),
    Component("haproxy", "the way to the leader", _failover),
    Component("redis", "inbox cache", lambda stack: stack.cache != "in-process",
              (Port(6379, ("coordd", "redis")),)),
    Component("rabbitmq", "work queue", lambda stack: stack.queue == "rabbitmq",
              (Port(5671, ("coordd", "worker")), Port(15692, ("prometheus",)),
               Port(25672, ("rabbitmq",)), Port(4369, ("rabbitmq",)))),
    Component("coordd", "message server", lambda _: True, (Port(8000, ("nginx",)),)),
    Component("worker", "background work", lambda stack: stack.queue == "rabbitmq"),
    Component("nginx", "TLS, load balancer", lambda stack: stack.load_balancers > 0,
              (Port(443, (ANYONE,)),)),
    Component("keepalived", "one virtual address", lambda stack: stack.load_balancers > 1),
    Component("logrotate", "log rotation", lambda stack: stack.log_rotation == "logrotate"),
    Component("backup", "backups", lambda stack: stack.backup == "nightly"),
    Component("exporters", "what is measured", _monitored, (Port(9999, ("prometheus",)),)),
    Component("prometheus", "monitoring, alerts", _monitored),
)
"""In the order in which they are set up: each needs only those before it."""

UNITS: Final = {
    "machine": "coordctl-firewall.service", "etcd": "etcd.service", "postgres": "patroni.service",
    "pgbackrest": "pgbackrest.service", "pgbouncer": "pgbouncer.service",
    "haproxy": "haproxy.service",
    "redis": "redis-server.service", "rabbitmq": "rabbitmq-server.service",
    "coordd": "coordd.service", "worker": "coordd-worker.service", "nginx": "nginx.service",
    "logrotate": "logrotate.timer", "exporters": "prometheus-exporter-exporter.service",
    "prometheus": "prometheus.service"}
"""Role → its unit of systemd, active wherever it stands. Its ports are that unit's."""

BY_ROLE: Final = {component.role: component for component in COMPONENTS}


def wanted(stack: Stack) -> list[str]:
    """The roles of a stack, in the order in which they are set up."""
    return [component.role for component in COMPONENTS if component.wanted(stack)]
