"""With tokens on: who may see and do what. The rules are those of docs/api.md."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from integration.conftest import ADMIN_TOKEN, Office
from integration.test_api_messages import message, refused, sent
from support.server import start


@pytest.mark.parametrize("header", [
    None, "", "Bearer", "Bearer x", "Basic abc", "Bearer coord_", "Bearer coord_abc_def",
    f"Bearer {ADMIN_TOKEN}x", "Bearer coord_admin_" + "u" * 32, "Bearer coord_" + "a" * 500,
])
@pytest.mark.parametrize("path", ["/inbox/a", "/stats", "/agents", "/admin/tokens"])
def test_without_a_known_token_every_call_is_401(office: Office, header: str | None, path: str
                                                 ) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = httpx.get(f"{office.server.url}/api/v1{path}", headers=headers)
    refused(answer, 401, "no-token")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "u" * 10 not in answer.text


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json", "/docs"])
def test_what_needs_no_token(office: Office, path: str) -> None:
    assert httpx.get(f"{office.server.url}{path}").status_code == 200


def test_the_sender_is_who_the_token_says(office: Office, agent: str, other: str) -> None:
    client = office.client(agent)
    assert sent(client, agent, other)["seq"] == 1
    refused(client.post("/messages", json=message(other, agent)), 403, "forbidden")
    items = [message(agent, other), message(other, agent)]
    problem = refused(client.post("/messages/batch", json=items), 403, "forbidden")
    assert problem["detail"].startswith("[1].from_agent")
    assert sent(office.operator, other, agent)["seq"] == 1


def test_another_inbox_and_a_missing_one_answer_byte_alike(office: Office, agent: str, other: str
                                                           ) -> None:
    client = office.client(agent)
    office.client(other)
    receipt = sent(office.operator, "boss", other)
    for there, missing in (
            (f"/inbox/{other}", "/inbox/none"), (f"/inbox/{other}?wait=1", "/inbox/none?wait=1"),
            (f"/inbox/{other}/stream", "/inbox/none/stream"),
            (f"/sent/{other}", "/sent/none"),
            (f"/messages/{receipt['id']}", "/messages/none"),
            (f"/messages/{receipt['id']}?agent={other}", "/messages/none?agent=none"),
            (f"/events?agent={other}", "/events?agent=none"),
            (f"/search?q=Hi&agent={other}", "/search?q=Hi&agent=none")):
        one, two = client.get(there), client.get(missing)
        refused(one, 404, "not-found")
        assert one.content == two.content
        assert _shape(one) == _shape(two)
    for verb in ("/read", "/ack"):
        for query in ("", f"?agent={other}"):
            one = client.post(f"/messages/{receipt['id']}{verb}{query}")
            two = client.post(f"/messages/none{verb}{query}")
            assert (one.status_code, one.content) == (two.status_code, two.content)
            refused(one, 404, "not-found")
    one = client.delete(f"/messages/{receipt['id']}?agent={other}")
    two = client.delete(f"/messages/none?agent={other}")
    assert (one.status_code, one.content) == (two.status_code, two.content)


def _shape(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name != "date"}


def test_one_sees_ones_own(office: Office, agent: str, other: str) -> None:
    one, two = office.client(agent), office.client(other)
    receipt = sent(one, agent, other)
    path = f"/messages/{receipt['id']}"
    assert two.get(path).json()["to_agent"] == other
    assert one.get(path).json()["to_agent"] == other
    assert one.get(path, params={"agent": other}).json()["state"] == "unread"
    assert one.get("/inbox/" + agent).json()["messages"] == []
    assert [m["id"] for m in two.get(f"/inbox/{other}").json()["messages"]] == [receipt["id"]]
    assert [m["id"] for m in one.get(f"/sent/{agent}").json()["messages"]] == [receipt["id"]]


def test_only_the_recipient_marks_and_deletes(office: Office, agent: str, other: str) -> None:
    one, two = office.client(agent), office.client(other)
    path = f"/messages/{sent(one, agent, [other, agent + '.c'])['id']}"
    for query in ("", f"?agent={other}"):
        for answer in (one.post(f"{path}/read{query}"), one.delete(f"{path}{query}")):
            refused(answer, 403, "forbidden")
    refused(two.post(f"{path}/read?agent={agent}.c"), 404, "not-found")
    assert two.post(f"{path}/read").json()["state"] == "read"
    assert two.delete(path).status_code == 204
    assert two.delete(path).status_code == 204
    refused(two.get(path), 404, "not-found")


def test_lists_show_what_the_agent_is_party_to(office: Office, agent: str, other: str) -> None:
    one, stranger = office.client(agent), office.client(f"{agent}.x")
    receipt = sent(one, agent, other, subject=f"word{agent}", thread_id=f"t{agent}")
    sent(office.operator, "boss", other, subject=f"word{agent}", thread_id=f"t{agent}")
    for client, ids in ((one, [receipt["id"]]), (stranger, [])):
        for path in (f"/threads/t{agent}", f"/search?q=word{agent}"):
            assert [m["id"] for m in client.get(path).json()["messages"]] == ids
        events = client.get("/events").json()["events"]
        assert [e["message_id"] for e in events] == ids
        assert set(client.get("/stats").json()["agents"]) == {
            agent if client is one else f"{agent}.x"}
    assert len(office.operator.get(f"/threads/t{agent}").json()["messages"]) == 2
    assert other in office.operator.get("/stats").json()["agents"]


def test_the_registry_is_written_by_whom_it_describes(office: Office, agent: str, other: str
                                                      ) -> None:
    client = office.client(agent)
    assert client.put(f"/agents/{agent}", json={"description": "me"}).status_code == 200
    refused(client.put(f"/agents/{other}", json={"description": "x"}), 403, "forbidden")
    assert office.operator.put(f"/agents/{other}", json={"description": "x"}).status_code == 200
    assert client.get(f"/agents/{other}").json()["description"] == "x"
    refused(client.put(f"/groups/{agent}", json={"members": [other]}), 403, "forbidden")
    made = office.operator.put(f"/groups/{agent}", json={"members": [agent, other]})
    assert made.status_code == 200
    assert [d["to_agent"] for d in sent(client, agent, f"@{agent}")["deliveries"]] == [other]


def test_a_token_is_shown_once_and_revoked_at_once(office: Office, agent: str) -> None:
    keyid, token = office.issue(agent)
    assert token.startswith(f"coord_{keyid}_")
    client = office.with_token(token)
    assert client.get(f"/inbox/{agent}").status_code == 200
    listed = office.operator.get("/admin/tokens")
    assert token.split("_", 2)[2] not in listed.text
    assert "sha256" not in listed.text
    entry = next(t for t in listed.json()["tokens"] if t["keyid"] == keyid)
    assert entry == {"keyid": keyid, "agent": agent, "created_at": entry["created_at"],
                     "revoked_at": None, "admin": False}
    revoked = office.operator.post(f"/admin/tokens/{keyid}/revoke").json()
    assert revoked["revoked_at"] is not None
    refused(client.get(f"/inbox/{agent}"), 401, "no-token")
    assert office.operator.post(f"/admin/tokens/{keyid}/revoke").json() == revoked
    refused(office.operator.post("/admin/tokens/none/revoke"), 404, "not-found")


def test_a_right_keyid_with_a_wrong_secret_is_401(office: Office, agent: str) -> None:
    keyid, _ = office.issue(agent)
    refused(office.with_token(f"coord_{keyid}_{'x' * 43}").get("/stats"), 401, "no-token")


def test_the_operators_calls_take_the_operators_token(office: Office, agent: str) -> None:
    client = office.client(agent)
    for answer in (client.get("/admin/tokens"), client.get("/admin/feed"),
                   client.post("/admin/tokens", json={"agent": "x"}),
                   client.post("/admin/import", json={"changes": []}),
                   client.post("/admin/seal", json={"epoch": 1})):
        refused(answer, 403, "forbidden")


def test_no_secret_reaches_the_log(office: Office, agent: str) -> None:
    _, token = office.issue(agent)
    office.with_token(token).get("/stats")
    assert token.split("_", 2)[2] not in office.server.log()
    assert ADMIN_TOKEN.rsplit("_", 1)[1] not in office.server.log()


def test_tokens_outlive_a_restart_and_have_a_rate(tmp_path: Path, admin_token_file: Path) -> None:
    limits = {"auth": "token", "admin_token_file": admin_token_file, "rate_per_s": 0.01,
              "rate_burst": 5}
    with start(tmp_path / "data", **limits) as server, Office(server) as office:
        token = office.issue("code")[1]
    with start(tmp_path / "data", **limits) as server, Office(server) as office:
        client = office.with_token(token)
        codes = [client.get("/inbox/code").status_code for _ in range(7)]
        assert codes == [200] * 5 + [429] * 2
        answer = client.get("/inbox/code")
        refused(answer, 429, "rate-limited")
        assert int(answer.headers["retry-after"]) >= 1
        assert office.client("chat").get("/inbox/chat").status_code == 200
        assert office.operator.get("/stats").status_code == 200


def test_in_open_mode_the_operators_calls_still_need_the_token(api: httpx.Client,
                                                               operator: httpx.Client) -> None:
    refused(api.get("/admin/tokens"), 401, "no-token")
    assert operator.get("/admin/tokens").status_code == 200
