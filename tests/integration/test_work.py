"""Hooks of a real coordd: who is told of what, when, and what becomes of failures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.hooked import Hooked
from support.receiver import MailServer, Receiver, await_


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Hooked]:
    with Hooked(tmp_path / "data", hook_tries=3) as running:
        yield running


def subjects(receiver: Receiver) -> list[str]:
    return sorted(call.json["subject"] for call in receiver.calls)


def test_a_hook_is_told_of_each_event_once_and_signed(site: Hooked, receiver: Receiver) -> None:
    site.send("before")
    made = site.hook(receiver)
    [message] = site.send("Hi", to=["chat", "ops"])
    site.http.post(f"/messages/{message}/read?agent=chat")
    site.http.delete(f"/messages/{message}?agent=chat")
    await_(lambda: len(receiver.calls) == 4)
    assert site.await_idle()["done"] == 4
    events = {event["seq"]: event for event in site.http.get("/events").json()["events"]}
    for call in receiver.calls:
        told = call.json
        assert told.pop("id") == call.headers["Webhook-Id"]
        assert told.pop("priority") == "normal"
        assert told == events[told["seq"]]
        key = base64.b64decode(made["secret"].removeprefix("whsec_"))
        stamp = call.headers["Webhook-Timestamp"]
        signed = f"{call.headers['Webhook-Id']}.{stamp}.".encode() + call.body
        assert call.headers["Webhook-Signature"] == "v1," + base64.b64encode(
            hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert abs(int(stamp) - time.time()) < 60
    assert {call.json["type"] for call in receiver.calls} == {"SENT", "READ", "DELETED"}
    assert len(set(receiver.ids())) == 4


def test_a_hook_is_told_of_what_it_chose(site: Hooked, receiver: Receiver) -> None:
    site.hook(receiver.url("/chat"), to_agent="chat", types=["SENT"])
    site.hook(receiver.url("/urgent"), min_priority="high")
    site.send("a", to=["chat", "ops"])
    [message] = site.send("b", to="ops", priority="critical")
    site.http.post(f"/messages/{message}/ack?agent=ops")
    site.await_idle()
    told = sorted((call.path, call.json["type"], call.json["subject"], call.json["to_agent"])
                  for call in receiver.calls)
    assert told == [("/chat", "SENT", "a", "chat"), ("/urgent", "ACKED", "b", "ops"),
                    ("/urgent", "SENT", "b", "ops")]


def test_a_receiver_that_was_down_is_told_when_it_is_back(site: Hooked, receiver: Receiver) -> None:
    site.hook(receiver)
    receiver.stop()
    site.send("a")
    await_(lambda: site.work()["failed"])
    receiver.start()
    await_(lambda: subjects(receiver) == ["a"])
    assert site.await_idle()["dead"] == 0


def test_one_that_always_fails_leaves_dead_letters_that_can_be_tried_again(
        site: Hooked, receiver: Receiver) -> None:
    receiver.status = 500
    made = site.hook(receiver)
    [message] = site.send("a")
    [dead] = await_(site.dead)
    assert (dead["hook"], dead["type"], dead["message_id"]) == (made["id"], "SENT", message)
    assert (dead["tries"], dead["error"]) == (3, "127.0.0.1 answered 500")
    assert receiver.ids() == [dead["event"]] * 3
    receiver.status = 200
    answer = site.http.post("/admin/work/retry", json={"event": dead["event"]})
    assert answer.json() == {"retried": 1}
    await_(lambda: len(receiver.calls) == 4)
    site.await_idle()
    assert site.dead() == []
    assert site.http.post("/admin/work/retry", json={}).json() == {"retried": 0}


def test_one_that_fails_does_not_keep_others_waiting(site: Hooked, receiver: Receiver) -> None:
    with Receiver() as slow:
        slow.delay_s = 30
        site.hook(slow)
        site.hook(receiver)
        began_s = time.monotonic()
        site.send(*map(str, range(50)))
        await_(lambda: len(receiver.calls) == 50)
        assert time.monotonic() - began_s < 8


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(site: Hooked, receiver: Receiver,
                                                     status: int) -> None:
    receiver.status = status
    site.hook(receiver)
    site.send("a")
    [dead] = await_(site.dead)
    assert dead["error"] == f"127.0.0.1 answered {status}, and redirects are not followed"
    assert {call.path for call in receiver.calls} == {"/hook"}


def test_a_removed_hook_is_told_of_nothing_that_waits(site: Hooked, receiver: Receiver) -> None:
    receiver.status = 500
    made = site.hook(receiver)
    site.send("a", "b")
    await_(lambda: site.work()["failed"])
    assert site.http.delete(f"/admin/hooks/{made['id']}").status_code == 204
    assert site.http.delete(f"/admin/hooks/{made['id']}").status_code == 404
    receiver.status = 200
    before = len(receiver.calls)
    site.send("c")
    site.await_idle()
    time.sleep(0.5)
    assert len(receiver.calls) <= before + 1  # one may have been under way
    assert site.http.get("/admin/hooks").json() == {"hooks": []}


def test_a_name_that_leads_inside_is_not_called(tmp_path: Path, receiver: Receiver) -> None:
    """As with DNS rebinding: the name is allowed, what it leads to is not."""
    with Hooked(tmp_path / "data", hook_tries=1, webhook_allow=["localhost"]) as site:
        site.hook(f"http://localhost:{receiver.port}/hook")
        site.send("a")
        [dead] = await_(site.dead)
        assert "no address of the internet" in dead["error"]
        assert receiver.calls == []


@pytest.mark.parametrize(("hook", "words"), [
    ({"kind": "webhook", "target": "http://10.0.0.1/"}, "webhook_allow does not allow 10.0.0.1"),
    ({"kind": "webhook", "target": "ftp://127.0.0.1/"}, "no URL"),
    ({"kind": "webhook", "target": "http://user:pass@127.0.0.1/"}, "without a user"),
    ({"kind": "webhook", "target": "http://127.0.0.1/\r\nX: y"}, "no URL"),
    ({"kind": "webhook", "target": "http://127.0.0.1:99999/"}, "no URL"),
    ({"kind": "slack", "target": "127.0.0.1"}, "no URL"),
    ({"kind": "email", "target": "ops@example.org"}, "no smtp_host"),
    ({"kind": "email", "target": "ops"}, "no address"),
    ({"kind": "email", "target": "a@b,c@d"}, "no address"),
    ({"kind": "sms", "target": "12345"}, "kind"),
    ({"kind": "webhook", "target": "http://127.0.0.1/", "types": ["LOST"]}, "types"),
    ({"kind": "webhook", "target": "http://127.0.0.1/", "to_agent": "@ops"}, "to_agent")])
def test_a_hook_that_could_never_be_told_is_refused(site: Hooked, hook: dict[str, object],
                                                    words: str) -> None:
    answer = site.http.post("/admin/hooks", json=hook)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_secrets_are_shown_once_and_never_logged(site: Hooked, receiver: Receiver) -> None:
    receiver.status = 500
    made = site.hook(receiver.url("/hook?token=sesame"))
    site.hook(receiver.url("/services/T0/B0/sesame"), kind="slack")
    site.send("a")
    await_(lambda: len(site.dead()) == 2)
    listed = site.http.get("/admin/hooks").text
    for told in (listed, site.server.log(), site.http.get("/admin/work/dead").text):
        assert made["secret"] not in told
        assert "sesame" not in told


def test_slack_is_told_in_its_format(site: Hooked, receiver: Receiver) -> None:
    assert site.hook(receiver, kind="slack")["secret"] is None
    site.send("<b>", priority="high")
    [call] = await_(lambda: receiver.calls)
    assert call.json == {"text": "SENT *code → chat* (high): &lt;b&gt;"}
    assert "Webhook-Signature" not in call.headers


def test_an_address_is_told_by_mail(tmp_path: Path) -> None:
    with MailServer() as mails, Hooked(
            tmp_path / "data", smtp_host="127.0.0.1", smtp_port=mails.port, smtp_tls="none",
            smtp_from="coordd@example.org", hook_tries=2) as site:
        site.hook("ops@example.org", kind="email")
        [message] = site.send("Grüße")
        [(sender, to, text)] = await_(lambda: mails.mails)
        assert (sender, to) == ("coordd@example.org", ["ops@example.org"])
        assert message in text
        site.await_idle()
        mails.refuses = True
        site.send("b")
        [dead] = await_(site.dead)
        assert dead["error"] == "127.0.0.1 refuses the recipient (550)"


def test_a_mail_server_without_tls_is_not_told_in_the_clear(tmp_path: Path) -> None:
    with MailServer() as mails, Hooked(
            tmp_path / "data", smtp_host="127.0.0.1", smtp_port=mails.port,
            smtp_from="coordd@example.org", hook_tries=1) as site:
        site.hook("ops@example.org", kind="email")
        site.send("a")
        [dead] = await_(site.dead)
        assert dead["error"] == "127.0.0.1: SMTPNotSupportedError"
        assert mails.mails == []


def test_the_calls_are_the_operators(site: Hooked) -> None:
    with httpx.Client(base_url=site.http.base_url) as anyone:
        for method, path in (("GET", "/admin/hooks"), ("POST", "/admin/hooks"),
                             ("DELETE", "/admin/hooks/x"), ("GET", "/admin/work"),
                             ("GET", "/admin/work/dead"), ("POST", "/admin/work/retry"),
                             ("GET", "/admin/work/chain")):
            assert anyone.request(method, path).status_code == 401, path


def test_metrics_tell_of_the_work(site: Hooked, receiver: Receiver) -> None:
    receiver.status = 500
    site.hook(receiver)
    site.send("a")
    await_(site.dead)

    def told() -> bool:
        text = httpx.get(f"{site.server.url}/metrics").text
        return all(f"coordd_work_{line}" in text for line in (
            "dead 1.0", "depth 0.0", "lag 0.0", "failed_total 3.0", "done_total 0.0"))

    await_(told)


def test_messages_an_hour_are_counted(site: Hooked) -> None:
    site.send(*map(str, range(7)))
    await_(lambda: sum(hour["messages"] for hour in site.work()["hours"]) == 7)
