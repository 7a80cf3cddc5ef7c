"""What each call becomes as a request."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from coord import BadCall, NewMessage, calls, model


def test_a_send_leaves_out_what_is_not_told() -> None:
    call = calls.send("code", "chat", "Hi", "there")
    assert (call.method, call.path) == ("POST", "/api/v1/messages")
    assert json.loads(call.body or b"") == {
        "from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"}


def test_each_send_has_a_key_of_its_own_unless_given() -> None:
    first, second = calls.send("a", "b", "c", "d"), calls.send("a", "b", "c", "d")
    assert first.key
    assert first.key != second.key
    assert calls.send("a", "b", "c", "d", key="mine").headers(None)["Idempotency-Key"] == "mine"


def test_a_send_to_several_until_a_time() -> None:
    call = calls.send("a", ("b", "@ops"), "s", "b", expires_at=datetime(2030, 1, 2, tzinfo=UTC))
    told = json.loads(call.body or b"")
    assert told["to_agent"] == ["b", "@ops"]
    assert told["expires_at"] == "2030-01-02T00:00:00+00:00"


def test_text_goes_out_as_utf8() -> None:
    assert "日本".encode() in (calls.send("a", "b", "日本", "x").body or b"")


def test_text_that_is_not_utf8_is_refused_here() -> None:
    with pytest.raises(BadCall, match="not UTF-8"):
        calls.send("a", "b", "s", "\udcff")
    with pytest.raises(BadCall, match="not UTF-8"):
        calls.inbox("\udcff")


def test_a_batch_takes_values_and_mappings() -> None:
    call = calls.send_batch([NewMessage("a", ("b", "c"), "s", "x", priority="high"),
                             {"from_agent": "a", "to_agent": "b", "subject": "t", "body": "y"}])
    first, second = json.loads(call.body or b"")
    assert first == {"from_agent": "a", "to_agent": ["b", "c"], "subject": "s", "body": "x",
                     "priority": "high"}
    assert second["subject"] == "t"
    assert call.path == "/api/v1/messages/batch"
    assert call.key


def test_parts_of_a_path_can_not_leave_it() -> None:
    assert calls.inbox("../x").path == "/api/v1/inbox/..%2Fx"
    assert calls.message("a?b#c d").path == "/api/v1/messages/a%3Fb%23c%20d"
    assert calls.search("50% & more").path == "/api/v1/search?q=50%25+%26+more"


def test_an_inbox_asks_for_what_is_told() -> None:
    assert calls.inbox("chat").path == "/api/v1/inbox/chat"
    call = calls.inbox("chat", limit=5, unread=True, min_priority="high", wait=1.5, after=0)
    assert call.path == ("/api/v1/inbox/chat?limit=5&after=0&unread=true&min_priority=high"
                         "&wait=1.5")
    assert call.wait_s == 1.5


def test_the_token_is_a_header_and_nowhere_else() -> None:
    call = calls.stats()
    assert call.headers("coord_1_s")["Authorization"] == "Bearer coord_1_s"
    assert "Authorization" not in call.headers(None)


@pytest.mark.parametrize(("subject", "expected"), [
    ("Hi", "Re: Hi"), ("Re: Hi", "Re: Hi"), ("RE: Hi", "RE: Hi"), ("", "Re: "),
    ("a\tb\x7f", "Re: a b "), ("x" * 200, "Re: " + "x" * 195 + "…")])
def test_a_replys_subject(subject: str, expected: str) -> None:
    assert calls.reply_subject(subject) == expected
    assert len(expected) <= calls.SUBJECT_LENGTH_MAX


def test_a_reply_goes_to_the_sender() -> None:
    call = calls.reply("chat", {"id": "1", "from_agent": "code", "subject": "Hi"}, "yes", key="k")
    assert json.loads(call.body or b"") == {
        "from_agent": "chat", "to_agent": "code", "subject": "Re: Hi", "body": "yes",
        "in_reply_to": "1"}
    assert call.again == "coord reply … --key k"


def test_a_newer_servers_fields_are_passed_over() -> None:
    assert model.agent({"name": "a", "description": "", "created_at": "t", "updated_at": "t",
                        "colour": "red"}) == model.Agent("a", "", "t", "t")
