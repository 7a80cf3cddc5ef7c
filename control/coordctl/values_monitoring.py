"""The values of an inventory that are about watching it: what each machine shows, and who asks."""

from __future__ import annotations

from typing import Any, Final

from coordctl.profile import Profile
from coordctl.site_file import SiteFile
from coordctl.topology import Topology

MODULES: Final = {"node": "exporters", "etcd": "etcd", "postgres": "postgres",
                  "pgbouncer": "pgbouncer", "haproxy": "haproxy", "redis": "redis",
                  "coordd": "coordd", "nginx": "nginx"}
"""What a machine's door may be asked for → the role that it is about."""
TLS_PORTS: Final = {"patroni": ("postgres", 8008), "rabbitmq": ("rabbitmq", 15692)}
"""What shows its measures by TLS itself → the role and the port."""
_PASSWORDS: Final = {"pgbouncer": "vault_pgbouncer_stats_password",
                     "redis": "vault_redis_monitor_password"}


def watched(topology: Topology, machine: str) -> list[str]:
    """What the door of a machine can be asked for; [] where nobody asks."""
    roles = topology.roles[machine]
    if "exporters" not in roles:
        return []
    return [module for module, role in MODULES.items() if role in roles]


def exporters(topology: Topology) -> dict[str, Any]:
    """For every machine with a door."""
    return {"exporters_watched": "{{ machine_watched }}",
            "exporters_scrapers": topology.bearers("prometheus"),
            "exporters_pgbouncer_host": "{{ ansible_host }}",
            **{f"exporters_{role}_password": f"{{{{ {name} }}}}" if topology.bearers(role) else ""
               for role, name in _PASSWORDS.items()}}


def prometheus(told: SiteFile, profile: Profile, topology: Topology) -> dict[str, Any]:
    """For the machine that asks."""
    def machines(role: str) -> list[dict[str, str]]:
        return [{"name": machine, "address": told.machines[machine].address}
                for machine in topology.bearers(role)]

    jobs: list[dict[str, Any]] = [
        {"name": module, "module": module, "machines": machines(role)}
        for module, role in MODULES.items() if topology.bearers(role)]
    jobs += [{"name": name, "port": port, "machines": machines(role)}
             for name, (role, port) in TLS_PORTS.items() if topology.bearers(role)]
    stack = profile.stack
    return {"prometheus_jobs": jobs, "prometheus_send_p99_ms": profile.targets.send_p99_ms,
            "prometheus_synchronous": stack.store != "files" and stack.store_nodes > 1,
            "prometheus_backup": stack.backup != "none"}
