"""`coordctl import` and `coordctl export` against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.ctl import LIMIT_S, Ctl
from support.oldtree import TIME, Tree, old_id, unpack


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Ctl]]:
    """Two, each brought up once."""
    made = [Ctl(tmp_path_factory.mktemp(name) / "site", tmp_path_factory.mktemp(f"{name}-cwd"))
            for name in ("one", "other")]
    for site in made:
        site.up()
    yield made
    for site in made:
        site("down")


@pytest.fixture
def ctl(sites: list[Ctl], tmp_path: Path) -> Ctl:
    sites[0].empty(tmp_path / "one-cwd")
    return sites[0]


@pytest.fixture
def other(sites: list[Ctl], tmp_path: Path) -> Ctl:
    sites[1].empty(tmp_path / "other-cwd")
    return sites[1]


def content(ctl: Ctl) -> dict[str, Any]:
    """All that two stores must have alike: messages with their seqs and states, and events."""
    agents = ctl.call("GET", "/api/v1/stats")["agents"]
    return {"inboxes": {agent: ctl.inbox(agent) for agent in sorted(agents)},
            "events": ctl.events()}


def check_truth(ctl: Ctl, truth: list[dict[str, Any]]) -> None:
    """Every row of the truth, to the byte: text, order in its inbox and over all, state."""
    expected: dict[str, list[tuple[str, ...]]] = {}
    for row in truth:
        expected.setdefault(row["to"], [])
        if row["state"] != "deleted":
            expected[row["to"]].append(
                (row["id"], row["from"], row["to"], row["subject"], row["body"], row["state"]))
    for agent, rows in expected.items():
        found = [(m["id"], m["from_agent"], m["to_agent"], m["subject"], m["body"], m["state"])
                 for m in ctl.inbox(agent)]
        assert found == rows
    events = ctl.events()
    assert [(e["message_id"], e["from_agent"], e["to_agent"], e["subject"])
            for e in events if e["type"] == "SENT"] == [
        (row["id"], row["from"], row["to"], row["subject"]) for row in truth]
    assert ({e["message_id"] for e in events if e["type"] == "DELETED"}
            == {row["id"] for row in truth if row["state"] == "deleted"})


def test_the_real_tree_and_back(ctl: Ctl, other: Ctl, tmp_path: Path) -> None:
    tree, truth = unpack(tmp_path)
    done = ctl("import", str(tree), "--yes")
    assert done.stdout.startswith("704 new, 0 there before, 0 rejects")
    assert list(ctl.cwd.glob("*rejects*")) == []
    check_truth(ctl, truth)

    before = content(ctl)
    again = ctl("import", str(tree), "--yes")
    assert again.stdout.startswith("0 new, 704 there before, 0 rejects")
    assert content(ctl) == before

    ctl("export", str(tmp_path / "new" / "tree"), "--yes")
    old_files = {p.relative_to(tree): p.read_bytes() for p in tree.rglob("*.msg")}
    new = tmp_path / "new" / "tree"
    assert {p.relative_to(new): p.read_bytes() for p in new.rglob("*.msg")} == old_files
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["tree"]

    assert other("import", str(new), "--yes").stdout.startswith("704 new")
    assert content(other) == before
    check_truth(other, truth)


def test_an_import_killed_midway_is_finished_by_the_next(ctl: Ctl, tmp_path: Path) -> None:
    """Killed at several places of the way; each page is durable whole or not at all."""
    tree = Tree(tmp_path / "old")
    for number in range(4000):
        tree.send(number, to=f"agent-{number % 7}", subject=str(number), body=f"{number}\n" * 50)
    tree.write_log()
    wanted = ["import", str(tree.folder), "--yes"]
    seen = []
    for _ in range(4):
        process = subprocess.Popen(ctl.arguments(*wanted), cwd=ctl.cwd, env=ctl.env,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        goal = (seen[-1] if seen else 0) + 1
        deadline = time.monotonic() + LIMIT_S
        while process.poll() is None and time.monotonic() < deadline:
            if ctl.call("GET", "/api/v1/stats")["messages"] >= goal:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(ctl.call("GET", "/api/v1/stats")["messages"])
    assert seen[0] > 0
    assert seen == sorted(seen)
    ctl(*wanted)
    assert ctl("import", str(tree.folder), "--yes").stdout.startswith("0 new, 4,000 there before")
    events = ctl.events()
    assert [e["message_id"] for e in events] == [old_id(n) for n in range(4000)]
    for agent in range(7):
        rows = ctl.inbox(f"agent-{agent}")
        assert [(m["seq"], m["subject"]) for m in rows] == [
            (seq, str(number)) for seq, number in enumerate(range(agent, 4000, 7), 1)]
        assert all(m["body"] == f"{m['subject']}\n" * 50 for m in rows)


def test_a_server_killed_midway_leaves_an_import_to_go_on_with(ctl: Ctl, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "old")
    for number in range(3000):
        tree.send(number, body="x" * 5000)
    tree.write_log()
    wanted = ["import", str(tree.folder), "--yes"]
    pid = json.loads(ctl("status", "--format", "json").stdout)["pid"]
    with subprocess.Popen(ctl.arguments(*wanted), cwd=ctl.cwd, env=ctl.env, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as process:
        while process.poll() is None and not ctl.call("GET", "/api/v1/stats")["messages"]:
            pass
        os.kill(pid, signal.SIGKILL)
        _, told = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "does not answer" in told
    assert "Next:  the same command again" in told
    ctl("up")
    ctl(*wanted)
    assert [m["id"] for m in ctl.inbox("chat")] == [old_id(n) for n in range(3000)]


def test_rejects_are_listed_and_the_rest_is_imported(ctl: Ctl, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "old")
    tree.send(1)
    tree.send(2, file=False)
    tree.send(3, logged=False)
    tree.write_log()
    done = ctl("import", str(tree.folder), "--yes", code=1)
    assert "2 rejects, 1 of them not imported" in done.stderr
    [file] = ctl.cwd.glob("coordctl-import-rejects-*.jsonl")
    assert file.name in done.stderr
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(row["place"], row["imported"]) for row in rows] == [
        ("events.log:2", False), (f"inbox/chat/{old_id(3)}.msg", True)]
    assert [m["id"] for m in ctl.inbox("chat")] == [old_id(1), old_id(3)]
    ctl("import", str(tree.folder), "--yes", "--allow-rejects")


def test_what_the_server_refuses_is_a_reject(ctl: Ctl, tmp_path: Path) -> None:
    """The same id is here already, with other recipients: the page's other changes go in."""
    tree = Tree(tmp_path / "old")
    tree.send(1)
    tree.write_log()
    ctl("import", str(tree.folder), "--yes")
    second = Tree(tmp_path / "second")
    message = second.send(1, to="ops")
    second.event("READ", message)
    second.send(2, to="ops")
    second.write_log()
    done = ctl("import", str(second.folder), "--yes", code=1)
    assert done.stdout.startswith("1 new, 0 there before, 2 rejects")
    assert [m["id"] for m in ctl.inbox("ops")] == [old_id(2)]


