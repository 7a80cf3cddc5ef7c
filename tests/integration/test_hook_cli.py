"""`coordctl hook`, `verify` and what `status` tells of the work, as a person runs them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.ctl import Ctl
from support.receiver import Receiver, await_

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def ctl(tmp_path: Path) -> Iterator[Ctl]:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    site = Ctl(tmp_path / "site", cwd)
    site.up()
    yield site
    site("down")


def send(ctl: Ctl, subject: str, body: str = "there") -> str:
    answer = ctl.call("POST", "/api/v1/messages", {
        "from_agent": "code", "to_agent": "chat", "subject": subject, "body": body})
    return str(answer["id"])


def asked(ctl: Ctl, path: str) -> Any:
    """What the server answers its operator."""
    token = (ctl.folder / "admin.token").read_text(encoding="ascii").strip()
    answer = httpx.get(f"{ctl.url}/api/v1/admin{path}", timeout=60,
                       headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def head(ctl: Ctl, messages: int) -> str:
    """The chain's, once so many messages are in it, as verify tells it."""
    await_(lambda: len(asked(ctl, "/work/chain")["links"]) == messages)
    facts = json.loads(ctl("verify", "--format", "json").stdout)
    assert facts["wrong"] is None
    assert facts["messages"] + facts["gone"] == messages
    return str(facts["head"])


def test_a_hook_from_its_making_to_its_end(ctl: Ctl, receiver: Receiver) -> None:
    refused = ctl("hook", "add", "webhook", receiver.url(), code=1)
    assert "webhook_allow does not allow 127.0.0.1" in refused.stderr
    assert "hooks: {allow: [HOST]}" in refused.stderr.replace("\n", " ")
    assert "No hooks yet" in ctl("hook", "list").stdout
    with (ctl.folder / "site.yml").open("a", encoding="utf-8") as told:
        told.write("hooks:\n  allow: [127.0.0.0/8]\n  tries: 2\n")
    ctl("up", "--yes")

    made = ctl("hook", "add", "webhook", receiver.url(), "--type", "sent", "--min-priority", "low")
    secret = made.stdout.strip()
    assert secret.startswith("whsec_")
    listed = ctl("hook", "list").stdout
    assert "SENT, low up" in listed
    assert secret not in listed
    [hook] = json.loads(ctl("hook", "list", "--format", "json").stdout)
    send(ctl, "a")
    await_(lambda: len(receiver.calls) == 1)

    receiver.status = 500
    message = send(ctl, "b")
    await_(lambda: asked(ctl, "/work/dead")["dead"])
    [dead] = json.loads(ctl("hook", "dead", "--format", "json").stdout)
    assert (dead["message_id"], dead["tries"]) == (message, 2)
    assert "answered 500" in ctl("hook", "dead", "--hook", hook["id"]).stdout
    status = " ".join(ctl("status").stdout.split())
    assert "1 dead letter:" in status
    assert "coordctl hook dead" in status
    assert "coordctl hook dead" in status

    receiver.status = 200
    assert "Tried anew: 1" in ctl("hook", "retry").stdout
    await_(lambda: len(receiver.calls) == 4)
    await_(lambda: not asked(ctl, "/work/dead")["dead"])
    assert "No dead letters" in ctl("hook", "dead").stdout
    assert "nobody can be asked" in ctl("hook", "remove", hook["id"], code=1).stderr
    ctl("hook", "remove", hook["id"], "--yes")
    assert "there is no hook" in ctl("hook", "remove", hook["id"], "--yes", code=1).stderr
    assert secret not in (ctl.folder / "coordctl.log").read_text()


def test_verify_holds_over_deletions_and_knows_an_earlier_head(ctl: Ctl) -> None:
    assert "messages as they were stored 0" in " ".join(ctl("verify").stdout.split())
    first = [send(ctl, f"a{n}") for n in range(3)]
    early = head(ctl, 3)
    ctl.call("DELETE", f"/api/v1/messages/{first[1]}?agent=chat")
    send(ctl, "Grüße", "\x01 \"quoted\" \\ \u2028 \U0001f600")
    late = head(ctl, 4)
    assert late != early
    ctl("verify", "--head", early)
    ctl("verify", "--head", late.upper())
    unknown = ctl("verify", "--head", "ab" * 32, code=1)
    assert "is not in the chain" in unknown.stderr
    assert "64 hex digits" in ctl("verify", "--head", "x", code=2).stderr


def test_verify_names_the_first_message_that_differs(ctl: Ctl) -> None:
    """What the chain says is changed here, which is as if the message had been."""
    ids = [send(ctl, f"a{n}") for n in range(4)]
    head(ctl, 4)
    ctl("down")
    with sqlite3.connect(ctl.folder / "data" / "work.db") as work:
        work.execute("UPDATE chain SET digest = zeroblob(32) WHERE message_id = ?", (ids[1],))
    work.close()
    ctl("up", "--yes")
    wrong = ctl("verify", code=1)
    assert f"{ids[1]} is not what was stored" in " ".join(wrong.stderr.split())
    assert json.loads(ctl("verify", "--format", "json", code=1).stdout)["messages"] == 1
