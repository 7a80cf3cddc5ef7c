"""Hooks and events."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import msgspec
import pytest

from coordd.model import Core
from coordd.store import Change
from coordd.work.mail import message_of
from coordd.work.model import Hook, Occurrence, event_id, mark_of, occurrences_of, wait_s
from coordd.work.webhook import signature, slack_text

SENT = Change("sent", "2026-11-30T15:00:00.000000Z", 12, message=Core(
    "m1", "code", "Hi", "there", "high", "m1", None, "2026-11-30T15:00:00.000000Z", None),
    deliveries=[("chat", 3), ("ops", 7)])


def hook(**fields: object) -> Hook:
    return msgspec.convert({"id": "h", "kind": "webhook", "target": "t", "secret": "s",
                            "created_at": "x", "since": 0, **fields}, Hook)


def test_a_message_to_two_is_two_events_with_the_seqs_of_the_audit_log() -> None:
    found = occurrences_of(SENT)
    assert [(each.seq, each.to_agent) for each in found] == [(11, "chat"), (12, "ops")]
    assert found[0].id != found[1].id


def test_an_events_id_is_made_of_what_happened_alone() -> None:
    moved = msgspec.structs.replace(SENT, pos=99)
    assert [e.id for e in occurrences_of(moved)] == [e.id for e in occurrences_of(SENT)]
    assert event_id("READ", "m1", "chat") != event_id("SENT", "m1", "chat")


def test_a_change_of_state_is_told_with_its_message() -> None:
    read = Change("read", "2026-11-30T15:01:00Z", 13, id="m1", agent="chat")
    found = mark_of(read, "code", "Hi", "low")
    assert (found.type, found.seq, found.message_id, found.to_agent) == ("READ", 13, "m1", "chat")
    assert (found.from_agent, found.subject, found.priority) == ("code", "Hi", "low")


@pytest.mark.parametrize(("fields", "wanted"), [
    ({}, True), ({"to_agent": "chat"}, True), ({"to_agent": "ops"}, False),
    ({"types": ["SENT"]}, True), ({"types": ["READ", "ACKED"]}, False),
    ({"min_priority": "high"}, True), ({"min_priority": "normal"}, True),
    ({"min_priority": "critical"}, False), ({"since": 10}, True), ({"since": 11}, False)])
def test_a_hook_chooses(fields: dict[str, object], *, wanted: bool) -> None:
    assert hook(**fields).wants(occurrences_of(SENT)[0]) is wanted


def test_each_failure_doubles_the_wait_up_to_a_bound() -> None:
    assert [wait_s(n, 2) for n in (1, 2, 3, 4)] == [2, 4, 8, 16]
    assert wait_s(1000, 2) == 3600
    assert wait_s(1000, 2, 60) == 60


def test_a_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's own libraries."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    told = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330." + body
    assert told == "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert told == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def occurrence(**fields: object) -> Occurrence:
    return msgspec.convert({"id": "evt_1", "seq": 1, "timestamp": "t", "type": "SENT",
                            "message_id": "m1", "from_agent": "code", "to_agent": "chat",
                            "subject": "Hi", "priority": "normal", **fields}, Occurrence)


def test_a_subject_is_no_link_and_no_mention_in_slack() -> None:
    text = slack_text(occurrence(subject="<!channel> & <http://x|y>", priority="critical"))
    assert "<" not in text
    assert "&lt;!channel&gt; &amp;" in text
    assert "(critical)" in text
    assert json.loads(msgspec.json.encode({"text": text}))["text"] == text


def test_mail_of_the_same_event_has_the_same_id_and_a_subject_of_one_line() -> None:
    one, two = (message_of("coordd@example.org", "ops@example.org",
                           occurrence(subject="a\nBcc: x@example.org")) for _ in range(2))
    assert one["Message-ID"] == two["Message-ID"] == "<evt_1@example.org>"
    assert one["Subject"] == "[chat] a Bcc: x@example.org"
    assert one["Bcc"] is None
