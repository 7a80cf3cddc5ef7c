"""The operator's calls for what runs behind sends: hooks, dead letters, the chain."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from coordd.api import params
from coordd.api.views import Strict
from coordd.auth import Auth
from coordd.http.request import JSON, Answer, Request, Response
from coordd.http.router import Param, Route
from coordd.model import EventType, Name, Priority, now_text
from coordd.problems import Fault, invalid, not_found
from coordd.rules import checked_name, decode, decoder_of
from coordd.settings import Settings
from coordd.work.allow import Allowlist
from coordd.work.dispatcher import QueueError
from coordd.work.model import DeadTask, Hook, HookKind, HourCount
from coordd.work.opening import Work
from coordd.work.webhook import SECRET_FORM

HOOKS_MAX: Final = 100
TARGET_MAX: Final = 2048
LINKS_MAX: Final = 10_000
SECRET_BYTES: Final = 32
DEPTH_S: Final = 2.0
"""How long RabbitMQ has to tell how much it holds."""
_ADDRESS: Final = re.compile(r"[^@\s<>,;:\"()\[\]\\]{1,64}@[A-Za-z0-9.-]{1,253}\Z")
_EVENT: Final = re.compile(r"evt_[0-9a-f]{32}\Z")


Types = Annotated[list[EventType], Meta(max_length=5)]


class HookBody(Strict):
    """Whom to tell of which events. `target`: a URL, or an address of e-mail."""

    kind: HookKind
    target: Annotated[str, Meta(min_length=3, max_length=TARGET_MAX)]
    to_agent: Name | None = None
    types: Types = msgspec.field(default_factory=list)
    min_priority: Priority | None = None


class HookView(msgspec.Struct):
    """A hook without its secret; of a Slack's URL, which is one, the host alone."""

    id: str
    kind: HookKind
    target: str
    to_agent: str | None
    types: list[EventType]
    min_priority: Priority | None
    created_at: str
    waiting: int
    failures: int
    done: int
    failed: int


class NewHookView(msgspec.Struct):
    """A new hook. `secret`, by which a webhook's requests are signed, is shown this once."""

    id: str
    secret: str | None


class HooksView(msgspec.Struct):
    """All hooks, in the order made."""

    hooks: list[HookView]


class ChainView(msgspec.Struct):
    """How far the chain of messages is; `head` is the hash of its last link."""

    on: bool
    position: int
    head: str


class WorkView(msgspec.Struct):
    """The work behind sends. `lag`: changes that are not dispatched; `queue_depth`: tasks in
    RabbitMQ that no worker has taken, null where it does not answer; `problem`: why this server, if
    it is the dispatcher, hands nothing out.
    """

    queue: str
    queue_depth: int | None
    dispatcher: str
    problem: str
    hooks: int
    cursor: int
    last: int
    lag: int
    waiting: int
    queued: int
    dead: int
    done: int
    failed: int
    chain: ChainView
    hours: list[HourCount]


class DeadView(msgspec.Struct):
    """Dead letters, the oldest first."""

    dead: list[DeadTask]


class RetryBody(Strict):
    """Which dead letters: those of a hook, of an event, or all."""

    hook: str | None = None
    event: str | None = None


class RetriedView(msgspec.Struct):
    """How many are tried anew."""

    retried: int


class LinkView(msgspec.Struct):
    """A message in the chain; hashes in hex."""

    pos: int
    message_id: str
    digest: str
    hash: str


class LinksView(msgspec.Struct):
    """A piece of the chain. `forgets`: whether the settings let old messages' rows go."""

    links: list[LinkView]
    position: int
    head: str
    forgets: bool


_HOOK_PATH: Final = Param("hook", Annotated[str, Meta(min_length=1, max_length=64)],
                          "The hook's id.", required=True)
_HOOK_QUERY: Final = Param("hook", Annotated[str, Meta(min_length=1, max_length=64)],
                           "Only of this hook.")
_LIMIT: Final = Param("limit", Annotated[int, Meta(ge=1, le=1000)], "How many at most.",
                      default=100, whole=True)
_LINKS_AFTER: Final = Param("after", params.Seq, "Only links with a higher `pos`.", default=0,
                            whole=True)
_LINKS_LIMIT: Final = Param("limit", Annotated[int, Meta(ge=1, le=LINKS_MAX)],
                            "How many at most.", default=1000, whole=True)

_decode_hook = decoder_of(HookBody)
_decode_retry = decoder_of(RetryBody)


