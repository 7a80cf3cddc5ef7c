"""Sending: from a request's bytes to drafts that the store takes, and receipts as JSON.

A message that is right by a glance takes a short path without a task; whatever needs a look into
the store first (a group's members, the thread of the message replied to) is a coroutine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from coordd.auth import Identity
from coordd.http.request import Answer, Later
from coordd.metrics import Metrics
from coordd.model import BATCH_MAX, NewMessage
from coordd.problems import Fault, Problem, invalid
from coordd.rules import RECIPIENTS_MAX, Names, decode, decoder_of
from coordd.store import Claim, Draft, Receipt, Store

_decode_one: Final[Callable[[bytes], NewMessage]] = decoder_of(NewMessage)
_decode_many: Final[Callable[[bytes], list[NewMessage]]] = decoder_of(list[NewMessage])

Render = Callable[[list[Receipt]], Answer]


class _Parties(msgspec.Struct):
    from_agent: str
    to_agent: str
    thread_id: str


_decode_parties: Final[Callable[[msgspec.Raw], _Parties]] = decoder_of(_Parties)


class Sending:
    """The rules of `POST /messages` and `/messages/batch`."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._names = Names()

    def one(self, identity: Identity, body: bytes, key: str | None
            ) -> Later | Coroutine[Any, Any, Answer]:
        """Send the message of `body`. Raises Problem (400, 403, 422) or a StoreError."""
        new = decode(_decode_one, body)
        if key is None and identity.agent is None and self._names.plain(new):
            draft = Draft(new.from_agent, (new.to_agent,), new.subject, new.body,  # type: ignore[arg-type]
                          new.priority)
            return Later(self._store.append((draft,)), self._receipt)
        return self._send(identity, [new], key, self._receipt, "")

    def batch(self, identity: Identity, body: bytes, key: str | None
              ) -> Later | Coroutine[Any, Any, Answer]:
        """Send all messages of `body` or none. Raises as `one` does, naming the item's index."""
        news = decode(_decode_many, body)
        if not 1 <= len(news) <= BATCH_MAX:
            raise invalid([Fault("the request", f"a batch holds 1-{BATCH_MAX} messages, this one "
                                                f"{len(news)}")])
        return self._send(identity, news, key, self._receipts, "[{}].")

    def _send(self, identity: Identity, news: list[NewMessage], key: str | None, render: Render,
              prefix: str) -> Later | Coroutine[Any, Any, Answer]:
        agent = identity.agent
        if agent is not None:
            for i, new in enumerate(news):
                if new.from_agent != agent:
                    raise Problem("forbidden", f"{prefix.format(i)}from_agent: the token is "
                                               f"{agent}'s, it cannot send as another")
        odd = self._names.odd(news)
        if odd:
            faults = [fault for i in odd
                      for fault in self._names.faults(news[i], prefix.format(i))]
            if faults:
                raise invalid(faults)
        claim = _claim(news, key) if key is not None else None
        if odd and any(map(_asks_the_store, news)):
            return self._resolve(news, claim, render, prefix)
        drafts = [
            Draft(new.from_agent, (to,) if (to := new.to_agent).__class__ is str else _distinct(to),  # type: ignore[arg-type]
                  new.subject, new.body, new.priority, new.thread_id, new.in_reply_to,
                  new.expires_at)
            for new in news]
        for i in odd:
            _bounded(drafts[i].recipients, prefix.format(i))
        return Later(self._store.append(drafts, claim), render)

    async def _resolve(self, news: list[NewMessage], claim: Claim | None, render: Render,
                       prefix: str) -> Answer:
        groups: dict[str, list[str]] = {}
        drafts = []
        for i, new in enumerate(news):
            recipients = await self._expanded(new, groups, prefix.format(i))
            thread_id = new.thread_id
            if thread_id is None and new.in_reply_to is not None:
                thread_id = await self._thread_of(new.in_reply_to, new.from_agent)
            drafts.append(Draft(new.from_agent, recipients, new.subject, new.body, new.priority,
                                thread_id, new.in_reply_to, new.expires_at))
        return render(await self._store.append(drafts, claim))

    async def _expanded(self, new: NewMessage, groups: dict[str, list[str]], prefix: str
                        ) -> tuple[str, ...]:
        """The recipients: groups by their members (but the sender), doubles once, in order."""
        to = [new.to_agent] if isinstance(new.to_agent, str) else new.to_agent
        out: dict[str, None] = {}
        for name in to:
            if not name.startswith("@"):
                out[name] = None
                continue
            if name not in groups:
                group = await self._store.group(name[1:])
                groups[name] = group.members if group else []
            members = [member for member in groups[name] if member != new.from_agent]
            if not members:
                what = ("has no member but the sender" if groups[name]
                        else "is no group, or one without members")
                raise invalid([Fault(f"{prefix}to_agent", f"\"{name}\" {what}: set its members "
                                     f"with PUT /api/v1/groups/{name[1:]}")])
            out.update(dict.fromkeys(members))
        recipients = tuple(out)
        _bounded(recipients, prefix)
        return recipients

    async def _thread_of(self, message_id: str, sender: str) -> str | None:
        """The thread of the message replied to, where the sender is party to it."""
        for raw in await self._store.message(message_id):
            seen = _decode_parties(raw)
            if sender in (seen.from_agent, seen.to_agent):
                return seen.thread_id
        return None

    def _receipt(self, receipts: list[Receipt]) -> bytes:
        self._metrics.messages_stored += 1
        return _receipt_json(receipts[0]).encode()

    def _receipts(self, receipts: list[Receipt]) -> bytes:
        self._metrics.messages_stored += len(receipts)
        # Written out for the usual case: a call for each message is a tenth of a batch's time.
        items = [
            f'{{"id":"{one.id}","seq":{to[0][1]},"thread_id":"{one.thread_id}","created_at":'
            f'"{one.created_at}","deliveries":[{{"to_agent":"{to[0][0]}","seq":{to[0][1]}}}]}}'
            if len(to := one.deliveries) == 1 else _receipt_json(one) for one in receipts]
        return f'{{"receipts":[{",".join(items)}]}}'.encode()


def _receipt_json(receipt: Receipt) -> str:
    """The receipt as JSON. Ids, names and times hold no character that JSON escapes."""
    if len(receipt.deliveries) == 1:
        (to_agent, seq), = receipt.deliveries
        deliveries = f'{{"to_agent":"{to_agent}","seq":{seq}}}'
    else:
        seq = receipt.deliveries[0][1]
        deliveries = ",".join([f'{{"to_agent":"{name}","seq":{place}}}'
                               for name, place in receipt.deliveries])
    return (f'{{"id":"{receipt.id}","seq":{seq},"thread_id":"{receipt.thread_id}",'
            f'"created_at":"{receipt.created_at}","deliveries":[{deliveries}]}}')


def _asks_the_store(new: NewMessage) -> bool:
    to = new.to_agent
    return (any(name.startswith("@") for name in ([to] if isinstance(to, str) else to))
            or (new.in_reply_to is not None and new.thread_id is None))


def _distinct(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _bounded(recipients: Sequence[str], prefix: str) -> None:
    if len(recipients) > RECIPIENTS_MAX:
        raise invalid([Fault(f"{prefix}to_agent", f"{len(recipients)} recipients are more than "
                                                  f"{RECIPIENTS_MAX}")])


def _claim(news: list[NewMessage], key: str) -> Claim:
    """The key's claim; the digest is over the decoded messages, so white space does not count."""
    digest = hashlib.blake2b(msgspec.json.encode(news), digest_size=16).hexdigest()
    return Claim(news[0].from_agent, key, digest, len(news))
