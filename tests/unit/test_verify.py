"""`coordctl verify`: what it says of a chain that the server's own code has made."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coordctl.chain import Check, Link, Verdict
from coordd.model import Core
from coordd.store import Change
from coordd.work import chain
from coordd.work.model import Folded

Feed = list[dict[str, Any]]


def feed(count: int = 4) -> Feed:
    """`count` messages to two each, as the API tells of them."""
    changes = [Change("sent", f"2026-11-30T15:00:0{n}Z", 2 * n + 2, message=Core(
        f"m{n}", "code", "Grüße \"x\"", f"body \x01 \\ {n}", "high", f"m{n}", None,
        f"2026-11-30T15:00:0{n}Z", None), deliveries=[("chat", n + 1), ("ops", n + 1)])
        for n in range(count)]
    told: Feed = msgspec.json.decode(msgspec.json.encode(changes))
    return told


def linked(changes: Feed) -> list[Link]:
    links, _ = chain.extend(Folded(0, chain.START), msgspec.convert(changes, list[Change]))
    return [Link(each.pos, each.message_id, each.digest.hex(), each.hash.hex()) for each in links]


def verdict(changes: Feed, links: list[Link], *, position: int | None = None,
            head: str | None = None, forgets: bool = False, noted: str | None = None) -> Verdict:
    check = Check(forgets=forgets, noted=noted)
    return check.run(changes, iter(links), links[-1].pos if position is None else position,
                     links[-1].hash if head is None else head, lambda: None)


def gone(changes: Feed, number: int, *agents: str) -> Feed:
    """With the text of one given back, and deleted by these."""
    changes[number]["message"]["body"] = None
    return changes + [{"type": "deleted", "at": "x", "pos": 90 + n, "id": f"m{number}",
                       "agent": agent} for n, agent in enumerate(agents)]


def test_what_is_as_it_was_stored_holds() -> None:
    links = linked(feed())
    found = verdict(feed(), links)
    assert (found.wrong, found.messages, found.gone, found.later) == ("", 4, 0, 0)
    assert found.head == links[-1].hash


def test_an_empty_store_holds() -> None:
    found = Check(forgets=False, noted=None).run([], iter([]), 0, "00" * 32, lambda: None)
    assert (found.wrong, found.head, found.noted) == ("", "00" * 32, True)


@pytest.mark.parametrize(("key", "value"), [
    ("body", "another"), ("subject", "another"), ("from_agent", "another"), ("priority", "low"),
    ("created_at", "2020-01-01T00:00:00Z"), ("thread_id", "m0"), ("in_reply_to", "m0"),
    ("expires_at", "2020-01-01T00:00:00Z")])
def test_a_changed_message_is_named(key: str, value: str) -> None:
    changed = feed()
    changed[2]["message"][key] = value
    found = verdict(changed, linked(feed()))
    assert (found.wrong, found.messages) == ("m2 is not what was stored", 2)


def test_other_recipients_are_a_change() -> None:
    changed = feed()
    changed[1]["deliveries"][0][0] = "other"
    assert verdict(changed, linked(feed())).wrong == "m1 is not what was stored"


def test_a_removed_message_is_named() -> None:
    changed = feed()
    del changed[1]
    assert verdict(changed, linked(feed())).wrong == "m1 is gone"
    del changed[-1]
    assert verdict(feed()[:3], linked(feed())).wrong == "m3 is gone"


def test_a_message_put_in_between_is_named() -> None:
    changed = feed(5)
    links = linked(feed(4))
    changed[4]["pos"] = 5
    changed.insert(2, changed.pop())
    assert verdict(changed, links).wrong == "m4 is not in the chain"


def test_a_message_in_anothers_place_is_named() -> None:
    changed = feed()
    changed[1]["message"]["id"] = "m9"
    assert verdict(changed, linked(feed())).wrong == "m9 stands in the place of m1"


def test_a_digest_that_was_made_to_fit_does_not_follow() -> None:
    changed = feed()
    changed[2]["message"]["body"] = "another"
    links = linked(feed())
    links[2] = links[2]._replace(digest=linked(changed)[2].digest)
    assert "m2: its link does not follow" in verdict(changed, links).wrong


def test_a_chain_that_was_made_anew_has_not_the_head_that_was_noted() -> None:
    noted = linked(feed())[-1].hash
    changed = feed()
    changed[0]["message"]["body"] = "another"
    links = linked(changed)
    assert verdict(changed, links).wrong == ""
    assert not verdict(changed, links, noted=noted).noted
    assert verdict(feed(), linked(feed()), noted=noted).noted
    assert verdict(feed(), linked(feed()), noted=linked(feed())[0].hash).noted
    assert verdict(feed(), linked(feed()), noted="00" * 32).noted


def test_a_head_that_is_not_that_of_the_last_link() -> None:
    links = linked(feed())
    assert "not its head" in verdict(feed(), links, head=links[0].hash).wrong


def test_the_text_of_a_deleted_message_is_gone_by_right() -> None:
    found = verdict(gone(feed(), 1, "chat", "ops"), linked(feed()))
    assert (found.wrong, found.messages, found.gone) == ("", 3, 1)


def test_a_text_that_is_gone_though_nobody_deleted_it_is_named() -> None:
    for agents in ((), ("chat",)):
        found = verdict(gone(feed(), 1, *agents), linked(feed()))
        assert found.wrong == "m1 has lost its text and was not deleted"


def test_messages_that_the_settings_let_go_leave_their_links() -> None:
    left = feed()[2:]
    links = linked(feed())
    assert verdict(left, links).wrong == "m0 is gone"
    found = verdict(left, links, forgets=True)
    assert (found.wrong, found.messages, found.gone) == ("", 2, 2)


def test_what_is_not_in_the_chain_yet_is_counted() -> None:
    found = verdict(feed(4), linked(feed(2)))
    assert (found.wrong, found.messages, found.later) == ("", 2, 2)
    assert verdict(feed(4), linked(feed(2)), position=6).wrong == "m2 is not in the chain"