class WorkCalls:
    """The calls under `/api/v1/admin/hooks` and `/api/v1/admin/work`."""

    def __init__(self, auth: Auth, work: Work, settings: Settings) -> None:
        self._auth = auth
        self._work = work
        self._store = work.store
        self._allow = Allowlist(settings.webhook_allow)
        self._mails = settings.smtp_host is not None
        self._forgets = settings.events_months > 0

    async def _add(self, request: Request) -> Answer:
        self._auth.operator(request)
        body = decode(_decode_hook, request.body)
        if body.to_agent is not None:
            checked_name(body.to_agent, "to_agent")
        self._check(body)
        if len(await self._store.hooks()) >= HOOKS_MAX:
            raise invalid([Fault("hooks", f"there are {HOOKS_MAX} of them: remove one")])
        secret = ""
        if body.kind == "webhook":
            secret = SECRET_FORM + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        hook = await self._store.add_hook(Hook(
            secrets.token_hex(6), body.kind, body.target, secret, now_text(), 0, body.to_agent,
            list(dict.fromkeys(body.types)), body.min_priority))
        view = NewHookView(hook.id, secret or None)
        return Response(200, msgspec.json.encode(view), JSON, (("Cache-Control", "no-store"),))

    def _check(self, body: HookBody) -> None:
        """Raises Problem (422) for a target that could never be told."""
        if body.kind == "email":
            if not _ADDRESS.match(body.target):
                raise invalid([Fault("target", "is no address such as ops@example.org")])
            if not self._mails:
                raise invalid([Fault("kind", "the server's settings have no smtp_host")])
            return
        try:
            url = urlsplit(body.target)
            _ = url.port
        except ValueError:
            url = urlsplit("")
        if (url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc
                or url.port == 0 or not re.fullmatch(r"[!-~]+", body.target)):
            raise invalid([Fault("target", "is no URL such as https://hooks.example.org/coordd, "
                                           "without a user and a password")])
        if not self._allow.may_name(url.hostname):
            raise invalid([Fault("target", f"the setting webhook_allow does not allow "
                                           f"{url.hostname}: add it, or its network, to the "
                                           "server's settings")])

    async def _hooks(self, request: Request) -> Answer:
        self._auth.operator(request)
        return msgspec.json.encode(HooksView([_view(hook) for hook in await self._store.hooks()]))

    async def _remove(self, request: Request) -> Answer:
        self._auth.operator(request)
        if not await self._store.remove_hook(request.args[0]):
            raise not_found("hook")
        return Response(204)

    async def _state(self, request: Request) -> Answer:
        self._auth.operator(request)
        totals = await self._store.totals()
        depth: int | None = None
        with suppress(QueueError, TimeoutError):
            async with asyncio.timeout(DEPTH_S):
                depth = await self._work.queue.depth()
        return msgspec.json.encode(WorkView(
            self._work.queue_name, depth, totals.dispatcher, self._work.dispatcher.problem,
            totals.hooks, totals.cursor, totals.last, totals.lag, totals.waiting, totals.queued,
            totals.dead, totals.done, totals.failed,
            ChainView(self._work.dispatcher.provenance, totals.folded, totals.head),
            totals.hours))

    async def _dead(self, request: Request) -> Answer:
        self._auth.operator(request)
        return msgspec.json.encode(DeadView(await self._store.dead(**request.query())))

    async def _retry(self, request: Request) -> Answer:
        self._auth.operator(request)
        body = decode(_decode_retry, request.body)
        if body.event is not None and not _EVENT.match(body.event):
            raise invalid([Fault("event", "is no event's id, which is evt_ and 32 hex digits")])
        if body.hook is not None and "\0" in body.hook:
            raise invalid([Fault("hook", "holds a NUL")])
        retried = await self._store.retry(body.hook, body.event)
        self._work.dispatcher.wake()
        return msgspec.json.encode(RetriedView(retried))

    async def _chain(self, request: Request) -> Answer:
        self._auth.operator(request)
        # The head first: all links up to it are there then.
        folded = await self._store.folded()
        query = request.query()
        links = [LinkView(link.pos, link.message_id, link.digest.hex(), link.hash.hex())
                 for link in await self._store.links(query["after"], query["limit"])
                 if link.pos <= folded.position]
        return msgspec.json.encode(LinksView(links, folded.position, folded.head.hex(),
                                             self._forgets))

    def routes(self) -> Sequence[Route]:
        """The calls of this module."""
        hooks, work = "/api/v1/admin/hooks", "/api/v1/admin/work"
        admin: dict[str, Any] = {"group": "Operator", "access": "admin"}
        return (
            Route("GET", hooks, self._hooks, "List the hooks", "Never a secret.",
                  answer=HooksView, **admin),
            Route("POST", hooks, self._add, "Add a hook",
                  "Who is told of events from now on. The only time that its secret is shown.",
                  body=HookBody, body_example={
                      "kind": "webhook", "target": "https://hooks.example.org/coordd",
                      "to_agent": "code", "types": ["SENT"], "min_priority": "high"},
                  answer=NewHookView, writes=True, **admin),
            Route("DELETE", f"{hooks}/{{hook}}", self._remove, "Remove a hook",
                  "What it was still to be told goes with it.", path_params=(_HOOK_PATH,),
                  status=204, writes=True, problems=("not-found",), **admin),
            Route("GET", work, self._state, "The work behind sends",
                  "How far it is, and what waits.", answer=WorkView, **admin),
            Route("GET", f"{work}/dead", self._dead, "List dead letters",
                  "Events that a hook was told of in vain as often as the settings say.",
                  query=(_HOOK_QUERY, _LIMIT), answer=DeadView, **admin),
            Route("POST", f"{work}/retry", self._retry, "Try dead letters anew", "",
                  body=RetryBody, body_example={}, answer=RetriedView, writes=True, **admin),
            Route("GET", f"{work}/chain", self._chain, "Read the chain of messages",
                  "What `coordctl verify` checks: docs/work.md says how.",
                  query=(_LINKS_AFTER, _LINKS_LIMIT), answer=LinksView, **admin),
        )


def _view(hook: Hook) -> HookView:
    target = hook.target
    if hook.kind != "email":
        url = urlsplit(target)
        if hook.kind == "slack":
            target = f"{url.scheme}://{url.netloc}/…"
        elif url.query:
            target = target.partition("?")[0] + "?…"
    return HookView(hook.id, hook.kind, target, hook.to_agent, hook.types, hook.min_priority,
                    hook.created_at, hook.waiting, hook.failures, hook.done, hook.failed)


