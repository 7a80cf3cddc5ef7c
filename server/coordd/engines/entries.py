"""The registry's entries as changes carry them: agents, groups and tokens."""

from __future__ import annotations

from typing import Final

from coordd.engines.times import text_to_us
from coordd.model import Agent, Group, Token
from coordd.store import Change

ENTRIES: Final[dict[str, type[Agent | Group | Token]]] = {
    "agent": Agent, "group": Group, "token": Token}
"""By the type of their changes."""


def entry_of(change: Change) -> Agent | Group | Token | None:
    """The entry that the change writes, if it is one of the registry."""
    return change.agent_entry or change.group_entry or change.token_entry


def age(entry: Agent | Group | Token) -> int:
    """Orders the states of one entry. A token's only change is that it is revoked."""
    if isinstance(entry, Token):
        return int(entry.revoked_at is not None)
    return text_to_us(entry.updated_at)
