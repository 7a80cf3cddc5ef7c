"""The client of coordd: `Client`, `AsyncClient` and the `coord` command. See docs/coord.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coord.aio import AsyncClient
    from coord.client import Client
    from coord.errors import (
        Answered,
        BadCall,
        CoordError,
        Forbidden,
        Invalid,
        KeyConflict,
        NotFound,
        Refused,
        ServerFault,
        StoreFull,
        TooLarge,
        Unauthorized,
        Unavailable,
        UnexpectedAnswer,
    )
    from coord.model import (
        Agent,
        AgentStats,
        Delivery,
        Event,
        EventPage,
        Group,
        Message,
        NewMessage,
        Page,
        Receipt,
        Stats,
    )

__all__ = [
    "Agent", "AgentStats", "Answered", "AsyncClient", "BadCall", "Client", "CoordError",
    "Delivery", "Event", "EventPage", "Forbidden", "Group", "Invalid", "KeyConflict", "Message",
    "NewMessage", "NotFound", "Page", "Receipt", "Refused", "ServerFault", "Stats", "StoreFull",
    "TooLarge", "Unauthorized", "Unavailable", "UnexpectedAnswer",
]

_MODULES = ("errors", "model", "client", "aio")


def __getattr__(name: str) -> Any:
    # The command is this package too: it must not wait for what it does not use (httpx above all).
    if name in __all__:
        from importlib import import_module

        for module in _MODULES:
            found = getattr(import_module(f"coord.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module 'coord' has no attribute {name!r}")