def test_nothing_is_done_unasked(ctl: Ctl, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "old")
    tree.send(1)
    tree.write_log()
    done = ctl("import", str(tree.folder), code=1)
    assert "--yes" in done.stderr
    assert ctl.inbox("chat") == []
    assert "--yes" in ctl("export", str(tmp_path / "new"), code=1).stderr
    assert not (tmp_path / "new").exists()


def test_what_the_old_format_cannot_hold(ctl: Ctl, other: Ctl, tmp_path: Path) -> None:
    def send(**fields: Any) -> str:
        message = {"from_agent": "code", "to_agent": "chat", "subject": "s", "body": "b\n"} | fields
        return str(ctl.call("POST", "/api/v1/messages", message)["id"])

    ctl.call("PUT", "/api/v1/agents/code", {"description": "writes"})
    plain = send()
    several = send(to_agent=["chat", "ops", "human"], subject=" | ")
    urgent = send(priority="high", in_reply_to=plain)
    acked = send(subject="acked")
    both = send(subject="read and acked")
    gone = send(subject="gone")
    ctl.call("POST", f"/api/v1/messages/{several}/read?agent=ops")
    ctl.call("DELETE", f"/api/v1/messages/{several}?agent=human")
    ctl.call("POST", f"/api/v1/messages/{acked}/ack?agent=chat")
    ctl.call("POST", f"/api/v1/messages/{both}/ack?agent=chat")
    ctl.call("POST", f"/api/v1/messages/{both}/read?agent=chat")
    ctl.call("DELETE", f"/api/v1/messages/{gone}?agent=chat")
    send(subject="short", expires_at="2999-01-01T00:00:00Z")

    new = tmp_path / "new"
    new.mkdir()
    done = ctl("export", str(new), "--yes")
    for line in ("1 messages have a priority", "1 messages are replies", "1 messages will expire",
                 "2 acknowledgements", "1 entries of agents"):
        assert line in done.stderr
    assert done.stdout.startswith("7 messages in ")
    other("import", str(new), "--yes")

    def told(site: Ctl, agent: str) -> list[tuple[Any, ...]]:
        return [(m["seq"], m["id"], m["from_agent"], m["subject"], m["body"], m["created_at"],
                 "read" if m["state"] == "acknowledged" else m["state"])
                for m in site.inbox(agent)]

    for agent in ("chat", "ops", "human"):
        assert told(other, agent) == told(ctl, agent)
    assert told(ctl, "chat")[2][1] == urgent
    assert [m["subject"] for m in other.inbox("chat") if m["state"] == "read"] == [
        "acked", "read and acked"]
    times = {m["subject"]: m for m in ctl.inbox("chat")}
    for message in other.inbox("chat"):
        if message["state"] == "read":
            was = times[message["subject"]]
            assert message["read_at"] == (was["read_at"] or was["acked_at"])


