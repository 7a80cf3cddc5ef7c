"""Levels, topologies and differences as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from coordctl.components import BY_ROLE
from coordctl.profile import Profile
from coordctl.state import Generation
from coordctl.topology import Topology


def topology_lines(before: Generation | None, after: Topology, address: Callable[[str], str]
                   ) -> list[str]:
    """A line a machine: new (+), as it was (=), other seats or address (~), gone (-)."""
    seats: dict[str, list[str]] = {machine: [] for machine in after.roles}
    for seat, machine in after.seats.items():
        seats[machine].append(seat)
    old: dict[str, list[str]] = {machine: [] for machine in (before.machines if before else ())}
    for seat, machine in (before.seats if before else {}).items():
        old.setdefault(machine, []).append(seat)
    width = max(map(len, [*seats, *old]), default=0)
    lines = []
    for machine, roles in after.roles.items():
        mark = ("+" if machine not in old else "=" if before is not None
                and (old[machine], before.machines.get(machine)) == (
                    seats[machine], address(machine)) else "~")
        lines.append(f"{mark} {machine:<{width}}  {address(machine):<15}  "
                     + (", ".join(roles) or "spare"))
    lines += [f"- {machine:<{width}}  no longer in site.yml"
              for machine in old if machine not in seats]
    return lines


def cost_text(profile: Profile) -> str:
    """What a month costs, such as `$15-110`."""
    cost = profile.cost_per_month
    if cost.high_usd == 0:
        return "$0"
    return f"${cost.low_usd:,}-{cost.high_usd:,}" + (" with staff" if cost.with_staff else "")


def machines_text(profile: Profile) -> str:
    """How many machines it takes."""
    if profile.local:
        return "this one"
    return str(sum(profile.count(tier) for tier in profile.placement))


def level_facts(profile: Profile) -> dict[str, Any]:
    """What tells levels apart: words → what this level has."""
    scale, targets, stack = profile.scale, profile.targets, profile.stack
    store = {"files": "files", "postgres": "Postgres",
             "sharded-postgres": f"Postgres, {stack.shards} shards"}[stack.store]
    copies = f" x{stack.store_nodes}" if stack.store_nodes > 1 else ""
    return {
        "people": scale.people, "agents": scale.agents,
        "messages a day": f"{scale.messages_per_day:,}",
        "concurrent operations": f"{scale.concurrent_operations:,}",
        "sustained, peak (msg/s)": f"{targets.sustained_per_s:,g}, {targets.peak_per_s:,g}",
        "send latency p99": f"{targets.send_p99_ms:g} ms",
        "availability": f"{targets.availability_percent:g} %",
        "storage a day": (f"{targets.storage_mb_per_day / 1000:g} GB"
                          if targets.storage_mb_per_day >= 1000
                          else f"{targets.storage_mb_per_day:g} MB"),
        "cost a month": cost_text(profile), "machines": machines_text(profile),
        "store": store + copies, "pooling": _none(stack.pooling),
        "cache": stack.cache + (f" x{stack.cache_nodes}" if stack.cache_nodes > 1 else ""),
        "work queue": stack.queue + (f" x{stack.queue_nodes}" if stack.queue_nodes > 1 else ""),
        "message servers": str(stack.message_servers),
        "load balancers": _none(stack.load_balancers),
        "access": "TLS, tokens" if stack.access == "tokens" else "loopback, open",
        "log rotation": _none(stack.log_rotation), "backup": _none(stack.backup),
        "watched by": _none(stack.monitoring, "coordctl status"),
    }


def _none(value: object, none: str = "-") -> str:
    return none if value in ("none", 0) else str(value)


def levels_table(levels: Sequence[Profile]) -> Table:
    """The levels side by side; fits 100 columns."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    for level in levels:
        table.add_column(level.name, overflow="fold")
    facts = [level_facts(level) for level in levels]
    for words in facts[0]:
        table.add_row(Text(words, "dim"), *(fact[words] for fact in facts))
    return table


def placement_table(profile: Profile) -> Table:
    """The tiers of a level: how many machines, how large, what they bear."""
    from coordctl.components import wanted

    active = wanted(profile.stack)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading, justify in (("machines", "left"), ("count", "right"), ("memory", "right"),
                             ("disk", "right"), ("bear", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for tier in profile.placement:
        roles = [role for role in active if role in tier.roles]
        table.add_row(tier.tier, str(profile.count(tier)), f"{tier.memory_mb / 1024:g} GiB",
                      f"{tier.disk_gb:,} GB", ", ".join(roles))
    return table


def roles_table(profile: Profile) -> Table:
    """What each role of a level does, in the order in which they are set up."""
    from coordctl.components import wanted

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for role in wanted(profile.stack):
        table.add_row(Text(role), Text(BY_ROLE[role].does, "dim"))
    return table


def diff_text(lines: Sequence[str]) -> Text:
    """A unified diff in colour."""
    text = Text()
    for line in lines:
        style = ("bold" if line.startswith(("+++", "---")) else "green" if line.startswith("+")
                 else "red" if line.startswith("-") else "cyan" if line.startswith("@@") else "")
        text.append(line + "\n", style)
    text.rstrip()
    return text
