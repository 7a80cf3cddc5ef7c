"""Sending a message, looking at one, and its states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordd.api import params, views
from coordd.auth import Auth
from coordd.http.request import Answer, Request, Response, Result
from coordd.http.router import Route
from coordd.mailbox import Mailbox
from coordd.model import BATCH_MAX, Mark, Message, NewMessage
from coordd.rules import checked_id, checked_key, checked_name
from coordd.service import Sending

_EXAMPLE = {"from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"}


class Messages:
    """The calls under `/api/v1/messages`."""

    def __init__(self, auth: Auth, sending: Sending, mailbox: Mailbox) -> None:
        self._auth = auth
        self._sending = sending
        self._mailbox = mailbox

    def _send(self, request: Request) -> Result:
        key = request.header(b"idempotency-key")
        return self._sending.one(self._auth.identity(request), request.body,
                                 None if key is None else checked_key(key))

    def _send_batch(self, request: Request) -> Result:
        return self._sending.batch(self._auth.identity(request), request.body,
                                   checked_key(request.header(b"idempotency-key")))

    async def _read_one(self, request: Request) -> Answer:
        identity = self._auth.identity(request)
        return await self._mailbox.message(identity, checked_id(request.args[0]),
                                           _agent_of(request))

    async def _mark_read(self, request: Request) -> Answer:
        return await self._mark(request, "read")

    async def _acknowledge(self, request: Request) -> Answer:
        return await self._mark(request, "acked")

    async def _delete(self, request: Request) -> Answer:
        await self._mark(request, "deleted")
        return Response(204)

    async def _mark(self, request: Request, mark: Mark) -> bytes:
        identity = self._auth.identity(request)
        return await self._mailbox.mark(identity, checked_id(request.args[0]),
                                        _agent_of(request), mark)

    def routes(self) -> Sequence[Route]:
        """The calls of this module."""
        base, one = "/api/v1/messages", "/api/v1/messages/{id}"
        states: dict[str, Any] = {"path_params": (params.ID_PATH,), "query": (params.RECIPIENT,),
                  "group": "Messages"}
        return (
            Route("POST", base, self._send, "Send a message",
                  "Answers once the message is durable. `to_agent` is a name, a group (`@ops`) or "
                  "a list of both, 100 recipients at most; a group reaches its members but the "
                  "sender.", "Messages", headers=(params.KEY,), body=NewMessage,
                  body_example=_EXAMPLE, answer=views.ReceiptView, writes=True, timed=True,
                  problems=("forbidden", "key-conflict")),
            Route("POST", f"{base}/batch", self._send_batch, "Send many messages at once",
                  f"1-{BATCH_MAX} messages: all are durable or none is stored. A bad one is named "
                  "by its index.", "Messages", headers=(params.KEY,), body=views.Batch,
                  body_example=[_EXAMPLE], answer=views.ReceiptsView, writes=True, timed=True,
                  problems=("forbidden", "key-conflict")),
            Route("GET", one, self._read_one, "Look at a message",
                  "As one of its recipients sees it. Looking changes no state. One that is gone "
                  "and found in the archive has `archived: true`.",
                  answer=Message, problems=("not-found",), **states),
            Route("POST", f"{one}/read", self._mark_read, "Mark a message read",
                  "A repeat answers the same. Only its recipient may.", answer=Message,
                  writes=True, problems=("forbidden", "not-found"), **states),
            Route("POST", f"{one}/ack", self._acknowledge, "Acknowledge a message",
                  "A repeat answers the same. Only its recipient may.", answer=Message,
                  writes=True, problems=("forbidden", "not-found"), **states),
            Route("DELETE", one, self._delete, "Delete a message",
                  "From its recipient's inbox; a repeat answers the same. Only its recipient may. "
                  "The audit log keeps the event.", status=204, writes=True,
                  problems=("forbidden", "not-found"), **states),
        )


def _agent_of(request: Request) -> str | None:
    agent: str | None = request.query()["agent"]
    return None if agent is None else checked_name(agent, "agent")