def test_an_export_never_writes_over_anything(ctl: Ctl, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine", encoding="utf-8")
    done = ctl("export", str(full), "--yes", code=1)
    assert "not empty" in done.stderr
    assert [p.name for p in full.iterdir()] == ["mine"]


def test_without_a_server_nothing_is_begun(ctl: Ctl, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "old")
    tree.send(1)
    tree.write_log()
    ctl("down")
    done = ctl("import", str(tree.folder), "--yes", code=1)
    assert f"Next:  coordctl --site {ctl.folder} up" in done.stderr
    assert [entry for entry in ctl.cwd.iterdir() if not entry.name.startswith(".")] == []


def test_times_are_kept_as_they_are_written(ctl: Ctl, other: Ctl, tmp_path: Path) -> None:
    times = [TIME, "2026-11-23T08:32:33-0600", "2026-11-23T08:32:33-06:00", "2026-11-23T14:32:33Z"]
    tree = Tree(tmp_path / "old")
    for number, at in enumerate(times):
        message = tree.send(number, at=at)
        tree.event("READ", message, at)
    tree.write_log()
    ctl("import", str(tree.folder), "--yes")
    ctl("export", str(tmp_path / "new"), "--yes")
    assert (tmp_path / "new/events.log").read_bytes() == (tree.folder / "events.log").read_bytes()
    other("import", str(tmp_path / "new"), "--yes")
    for site in (ctl, other):
        assert [(m["created_at"], m["read_at"]) for m in site.inbox("chat")] == [
            (at, at) for at in times]
        assert [e["timestamp"] for e in site.events()] == [at for at in times for _ in range(2)]
