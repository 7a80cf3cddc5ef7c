"""The operator's calls that move a store: feed, import, seal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration.conftest import Office
from integration.test_api_messages import message, refused, sent
from support.server import start


@pytest.fixture
def one(tmp_path: Path, admin_token_file: Path) -> Iterator[httpx.Client]:
    with (start(tmp_path / "one", admin_token_file=admin_token_file) as server,
          Office(server) as office):
        yield office.operator


@pytest.fixture
def two(tmp_path: Path, admin_token_file: Path) -> Iterator[httpx.Client]:
    with (start(tmp_path / "two", admin_token_file=admin_token_file) as server,
          Office(server) as office):
        yield office.operator


def _changes(client: httpx.Client, limit: int = 2) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    after = 0
    while True:
        page = client.get("/admin/feed", params={"after": after, "limit": limit}).json()
        out += page["changes"]
        if page["cursor"] >= page["last"]:
            return out
        after = page["cursor"]


def test_a_feed_imported_makes_the_same_store(one: httpx.Client, two: httpx.Client) -> None:
    first = sent(one, "code", ["chat", "ops"], body="é\n☃")
    second = sent(one, "chat", "code", in_reply_to=first["id"])
    one.post(f"/messages/{second['id']}/read")
    one.delete(f"/messages/{first['id']}", params={"agent": "ops"})
    one.put("/agents/code", json={"description": "d"})
    one.put("/groups/all", json={"members": ["code", "chat"]})
    changes = _changes(one)
    assert [c["type"] for c in changes] == ["sent", "sent", "read", "deleted", "agent", "group"]
    imported = two.post("/admin/import", json={"changes": changes})
    assert imported.json() == {"applied": 6, "skipped": 0}
    assert two.post("/admin/import", json={"changes": changes}).json() == {"applied": 0,
                                                                          "skipped": 6}
    for path in ("/inbox/code", "/inbox/chat", "/inbox/ops", "/sent/code", "/agents", "/groups",
                 f"/threads/{first['id']}"):
        assert two.get(path).json() == one.get(path).json()


def _unready(client: httpx.Client) -> httpx.Response:
    """The first answer of /ready that is no 200: a proof holds for a second."""
    for _ in range(200):
        answer = client.get(client.base_url.join("/ready"))
        if answer.status_code != 200:
            return answer
        time.sleep(0.05)
    raise AssertionError("the sealed store says that it is ready")


def test_a_sealed_store_takes_imports_only(one: httpx.Client) -> None:
    receipt = sent(one, "code", "chat")
    sealed = one.post("/admin/seal", json={"epoch": 5}).json()
    assert (sealed["epoch"], sealed["last"]) == (5, one.get("/admin/feed").json()["last"])
    for answer in (one.post("/messages", json=message("code", "chat")),
                   one.post("/messages/batch", json=[message("code", "chat")]),
                   one.post(f"/messages/{receipt['id']}/read"),
                   one.delete(f"/messages/{receipt['id']}"),
                   one.put("/agents/code", json={"description": ""}),
                   one.put("/groups/code", json={"members": []}),
                   _unready(one)):
        refused(answer, 503, "sealed")
        assert answer.headers["retry-after"] == "1"
    assert len(one.get("/inbox/chat").json()["messages"]) == 1
    assert one.post("/admin/import", json={"changes": []}).status_code == 200
    refused(one.post("/admin/seal", json={"epoch": 4}), 422, "invalid")
    refused(one.post("/admin/unseal", json={"epoch": 4}), 422, "invalid")
    assert one.post("/admin/unseal", json={"epoch": 6}).json()["epoch"] == 6
    assert sent(one, "code", "chat")["seq"] == 2


def test_the_metrics_say_whether_a_message_can_be_stored(one: httpx.Client) -> None:
    def is_ready() -> str:
        text = one.get(one.base_url.join("/metrics")).text
        return next(line for line in text.splitlines() if line.startswith("coordd_ready "))

    assert is_ready() == "coordd_ready 1.0"
    one.post("/admin/seal", json={"epoch": 5})
    _unready(one)
    assert is_ready() == "coordd_ready 0.0"


@pytest.mark.parametrize(("change", "where"), [
    ({"type": "sent"}, "changes[0].at"), ({"type": "seen", "at": "x"}, "changes[0].type"),
    ({"type": "read", "at": "2026-01-01T00:00:00Z", "id": "none", "agent": "a"}, "changes[0]"),
    ({"type": "read", "at": "2026-01-01T00:00:00Z", "colour": 1}, "changes[0].colour"),
])
def test_a_bad_change_is_named(operator: httpx.Client, change: dict[str, Any], where: str) -> None:
    problem = refused(operator.post("/admin/import", json={"changes": [change]}), 422, "invalid")
    assert problem["errors"][0]["where"] == where


@pytest.mark.parametrize(("path", "body"), [
    ("tokens", {"agent": "a/b"}), ("tokens", {}), ("seal", {"epoch": -1}), ("seal", {"epoch": "1"}),
    ("seal", {"epoch": 2**60}), ("import", {}), ("import", []),
])
def test_bad_bodies_are_422(operator: httpx.Client, path: str, body: Any) -> None:
    refused(operator.post(f"/admin/{path}", json=body), 422, "invalid")
