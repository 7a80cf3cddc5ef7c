"""Lists of messages: inboxes (polled, waited for, streamed), history, threads, search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta

from coordd.api import params, views
from coordd.auth import Auth
from coordd.http.request import Later, Request, Result, Stream
from coordd.http.router import Param, Route
from coordd.mailbox import Mailbox, page_json
from coordd.model import WAIT_MAX_S
from coordd.rules import checked_id, checked_name
from coordd.store import Store

_WAIT = Param("wait", Annotated[float, Meta(ge=0, le=WAIT_MAX_S)],
              "An empty page waits so many seconds for the first message.", default=0.0)
_QUERY = Param("q", Annotated[str, Meta(min_length=1, max_length=500)],
               "Words; a message has all of them in subject or body, any case.", required=True)


class Lists:
    """Pages of messages."""

    def __init__(self, auth: Auth, store: Store, mailbox: Mailbox) -> None:
        self._auth = auth
        self._store = store
        self._mailbox = mailbox

    def _inbox(self, request: Request) -> Result:
        agent = self._own_agent(request, "inbox")
        query = request.query()
        wait_s = query.pop("wait")
        if query["order"] is None:
            query["order"] = "newest" if query["after"] is None else "oldest"
        if wait_s:
            return self._mailbox.wait(agent, wait_s, query)
        return Later(self._mailbox.page(agent, **query), page_json)

    def _stream(self, request: Request) -> Result:
        agent = self._own_agent(request, "inbox")
        after = request.query()["after"]
        last = request.header(b"last-event-id")
        if last is not None:
            after = params.LAST_EVENT_ID.read(last.decode("latin-1"))
        return Stream(self._mailbox.follow(agent, after), "text/event-stream")

    def _sent(self, request: Request) -> Result:
        agent = self._own_agent(request, "history")
        return Later(self._store.sent(agent, **request.query()), page_json)

    def _thread(self, request: Request) -> Result:
        identity = self._auth.identity(request)
        thread_id = checked_id(request.args[0])
        return Later(self._store.thread(thread_id, party=identity.agent, **request.query()),
                     page_json)

    def _search(self, request: Request) -> Result:
        identity = self._auth.identity(request)
        query = request.query()
        party = self._mailbox.party(identity, _checked(query.pop("agent")))
        return Later(self._store.search(query.pop("q"), party=party, **query), page_json)

    def _own_agent(self, request: Request, what: str) -> str:
        identity = self._auth.identity(request)
        agent = checked_name(request.args[0], "agent")
        self._mailbox.own(identity, agent, what)
        return agent

    def routes(self) -> Sequence[Route]:
        """The calls of this module."""
        inbox = "/api/v1/inbox/{agent}"
        own: dict[str, Any] = {"path_params": (params.AGENT_PATH,), "problems": ("not-found",)}
        page: dict[str, Any] = {"answer": views.PageView}
        return (
            Route("GET", inbox, self._inbox, "Read an inbox",
                  "Newest first unless told; with `after`, oldest first unless told. Reading "
                  "changes no state.", "Inboxes",
                  query=(params.LIMIT, params.CURSOR, params.ORDER, params.AFTER, params.UNREAD,
                         params.MIN_PRIORITY, _WAIT), **own, **page),
            Route("GET", f"{inbox}/stream", self._stream, "Follow an inbox",
                  "Server-Sent Events: `id` is the message's seq, `event` is `message`, `data` the "
                  "message. Begins after `Last-Event-ID`, else `after`, else with what arrives "
                  "from now on. A comment every 15 seconds keeps it open.", "Inboxes",
                  query=(params.AFTER,), headers=(params.LAST_EVENT_ID,),
                  media="text/event-stream", **own),
            Route("GET", "/api/v1/sent/{agent}", self._sent, "What an agent sent",
                  "Newest first, a message a recipient; `last_seq` is 0.", "History",
                  query=(params.LIMIT, params.CURSOR), **own, **page),
            Route("GET", "/api/v1/threads/{id}", self._thread, "Read a thread",
                  "Oldest first; empty for a thread that is not there.", "History",
                  path_params=(params.THREAD_PATH,), query=(params.LIMIT, params.CURSOR), **page),
            Route("GET", "/api/v1/search", self._search, "Search messages", "Newest first.",
                  "History", query=(_QUERY, params.AGENT_QUERY, params.LIMIT, params.CURSOR),
                  problems=("not-found",), **page),
        )


def _checked(agent: str | None) -> str | None:
    return None if agent is None else checked_name(agent, "agent")
