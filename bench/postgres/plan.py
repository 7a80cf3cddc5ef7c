"""What a statement's plan reads, and how."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARAMETER: Final = re.compile(r"%\((\w+)\)s")
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
    """Run a statement and tell its plan: as it is when coordd has it prepared, for any values."""
    names: list[str] = []

    def numbered(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    text = _PARAMETER.sub(numbered, query).replace("%%", "%")
    asked = ", ".join(["%s"] * len(names))

    def explain(options: str) -> list[Any]:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, {options}) EXECUTE asked ({asked})".encode(),
                       [values[name] for name in names])
        return [row for (row,) in cursor.fetchall()]

    # One transaction: pgbouncer may give the next one to another connection.
    with connection.transaction():
        connection.execute(f"PREPARE asked AS {text}".encode())
        [[tree]] = explain("FORMAT JSON")
        lines = explain("COSTS OFF, BUFFERS")
        connection.execute("DEALLOCATE asked")
    return Plan(tree["Plan"], "\n".join(lines))


def _nodes(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes that ran: a partition that was ruled out at run time is only named."""
    if tree.get("Actual Loops") != 0:
        yield tree
        for child in tree.get("Plans", ()):
            yield from _nodes(child)
