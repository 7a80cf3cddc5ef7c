"""Sending, and the states of a delivery, over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


def message(sender: str, to: Any, **more: Any) -> dict[str, Any]:
    return {"from_agent": sender, "to_agent": to, "subject": "Hi", "body": "there", **more}


def sent(api: httpx.Client, sender: str, to: Any, **more: Any) -> dict[str, Any]:
    answer = api.post("/messages", json=message(sender, to, **more))
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


def refused(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"/problems/{kind}"
    assert problem["status"] == status
    assert problem["title"]
    return problem


def test_a_receipt_and_the_message_as_its_recipient_sees_it(
        api: httpx.Client, agent: str, other: str) -> None:
    receipt = sent(api, agent, other, priority="high", expires_at="2999-01-01T00:00:00Z")
    assert receipt == {"id": receipt["id"], "seq": 1, "thread_id": receipt["id"],
                       "created_at": receipt["created_at"],
                       "deliveries": [{"to_agent": other, "seq": 1}]}
    assert api.get(f"/messages/{receipt['id']}").json() == {
        **message(agent, other), "id": receipt["id"], "seq": 1, "priority": "high",
        "thread_id": receipt["id"], "in_reply_to": None, "created_at": receipt["created_at"],
        "expires_at": "2999-01-01T00:00:00Z", "state": "unread", "read_at": None, "acked_at": None}


@pytest.mark.parametrize("text", ["", "é ☃ 💌", 'quotes " and \\ back', "a\nb\r\n\tc",
                                  "body: |\n  x", "\u2028\u2029\ufeff", "x" * 65536])
def test_bodies_come_back_as_they_were(api: httpx.Client, agent: str, other: str, text: str
                                       ) -> None:
    receipt = sent(api, agent, other, body=text)
    assert api.get(f"/messages/{receipt['id']}").json()["body"] == text


def test_seqs_rise_by_one_in_each_inbox(api: httpx.Client, agent: str, other: str) -> None:
    assert [sent(api, agent, other)["seq"] for _ in range(3)] == [1, 2, 3]
    assert sent(api, agent, agent)["seq"] == 1


def test_several_recipients_are_one_message(api: httpx.Client, agent: str, other: str) -> None:
    sent(api, agent, other)
    receipt = sent(api, agent, [other, f"{other}.b", other])
    assert receipt["seq"] == 2
    assert receipt["deliveries"] == [{"to_agent": other, "seq": 2},
                                     {"to_agent": f"{other}.b", "seq": 1}]
    one = api.get(f"/messages/{receipt['id']}", params={"agent": f"{other}.b"}).json()
    assert (one["id"], one["to_agent"], one["seq"]) == (receipt["id"], f"{other}.b", 1)


def test_a_group_reaches_its_members_but_the_sender(api: httpx.Client, agent: str, other: str
                                                    ) -> None:
    group = f"{agent}.group"
    api.put(f"/groups/{group}", json={"members": [agent, other, f"{other}.b"]})
    receipt = sent(api, agent, [f"{other}.b", f"@{group}"])
    assert [d["to_agent"] for d in receipt["deliveries"]] == [f"{other}.b", other]


def test_an_unknown_or_empty_group_is_named_with_the_mend(api: httpx.Client, agent: str) -> None:
    problem = refused(api.post("/messages", json=message(agent, "@nobody")), 422, "invalid")
    assert '"@nobody"' in problem["detail"]
    assert "PUT /api/v1/groups/nobody" in problem["detail"]
    api.put(f"/groups/{agent}.only", json={"members": [agent]})
    problem = refused(api.post("/messages", json=message(agent, f"@{agent}.only")), 422, "invalid")
    assert "no member but the sender" in problem["detail"]


def test_recipients_are_capped_after_groups_are_expanded(api: httpx.Client, agent: str) -> None:
    names = [f"{agent}.{i}" for i in range(100)]
    assert len(sent(api, agent, names + names)["deliveries"]) == 100
    problem = refused(api.post("/messages", json=message(agent, [*names, "more"])), 422, "invalid")
    assert "101 recipients" in problem["detail"]
    api.put(f"/groups/{agent}.all", json={"members": names})
    refused(api.post("/messages", json=message(agent, [f"@{agent}.all", "more"])), 422, "invalid")


def test_a_reply_is_in_the_thread_of_what_it_answers(api: httpx.Client, agent: str, other: str
                                                     ) -> None:
    first = sent(api, agent, other)
    answer = sent(api, other, agent, in_reply_to=first["id"])
    assert answer["thread_id"] == first["id"]
    again = sent(api, agent, other, in_reply_to=answer["id"])
    assert again["thread_id"] == first["id"]
    stranger = sent(api, f"{agent}.x", other, in_reply_to=first["id"])
    assert stranger["thread_id"] == stranger["id"]
    own = sent(api, other, agent, in_reply_to=first["id"], thread_id="my-thread")
    assert own["thread_id"] == "my-thread"
    unknown = sent(api, other, agent, in_reply_to="no-such-message")
    assert unknown["thread_id"] == unknown["id"]
    ids = [m["id"] for m in api.get(f"/threads/{first['id']}").json()["messages"]]
    assert ids == [first["id"], answer["id"], again["id"]]


def test_an_idempotency_key_answers_the_same_receipt(api: httpx.Client, agent: str, other: str
                                                     ) -> None:
    key = {"Idempotency-Key": "k~1"}
    first = api.post("/messages", json=message(agent, other), headers=key)
    again = api.post("/messages", json=message(agent, other), headers=key)
    assert first.json() == again.json()
    differs = api.post("/messages", json=message(agent, other, body="else"), headers=key)
    refused(differs, 409, "key-conflict")
    someone = api.post("/messages", json=message(f"{agent}.b", other), headers=key)
    assert someone.json()["id"] != first.json()["id"]
    assert api.get(f"/inbox/{other}").json()["last_seq"] == 2


def test_an_idempotency_key_holds_for_a_batch_and_a_group(api: httpx.Client, agent: str,
                                                          other: str) -> None:
    api.put(f"/groups/{agent}.g", json={"members": [other]})
    items = [message(agent, other), message(agent, f"@{agent}.g")]
    key = {"Idempotency-Key": "batch"}
    first = api.post("/messages/batch", json=items, headers=key)
    api.put(f"/groups/{agent}.g", json={"members": [other, f"{other}.b"]})
    assert api.post("/messages/batch", json=items, headers=key).json() == first.json()
    assert api.get(f"/inbox/{other}").json()["last_seq"] == 2


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "caf\xe9"])
def test_a_bad_idempotency_key_is_422(api: httpx.Client, agent: str, key: str) -> None:
    answer = api.post("/messages", json=message(agent, agent),
                      headers={"Idempotency-Key": key.encode("latin-1")})
    assert refused(answer, 422, "invalid")["errors"][0]["where"] == "Idempotency-Key"


def test_a_batch_is_stored_in_its_order(api: httpx.Client, agent: str, other: str) -> None:
    items = [message(agent, other, subject=str(i)) for i in range(1000)]
    answer = api.post("/messages/batch", json=items)
    assert answer.status_code == 200
    assert [r["seq"] for r in answer.json()["receipts"]] == list(range(1, 1001))
    page = api.get(f"/inbox/{other}", params={"order": "oldest", "limit": 1000}).json()
    assert [m["subject"] for m in page["messages"]] == [str(i) for i in range(1000)]


def test_a_bad_item_of_a_batch_is_named_and_nothing_is_stored(api: httpx.Client, agent: str,
                                                              other: str) -> None:
    items = [message(agent, other) for _ in range(5)]
    items[3]["to_agent"] = "a/b"
    problem = refused(api.post("/messages/batch", json=items), 422, "invalid")
    assert problem["errors"][0]["where"] == "[3].to_agent"
    assert problem["detail"].startswith('[3].to_agent: "a/b" is no name: use 1-50 letters')
    items[3] = message(agent, other, priority="huge")
    assert refused(api.post("/messages/batch", json=items), 422,
                   "invalid")["errors"][0]["where"] == "[3].priority"
    items[3] = message(agent, "@nobody")
    assert "[3].to_agent" in refused(api.post("/messages/batch", json=items), 422,
                                     "invalid")["detail"]
    assert api.get(f"/inbox/{other}").json()["last_seq"] == 0


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_is_bounded(api: httpx.Client, agent: str, count: int) -> None:
    problem = refused(api.post("/messages/batch", json=[message(agent, agent)] * count), 422,
                      "invalid")
    assert "1-1000 messages" in problem["detail"]


@pytest.mark.parametrize("change", [
    {"from_agent": "a/b"}, {"to_agent": ".."}, {"to_agent": []}, {"subject": "x" * 201},
    {"subject": "a\nb"}, {"body": "\0"}, {"body": "é" * 32769}, {"priority": "urgent"},
    {"colour": "red"}, {"expires_at": "2001-01-01T00:00:00Z"}, {"body": None}, {"id": "x"},
])
def test_a_wrong_value_is_422_and_named(api: httpx.Client, agent: str, change: dict[str, Any]
                                        ) -> None:
    answer = api.post("/messages", json={**message(agent, agent), **change})
    problem = refused(answer, 422, "invalid")
    assert problem["errors"][0]["where"] == next(iter(change))


def test_reading_never_acknowledges(api: httpx.Client, agent: str, other: str) -> None:
    path = f"/messages/{sent(api, agent, other)['id']}"
    read = api.post(f"{path}/read").json()
    assert (read["state"], read["acked_at"]) == ("read", None)
    assert read["read_at"] is not None
    assert api.post(f"{path}/read").json() == read
    acked = api.post(f"{path}/ack").json()
    assert (acked["state"], acked["read_at"]) == ("acknowledged", read["read_at"])
    assert api.post(f"{path}/ack").json() == acked == api.get(path).json()


def test_acknowledging_an_unread_message_leaves_it_unread_at(api: httpx.Client, agent: str,
                                                             other: str) -> None:
    acked = api.post(f"/messages/{sent(api, agent, other)['id']}/ack").json()
    assert (acked["state"], acked["read_at"]) == ("acknowledged", None)


def test_a_deletion_and_its_repeat_are_204(api: httpx.Client, agent: str, other: str) -> None:
    path = f"/messages/{sent(api, agent, other)['id']}"
    for params in ({}, {}, {"agent": other}):
        answer = api.delete(path, params=params)
        assert (answer.status_code, answer.content) == (204, b"")
    refused(api.get(path), 404, "not-found")
    refused(api.post(f"{path}/read", params={"agent": other}), 404, "not-found")
    assert api.get(f"/inbox/{other}").json() == {"messages": [], "next_cursor": None,
                                                 "last_seq": 1}


def test_with_several_recipients_one_must_be_named(api: httpx.Client, agent: str, other: str
                                                   ) -> None:
    path = f"/messages/{sent(api, agent, [other, f'{other}.b'])['id']}"
    for answer in (api.get(path), api.post(f"{path}/read"), api.post(f"{path}/ack"),
                   api.delete(path)):
        problem = refused(answer, 422, "invalid")
        assert "?agent=NAME" in problem["detail"]
        assert other not in answer.text
    assert api.post(f"{path}/ack", params={"agent": other}).json()["state"] == "acknowledged"
    assert api.get(path, params={"agent": f"{other}.b"}).json()["state"] == "unread"
    refused(api.get(path, params={"agent": "stranger"}), 404, "not-found")


def test_an_unknown_message_is_404(api: httpx.Client) -> None:
    for answer in (api.get("/messages/no-such"), api.post("/messages/no-such/read"),
                   api.delete("/messages/no-such"),
                   api.delete("/messages/no-such", params={"agent": "a"})):
        refused(answer, 404, "not-found")
