"""The chain of messages: what anybody can compute again."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from coordd.model import Core
from coordd.store import Change
from coordd.work import chain
from coordd.work.ledger import hour_of
from coordd.work.model import Folded

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def change(*fields: str | None, to: list[tuple[str, int]]) -> Change:
    id_, from_agent, subject, body, thread, reply, created, expires = fields
    assert id_
    assert from_agent is not None
    assert subject is not None
    assert thread is not None
    assert created is not None
    return Change("sent", created, 1, message=Core(
        id_, from_agent, subject, body, "normal", thread, reply, created, expires), deliveries=to)


@given(text.filter(bool), text, text, st.none() | text, text, st.none() | text, text,
       st.none() | text, st.lists(st.tuples(text, st.integers(0, 2**53)), max_size=3))
def test_the_canonical_bytes_are_what_json_dumps_writes(
        id_: str, sender: str, subject: str, body: str | None, thread: str, reply: str | None,
        created: str, expires: str | None, to: list[tuple[str, int]]) -> None:
    found = chain.canonical(change(id_, sender, subject, body, thread, reply, created, expires,
                                   to=to))
    told = [id_, sender, to, subject, body, "normal", thread, reply, created, expires]
    assert found == json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def sent(number: int, body: str) -> Change:
    return change(f"m{number}", "code", "Hi", body, f"m{number}", None, "2026-11-30T15:00:00Z",
                  None, to=[("chat", number)])


def test_a_link_is_the_hash_of_the_one_before_and_the_digest() -> None:
    links, head = chain.extend(Folded(0, chain.START), [sent(1, "a"), sent(2, "b")])
    hash_ = bytes(32)
    for link, message in zip(links, (sent(1, "a"), sent(2, "b")), strict=True):
        digest = hashlib.sha256(chain.canonical(message)).digest()
        hash_ = hashlib.sha256(hash_ + digest).digest()
        assert (link.digest, link.hash) == (digest, hash_)
    assert head == hash_


def test_it_is_the_same_in_pieces_and_another_one_with_another_message() -> None:
    _, whole = chain.extend(Folded(0, chain.START), [sent(1, "a"), sent(2, "b")])
    _, first = chain.extend(Folded(0, chain.START), [sent(1, "a")])
    assert chain.extend(Folded(1, first), [sent(2, "b")])[1] == whole
    assert chain.extend(Folded(1, first), [sent(2, "B")])[1] != whole
    read = Change("read", "2026-11-30T15:00:00Z", 3, id="m1", agent="chat")
    assert chain.extend(Folded(2, whole), [read]) == ([], whole)


def test_the_hour_is_that_of_utc() -> None:
    assert hour_of(sent(1, "a")) == "2026-11-30T15"
    moved = Change("sent", "2026-11-30T01:10:00+0200", 1)
    assert hour_of(moved) == "2026-11-29T23"
    assert hour_of(Change("sent", "2026-11-30 at noon", 1)) == "2026-11-30 at"
