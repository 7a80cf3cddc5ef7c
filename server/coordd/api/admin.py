"""The operator's calls: tokens, the feed of changes, imports, the seal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from coordd.api import params, views
from coordd.auth import Auth
from coordd.http.request import JSON, Answer, Request, Response
from coordd.http.router import Param, Route
from coordd.model import Token
from coordd.problems import Fault, invalid, not_found
from coordd.rules import checked_name, decode, decoder_of
from coordd.store import Feed, Imported, Store, StoreBusyError, StoreError, StoreFullError

FEED_MAX = 10_000

_FEED_AFTER = Param("after", params.Seq, "A feed's `cursor`; 0 is the beginning.", default=0,
                    whole=True)
_FEED_LIMIT = Param("limit", Annotated[int, Meta(ge=1, le=FEED_MAX)], "How many at most.",
                    default=1000, whole=True)

_decode_token = decoder_of(views.TokenBody)
_decode_import = decoder_of(views.ImportBody)
_decode_epoch = decoder_of(views.EpochBody)


class Admin:
    """The calls under `/api/v1/admin`."""

    def __init__(self, auth: Auth, store: Store) -> None:
        self._auth = auth
        self._store = store

    async def _tokens(self, request: Request) -> Answer:
        self._auth.operator(request)
        tokens = [_view(token) for token in await self._store.tokens()]
        return msgspec.json.encode(views.TokensView(tokens))

    async def _issue(self, request: Request) -> Answer:
        self._auth.operator(request)
        agent = checked_name(decode(_decode_token, request.body).agent, "agent")
        token, text = await self._auth.issue(agent)
        view = views.NewTokenView(token.keyid, token.agent, token.created_at, text)
        return Response(200, msgspec.json.encode(view), JSON, (("Cache-Control", "no-store"),))

    async def _revoke(self, request: Request) -> Answer:
        self._auth.operator(request)
        token = await self._auth.revoke(request.args[0])
        if token is None:
            raise not_found("token")
        return msgspec.json.encode(_view(token))

    async def _feed(self, request: Request) -> Answer:
        self._auth.operator(request)
        return msgspec.json.encode(await self._store.feed(**request.query()))

    async def _import(self, request: Request) -> Answer:
        self._auth.operator(request)
        body = decode(_decode_import, request.body)
        imported = await self._store.import_(body.changes)
        await self._auth.refresh()
        return msgspec.json.encode(imported)

    async def _seal(self, request: Request) -> Answer:
        self._auth.operator(request)
        epoch = decode(_decode_epoch, request.body).epoch
        try:
            last = await self._store.seal(epoch)
        except StoreError as error:
            raise _epoch_problem(error) from error
        return msgspec.json.encode(views.SealView(epoch, last))

    async def _unseal(self, request: Request) -> Answer:
        self._auth.operator(request)
        epoch = decode(_decode_epoch, request.body).epoch
        try:
            await self._store.unseal(epoch)
        except StoreError as error:
            raise _epoch_problem(error) from error
        last = (await self._store.feed(0, 1)).last
        return msgspec.json.encode(views.SealView(epoch, last))

    def routes(self) -> Sequence[Route]:
        """The calls of this module."""
        base = "/api/v1/admin"
        admin: dict[str, Any] = {"group": "Operator", "access": "admin"}
        seal: dict[str, Any] = {"body": views.EpochBody, "body_example": {"epoch": 1},
                                "answer": views.SealView, "writes": True, **admin}
        return (
            Route("GET", f"{base}/tokens", self._tokens, "List the tokens", "Never a secret.",
                  answer=views.TokensView, **admin),
            Route("POST", f"{base}/tokens", self._issue, "Make a token for an agent",
                  "The only time that the token is shown.", body=views.TokenBody,
                  body_example={"agent": "code"}, answer=views.NewTokenView, writes=True, **admin),
            Route("POST", f"{base}/tokens/{{keyid}}/revoke", self._revoke, "Revoke a token",
                  "At once on this server, within seconds on others.",
                  path_params=(params.KEYID_PATH,), answer=views.TokenView, writes=True,
                  problems=("not-found",), **admin),
            Route("GET", f"{base}/feed", self._feed, "Read the feed of changes",
                  "All that ever changed the store, in order.", query=(_FEED_AFTER, _FEED_LIMIT),
                  answer=Feed, **admin),
            Route("POST", f"{base}/import", self._import, "Import changes",
                  "Of a feed or of the old file tool: ids and times are kept; all are durable or "
                  "none; what is there already is skipped. Works on a sealed store.",
                  body=views.ImportBody, body_example={"changes": []}, answer=Imported,
                  writes=True, **admin),
            Route("POST", f"{base}/seal", self._seal, "Refuse all writes but imports",
                  "Over restarts too.", **seal),
            Route("POST", f"{base}/unseal", self._unseal, "Take writes again", "", **seal),
        )


def _view(token: Token) -> views.TokenView:
    return views.TokenView(token.keyid, token.agent, token.created_at, token.revoked_at,
                           token.admin)


def _epoch_problem(error: StoreError) -> Exception:
    if isinstance(error, StoreBusyError | StoreFullError):
        return error
    return invalid([Fault("epoch", str(error))])
