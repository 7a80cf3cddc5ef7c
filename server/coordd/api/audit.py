"""The audit log and the counts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from coordd.api import params
from coordd.auth import Auth
from coordd.http.request import Answer, Later, Request, Result
from coordd.http.router import Route
from coordd.mailbox import Mailbox
from coordd.rules import checked_name, checked_time
from coordd.store import AgentStats, EventPage, Stats, Store


class Audit:
    """What happened, and how much."""

    def __init__(self, auth: Auth, store: Store, mailbox: Mailbox) -> None:
        self._auth = auth
        self._store = store
        self._mailbox = mailbox

    def _events(self, request: Request) -> Result:
        identity = self._auth.identity(request)
        query = request.query()
        agent = query.pop("agent")
        if agent is not None:
            checked_name(agent, "agent")
        for bound in ("since", "until"):
            query[bound] = checked_time(query[bound], bound)
        party = self._mailbox.party(identity, agent)
        return Later(self._store.events(agent=party, **query), msgspec.json.encode)

    async def _stats(self, request: Request) -> Answer:
        identity = self._auth.identity(request)
        stats = await self._store.stats()
        if identity.agent is not None:
            stats = _of_one(stats, identity.agent)
        return msgspec.json.encode(stats)

    def routes(self) -> Sequence[Route]:
        """The calls of this module."""
        return (
            Route("GET", "/api/v1/events", self._events, "Read the audit log",
                  "Every change of a message's state, in the order in which they were stored, "
                  "oldest first unless told. Of a span of time: `since` and `until`.", "Audit",
                  query=(params.AGENT_QUERY, params.EVENT_TYPE, params.AFTER, params.SINCE,
                         params.UNTIL, params.EVENTS_ORDER, params.LIMIT, params.CURSOR),
                  answer=EventPage, problems=("not-found",)),
            Route("GET", "/api/v1/stats", self._stats, "Count messages and events",
                  "With an agent's token: what it has sent and received, counted as `messages`, "
                  "and no `size_bytes`.", "Audit", answer=Stats),
        )


def _of_one(stats: Stats, agent: str) -> Stats:
    """What the store's counts say of one agent, and nothing of the others."""
    own = stats.agents.get(agent, AgentStats(0, 0, 0))
    total = own.sent + own.received
    return Stats(total, own.unread, {"SENT": total}, {agent: own}, 0)
