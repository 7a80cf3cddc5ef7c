"""`AsyncClient`: the API for a program with an event loop, over httpx."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from coord import calls, config, model
from coord.client import decoded
from coord.protocol import Call, Failure, Follower, Policy, Response, Send, Sleep, exchange
from coord.session import address, check_trust, tls_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coord.model import Priority

P = ParamSpec("P")
T = TypeVar("T")


def _method(build: Callable[P, Call], decode: Callable[[Any], T]
            ) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    """A method that makes the call that `build` describes; arguments and docstring are its own."""
    @functools.wraps(build)
    async def method(self: AsyncClient, *args: P.args, **kwargs: P.kwargs) -> T:
        return decoded(decode, await self.fetch(build(*args, **kwargs)))
    return method  # type: ignore[return-value]  # wraps() types self as the builder's


class AsyncClient:
    """The message server, as an agent sees it. Its methods are those of `Client`, awaited; they
    may be called from many tasks at once.

    `url`, `token`, `ca`, `deadline_s`, `notice` as for `Client`. `connections`: the most to open.

        async with AsyncClient() as client:
            await client.send("code", "chat", "Hi", "there")
            async for message in client.follow("chat"):
                print(message.body)
    """

    def __init__(self, url: str | None = None, token: str | None = None, *,
                 ca: str | None = None, deadline_s: float | None = 30.0, connections: int = 100,
                 notice: Callable[[Sleep], None] | None = None) -> None:
        server = config.find_server(url, token, ca=ca)
        where = self._where = address(server.url)
        self.url = where.url
        self.policy = Policy(deadline_s=deadline_s)
        self._token = server.token
        self._notice = notice
        # The same certificates as `Client`, and like it no proxies.
        verify = tls_context(server.ca) if where.scheme == "https" else True
        self._http = httpx.AsyncClient(
            verify=verify, trust_env=False,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections))

    async def fetch(self, call: Call, policy: Policy | None = None) -> Any:
        """Make `call` and return its JSON, None for an empty answer. Raises CoordError."""
        steps = exchange(call, self.url, policy or self.policy, time.monotonic, random.random)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Send):
                    step = steps.send(await self._exchange(step))
                else:
                    if self._notice is not None:
                        self._notice(step)
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
        except StopIteration as end:
            return end.value

    async def _exchange(self, send: Send) -> Response | Failure:
        call = send.call
        timeout = httpx.Timeout(send.timeout_s, connect=send.connect_s)
        try:
            answer = await self._http.request(call.method, self.url + call.path, content=call.body,
                                              headers=call.headers(self._token), timeout=timeout)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            check_trust(error, self._where)
            return Failure(_reason(error), reached=False)
        except httpx.TransportError as error:
            return Failure(_reason(error), reached=True)
        return Response(answer.status_code, answer.headers, answer.content)

    send = _method(calls.send, model.receipt)
    send_batch = _method(calls.send_batch, model.receipts)
    inbox = _method(calls.inbox, model.page)
    message = _method(calls.message, model.message)
    read = _method(calls.read, model.message)
    ack = _method(calls.ack, model.message)
    delete = _method(calls.delete, model.nothing)
    sent = _method(calls.sent, model.page)
    thread = _method(calls.thread, model.page)
    search = _method(calls.search, model.page)
    agents = _method(calls.agents, model.agents)
    agent = _method(calls.agent, model.agent)
    put_agent = _method(calls.put_agent, model.agent)
    groups = _method(calls.groups, model.groups)
    group = _method(calls.group, model.group)
    put_group = _method(calls.put_group, model.group)
    events = _method(calls.events, model.event_page)
    stats = _method(calls.stats, model.stats)
    ready = _method(calls.ready, model.nothing)

    async def reply(self, agent: str, message_id: str, body: str, *,
                    priority: Priority | None = None, key: str | None = None) -> model.Receipt:
        """Answer a message that `agent` received: to its sender, in its thread."""
        message = await self.fetch(calls.message(message_id, agent=agent))
        call = calls.reply(agent, message, body, priority=priority, key=key)
        return decoded(model.receipt, await self.fetch(call))

    async def follow(self, agent: str, *, after: int | None = None, wait_s: float = 30.0,
                     min_priority: Priority | None = None, patience_s: float | None = None
                     ) -> AsyncIterator[model.Message]:
        """As `Client.follow`; with `after` None, "now" is the loop's first step."""
        if after is None:
            after = (await self.inbox(agent, limit=1)).last_seq
        follower = Follower(agent, after, wait_s=wait_s, min_priority=min_priority)
        policy = self.policy._replace(deadline_s=patience_s)
        while True:
            for one in follower.take(await self.fetch(follower.call(), policy)):
                yield decoded(model.message, one)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _reason(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "timed out"
    return str(error).lower() or type(error).__name__
