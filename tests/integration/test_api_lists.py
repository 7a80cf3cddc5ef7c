"""Pages, long-polls, history, search, the registry, the audit log and the counts, over HTTP."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from integration.test_api_messages import message, refused, sent


def _fill(api: httpx.Client, sender: str, to: str, count: int) -> list[str]:
    items = [message(sender, to, subject=str(i)) for i in range(count)]
    answer = api.post("/messages/batch", json=items)
    return [receipt["id"] for receipt in answer.json()["receipts"]]


def _pages(api: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get(path, params={**query, **cursor}).json()
        out += page["messages"]
        if page["next_cursor"] is None:
            return out
        assert page["messages"]
        cursor = {"cursor": page["next_cursor"]}


def test_an_inbox_is_newest_first_in_pages(api: httpx.Client, agent: str, other: str) -> None:
    ids = _fill(api, agent, other, 250)
    first = api.get(f"/inbox/{other}").json()
    assert [m["id"] for m in first["messages"]] == ids[::-1][:100]
    assert first["last_seq"] == 250
    assert [m["id"] for m in _pages(api, f"/inbox/{other}")] == ids[::-1]
    assert [m["id"] for m in _pages(api, f"/inbox/{other}", limit=7, order="oldest")] == ids


def test_an_inbox_is_followed_by_seq(api: httpx.Client, agent: str, other: str) -> None:
    ids = _fill(api, agent, other, 5)
    page = api.get(f"/inbox/{other}", params={"after": 2}).json()
    assert [m["id"] for m in page["messages"]] == ids[2:]
    newest = api.get(f"/inbox/{other}", params={"after": 2, "order": "newest"}).json()
    assert [m["id"] for m in newest["messages"]] == ids[2:][::-1]


def test_an_inbox_is_filtered(api: httpx.Client, agent: str, other: str) -> None:
    for priority in ("critical", "high", "normal", "low", "info"):
        sent(api, agent, other, priority=priority)
    first = api.get(f"/inbox/{other}", params={"min_priority": "high"}).json()["messages"]
    assert [m["priority"] for m in first] == ["high", "critical"]
    api.post(f"/messages/{first[0]['id']}/read")
    unread = api.get(f"/inbox/{other}", params={"unread": "true"}).json()["messages"]
    assert [m["seq"] for m in unread] == [5, 4, 3, 1]
    assert len(api.get(f"/inbox/{other}", params={"unread": "false"}).json()["messages"]) == 5


def test_an_empty_inbox_is_a_page(api: httpx.Client, agent: str) -> None:
    assert api.get(f"/inbox/{agent}").json() == {"messages": [], "next_cursor": None,
                                                 "last_seq": 0}


@pytest.mark.parametrize(("query", "where"), [
    ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"), ("order=up", "order"),
    ("after=-1", "after"), ("unread=yes", "unread"), ("min_priority=huge", "min_priority"),
    ("wait=61", "wait"), ("wait=nan", "wait"), ("page=1", "page"), ("cursor=", "cursor"),
    ("cursor=nonsense", "cursor"), ("limit=5&limit=6", "limit"),
])
def test_a_wrong_parameter_is_named(api: httpx.Client, agent: str, query: str, where: str) -> None:
    problem = refused(api.get(f"/inbox/{agent}?{query}"), 422, "invalid")
    assert problem["errors"][0]["where"] == where


def test_a_long_poll_answers_when_the_message_comes(api: httpx.Client, agent: str, other: str
                                                    ) -> None:
    pages: list[Any] = []

    def wait() -> None:
        pages.append(httpx.get(f"{api.base_url}inbox/{other}", params={"wait": 60, "after": 0},
                               timeout=90).json())

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    receipt = sent(api, agent, other)
    waiting.join(90)
    assert [m["id"] for m in pages[0]["messages"]] == [receipt["id"]]


def test_a_long_poll_that_gets_nothing_is_an_empty_page(api: httpx.Client, agent: str) -> None:
    page = api.get(f"/inbox/{agent}", params={"wait": "0.05"}).json()
    assert page["messages"] == []


def test_history(api: httpx.Client, agent: str, other: str) -> None:
    ids = _fill(api, agent, other, 3)
    both = sent(api, agent, [other, f"{other}.b"])
    page = api.get(f"/sent/{agent}").json()
    assert {m["id"] for m in page["messages"][:2]} == {both["id"]}
    assert [m["id"] for m in page["messages"][2:]] == ids[::-1]
    assert page["last_seq"] == 0
    assert len(_pages(api, f"/sent/{agent}", limit=2)) == 5
    assert api.get("/threads/unknown").json()["messages"] == []


def test_search(api: httpx.Client, agent: str, other: str) -> None:
    one = sent(api, agent, other, subject=f"Deploy {agent}", body="The kettle is ON")
    two = sent(api, other, agent, subject="Re", body=f"kettle? {agent}")
    found = api.get("/search", params={"q": f"KETTLE {agent}"}).json()
    assert [m["id"] for m in found["messages"]] == [two["id"], one["id"]]
    found = api.get("/search", params={"q": f"deploy kettle {agent}", "agent": other}).json()
    assert [m["id"] for m in found["messages"]] == [one["id"]]
    assert api.get("/search", params={"q": agent, "agent": "nobody"}).json()["messages"] == []
    refused(api.get("/search"), 422, "invalid")


def test_the_registry(api: httpx.Client, agent: str, other: str) -> None:
    refused(api.get(f"/agents/{agent}"), 404, "not-found")
    made = api.put(f"/agents/{agent}", json={"description": "writes code ☃"})
    assert made.status_code == 200
    assert made.json()["description"] == "writes code ☃"
    assert api.get(f"/agents/{agent}").json() == made.json()
    again = api.put(f"/agents/{agent}", json={"description": "reads"}).json()
    assert again["created_at"] == made.json()["created_at"]
    assert again in api.get("/agents").json()["agents"]
    refused(api.get(f"/groups/{agent}"), 404, "not-found")
    group = api.put(f"/groups/{agent}", json={"members": [other, agent, other]}).json()
    assert group["members"] == [other, agent]
    assert api.get(f"/groups/{agent}").json() == group
    assert group in api.get("/groups").json()["groups"]
    assert api.put(f"/groups/{agent}", json={"members": []}).json()["members"] == []


@pytest.mark.parametrize(("path", "body", "where"), [
    ("agents", {}, "description"), ("agents", {"description": "a\0"}, "description"),
    ("agents", {"description": "x" * 5000}, "description"),
    ("agents", {"description": "é" * 4000}, "description"),
    ("groups", {"members": ["a", "b/c"]}, "members[1]"), ("groups", {"members": "a"}, "members"),
    ("groups", {"members": ["a"] * 101}, "members"), ("groups", {"member": []}, "member"),
])
def test_the_registry_checks_what_it_is_told(api: httpx.Client, agent: str, path: str,
                                             body: Any, where: str) -> None:
    problem = refused(api.put(f"/{path}/{agent}", json=body), 422, "invalid")
    assert problem["errors"][0]["where"] == where


def test_the_audit_log(api: httpx.Client, agent: str, other: str) -> None:
    receipt = sent(api, agent, other, subject="a | b")
    path = f"/messages/{receipt['id']}"
    api.post(f"{path}/read")
    api.post(f"{path}/ack")
    api.delete(path)
    page = api.get("/events", params={"agent": other}).json()
    events = page["events"]
    assert [e["type"] for e in events] == ["SENT", "READ", "ACKED", "DELETED"]
    assert {(e["message_id"], e["from_agent"], e["to_agent"], e["subject"]) for e in events} == {
        (receipt["id"], agent, other, "a | b")}
    assert page["last_seq"] >= events[-1]["seq"]
    after = api.get("/events", params={"agent": other, "after": events[1]["seq"],
                                       "order": "newest", "limit": 1}).json()
    assert after["events"] == [events[3]]
    rest = api.get("/events", params={"agent": other, "after": events[1]["seq"],
                                      "order": "newest", "limit": 1,
                                      "cursor": after["next_cursor"]}).json()
    assert rest["events"] == [events[2]]
    typed = api.get("/events", params={"agent": agent, "type": "ACKED"}).json()
    assert typed["events"] == [events[2]]
    refused(api.get("/events", params={"type": "sent"}), 422, "invalid")


def test_the_audit_log_of_a_span_of_time(api: httpx.Client, agent: str, other: str) -> None:
    receipt = sent(api, agent, other)
    at = datetime.fromisoformat(receipt["created_at"])
    elsewhere = at.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()
    later = (at + timedelta(microseconds=1)).isoformat()

    def found(**span: str) -> list[str]:
        page = api.get("/events", params={"agent": other, **span}).json()
        return [event["message_id"] for event in page["events"]]

    for text in (receipt["created_at"], elsewhere):
        assert found(since=text) == found(since=text, until=later) == [receipt["id"]]
        assert found(until=text) == []
    assert found(since=later) == []


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize("text", [
    "yesterday", "2026-11-23", "2026-11-23T14:32:33", "2026-11-23T25:00:00Z", "1763908353",
    "0001-01-01T00:00:00+02:00", "٢٠٢٦-11-23T00:00:00Z"])
def test_a_time_that_is_none_is_told(api: httpx.Client, name: str, text: str) -> None:
    problem = refused(api.get("/events", params={name: text}), 422, "invalid")
    [fault] = problem["errors"]
    assert fault["where"] == name
    assert text in fault["problem"]
    assert 'use RFC 3339 with an offset, such as "2030-01-31T12:00:00Z"' in fault["problem"]


def test_a_plus_that_became_a_space_is_told(api: httpx.Client) -> None:
    answer = api.get("/events?since=2026-11-23T14:32:33+02:00")
    assert "a + is written %2B" in refused(answer, 422, "invalid")["errors"][0]["problem"]


def test_the_counts(api: httpx.Client, agent: str, other: str) -> None:
    before = api.get("/stats").json()
    _fill(api, agent, other, 3)
    api.post(f"/messages/{sent(api, other, agent)['id']}/read")
    stats = api.get("/stats").json()
    assert stats["agents"][agent] == {"sent": 3, "received": 1, "unread": 0}
    assert stats["agents"][other] == {"sent": 1, "received": 3, "unread": 3}
    assert stats["messages"] == before["messages"] + 4
    assert stats["events"]["SENT"] == before["events"]["SENT"] + 4
    assert set(stats) == {"messages", "unread", "events", "agents", "size_bytes"}


def test_alive_ready_and_measured(api: httpx.Client, agent: str) -> None:
    sent(api, agent, agent)
    root = str(api.base_url).removesuffix("/api/v1/")
    assert httpx.get(f"{root}/health").json()["status"] == "ok"
    assert httpx.get(f"{root}/ready").json() == {"status": "ready"}
    text = httpx.get(f"{root}/metrics").text
    assert 'coordd_http_requests_total{method="POST",route="/api/v1/messages",status="200"}' in text
    for name in ("coordd_send_duration_seconds_bucket", "coordd_messages_stored_total",
                 "coordd_messages_waiting", "coordd_streams", "process_resident_memory_bytes"):
        assert name in text
