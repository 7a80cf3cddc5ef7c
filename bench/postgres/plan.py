"""What a statement's plan reads, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

_BY_INDEX = {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}


class Plan:
    """A plan that was run. `text`: as EXPLAIN shows it."""

    def __init__(self, tree: dict[str, Any], text: str) -> None:
        self.text = text
        self._scans = [node for node in _nodes(tree) if "Relation Name" in node]

    @property
    def partitions(self) -> set[str]:
        """The events' partitions that were read."""
        return {node["Relation Name"] for node in self._scans
                if node["Relation Name"].startswith("events")}

    @property
    def only_indexes(self) -> bool:
        """Whether every table was read through an index."""
        return all(node["Node Type"] in _BY_INDEX for node in self._scans)


def plan_of(connection: psycopg.Connection, query: LiteralString, values: dict[str, Any]) -> Plan:
    """Run a statement and tell its plan, of these very values."""
    [(trees,)] = connection.execute(
        f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}", values).fetchall()
    lines = connection.execute(
        f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS) {query}", values).fetchall()
    return Plan(trees[0]["Plan"], "\n".join(line for (line,) in lines))


def _nodes(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes that ran: a partition that was ruled out at run time is only named."""
    if tree.get("Actual Loops") != 0:
        yield tree
        for child in tree.get("Plans", ()):
            yield from _nodes(child)
