"""`Client`: the API for a program that waits for each answer."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from coord import calls, config, model
from coord.errors import UnexpectedAnswer
from coord.protocol import Call, Follower, Policy, Sleep
from coord.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coord.model import Priority

P = ParamSpec("P")
T = TypeVar("T")


def decoded(decode: Callable[[Any], T], answer: Any) -> T:
    """The value of an answer's JSON. Raises UnexpectedAnswer where parts of it are missing."""
    try:
        return decode(answer)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswer(f"The server's answer can't be read ({error!r}). "
                               "Is it a coordd of this version?") from error


def _method(build: Callable[P, Call], decode: Callable[[Any], T]
            ) -> Callable[Concatenate[Client, P], T]:
    """A method that makes the call that `build` describes; arguments and docstring are its own."""
    @functools.wraps(build)
    def method(self: Client, *args: P.args, **kwargs: P.kwargs) -> T:
        return decoded(decode, self.fetch(build(*args, **kwargs)))
    return method  # type: ignore[return-value]  # wraps() types self as the builder's


class Client(Session):
    """The message server, as an agent sees it. Use one in one thread at a time.

    `url`, `token` and `ca` (the file of the authority to trust) default to $COORD_URL,
    $COORD_TOKEN, $COORD_CA and coord's config.toml. Every call is tried again until `deadline_s`
    seconds have passed (None: for ever), a send with one Idempotency-Key, so it is stored once.
    `notice` is told of every pause between attempts.
    Raises CoordError.

        with Client() as client:
            client.send("code", "chat", "Hi", "there")
            for message in client.follow("chat"):
                print(message.body)
    """

    def __init__(self, url: str | None = None, token: str | None = None, *,
                 ca: str | None = None, deadline_s: float | None = 30.0,
                 notice: Callable[[Sleep], None] | None = None) -> None:
        server = config.find_server(url, token, ca=ca)
        super().__init__(server.url, server.token, ca=server.ca,
                         policy=Policy(deadline_s=deadline_s), notice=notice)

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

    def reply(self, agent: str, message_id: str, body: str, *, priority: Priority | None = None,
              key: str | None = None) -> model.Receipt:
        """Answer a message that `agent` received: to its sender, in its thread."""
        message = self.fetch(calls.message(message_id, agent=agent))
        call = calls.reply(agent, message, body, priority=priority, key=key)
        return decoded(model.receipt, self.fetch(call))

    def follow(self, agent: str, *, after: int | None = None, wait_s: float = 30.0,
               min_priority: Priority | None = None, patience_s: float | None = None
               ) -> Iterator[model.Message]:
        """The messages above seq `after` as they arrive, without end; None: those from now on.

        A cut connection or a server that restarts is waited for, up to `patience_s` (None: for
        ever), and nothing is skipped or repeated. To go on in another process, keep the last
        message's seq. `wait_s` (up to 60): how long one request waits on the server.
        """
        if after is None:
            after = self.inbox(agent, limit=1).last_seq
        follower = Follower(agent, after, wait_s=wait_s, min_priority=min_priority)
        policy = self.policy._replace(deadline_s=patience_s)
        return (decoded(model.message, one) for page in self.pages(follower, policy)
                for one in page)

    def pages(self, follower: Follower, policy: Policy) -> Iterator[list[Any]]:
        """What arrives at `follower`, as JSON."""
        while True:
            yield follower.take(self.fetch(follower.call(), policy))
