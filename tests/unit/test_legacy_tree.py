"""A tree becomes changes and rejects: order, states, and every trap."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordctl.errors import CoordctlError
from coordctl.legacy_folder import OldFolder
from coordctl.legacy_tree import Change, Item, OldTree, Reject, Repeat
from support.oldtree import TIME, Tree, old_id, unpack


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path / "old")
    yield made
    before = made.everything()
    read(made)
    assert made.everything() == before


def read(tree: Tree | Path) -> list[Item]:
    with OldFolder(tree.folder if isinstance(tree, Tree) else tree) as folder:
        return list(OldTree(folder))


def changes(items: list[Item]) -> list[dict[str, Any]]:
    return [json.loads(item.data) for item in items if isinstance(item, Change)]


def sent(items: list[Item]) -> list[tuple[str, list[str], str | None]]:
    return [(c["message"]["id"], [to for to, _ in c["deliveries"]], c["message"]["body"])
            for c in changes(items) if c["type"] == "sent"]


def rejects(items: list[Item]) -> list[Reject]:
    return [item for item in items if isinstance(item, Reject)]


def only_reject(items: list[Item]) -> Reject:
    found = rejects(items)
    assert len(found) == 1, found
    return found[0]


def test_the_real_tree(tmp_path: Path) -> None:
    folder, truth = unpack(tmp_path)
    items = read(folder)
    assert rejects(items) == []
    done = changes(items)
    state = {c["id"]: c["type"] for c in done if c["type"] != "sent"}
    rows = [c for c in done if c["type"] == "sent"]
    for row, change in zip(truth, rows, strict=True):
        message = change["message"]
        assert message["id"] == row["id"]
        assert message["from_agent"] == row["from"]
        assert change["deliveries"] == [[row["to"], 0]]
        assert message["subject"] == row["subject"]
        assert state.get(row["id"], "unread") == row["state"]
        assert message["body"] == (None if row["state"] == "deleted" else row["body"])
    assert sum(isinstance(item, Repeat) for item in items) == 13


def test_a_change_is_as_the_api_takes_it(tree: Tree) -> None:
    message = tree.send(1, subject=" a | b ", body="from: x\nbody: |\n  y")
    tree.event("READ", message, "2026-11-24T00:00:00-06:00")
    tree.write_log()
    assert changes(read(tree)) == [
        {"type": "sent", "at": TIME, "deliveries": [["chat", 0]], "message": {
            "id": message.id, "from_agent": "code", "subject": " a | b ",
            "body": "from: x\nbody: |\n  y", "priority": "normal", "thread_id": message.id,
            "in_reply_to": None, "created_at": TIME, "expires_at": None}},
        {"type": "read", "at": "2026-11-24T00:00:00-06:00", "id": message.id, "agent": "chat"}]


def test_logs_are_read_oldest_first_by_number(tree: Tree) -> None:
    for number, name in enumerate(["events.log.10", "events.log.9", "events.log.2",
                                   "events.log.1", "events.log.0", "events.log"]):
        tree.send(100 - number)
        tree.write_log(name)
    old = tree.folder / "events.log.2"
    (tree.folder / "events.log.2.gz").write_bytes(gzip.compress(old.read_bytes()))
    old.unlink()
    items = read(tree)
    assert rejects(items) == []
    assert [id_ for id_, _, _ in sent(items)] == [old_id(100 - n) for n in range(6)]


def test_without_a_log_order_is_time_then_file_time_then_name(tree: Tree) -> None:
    early, late = "2026-11-23T10:00:00-0600", "2026-11-23T16:00:01Z"
    for number, at, changed_s in [(5, late, 1), (4, early, 50), (3, early, 7), (1, early, 60),
                                  (2, early, 60)]:
        message = tree.send(number, at=at, logged=False)
        os.utime(tree.file(message), (changed_s, changed_s))
    items = read(tree)
    assert rejects(items) == []
    assert [id_ for id_, _, _ in sent(items)] == [old_id(n) for n in (3, 4, 1, 2, 5)]


def test_a_deleted_message_keeps_its_events(tree: Tree) -> None:
    message = tree.send(1, file=False)
    tree.event("READ", message)
    tree.event("DELETED", message)
    tree.write_log()
    items = read(tree)
    assert rejects(items) == []
    assert sent(items) == [(message.id, ["chat"], None)]
    assert [c["type"] for c in changes(items)] == ["sent", "read", "deleted"]


def test_a_sent_line_without_a_file(tree: Tree) -> None:
    message = tree.send(1, file=False)
    tree.send(2)
    tree.event("READ", message)
    tree.write_log()
    items = read(tree)
    assert [id_ for id_, _, _ in sent(items)] == [old_id(2)]
    assert [(r.place, r.imported) for r in rejects(items)] == [
        ("events.log:1", False), ("events.log:3", False)]


def test_a_file_without_a_line_is_placed_by_its_time(tree: Tree) -> None:
    for number, at in [(1, "2026-11-23T14:00:00Z"), (3, "2026-11-23T16:00:00Z")]:
        tree.send(number, at=at)
    tree.send(2, at="2026-11-23T15:00:00Z", logged=False)
    tree.send(4, at="2026-11-23T17:00:00Z", logged=False)
    tree.write_log()
    items = read(tree)
    assert [id_ for id_, _, _ in sent(items)] == [old_id(n) for n in (1, 2, 3, 4)]
    assert [(r.place, r.imported) for r in rejects(items)] == [
        (f"inbox/chat/{old_id(n)}.msg", True) for n in (2, 4)]


def test_a_file_whose_sent_line_was_rotated_away_keeps_its_read(tree: Tree) -> None:
    message = tree.send(1, logged=False)
    tree.event("READ", message)
    tree.write_log()
    items = read(tree)
    assert [c["type"] for c in changes(items)] == ["sent", "read"]
    assert only_reject(items).imported


@pytest.mark.parametrize("kind", ["READ", "DELETED"])
def test_an_event_of_an_unknown_message(tree: Tree, kind: str) -> None:
    message = tree.send(1, logged=False, file=False)
    tree.event(kind, message)
    tree.write_log()
    items = read(tree)
    assert changes(items) == []
    assert only_reject(items) == Reject("events.log:1", f"{kind} of a message that is not imported")


def test_a_deleted_line_before_its_sent_line_deletes_nothing(tree: Tree) -> None:
    message = tree.send(1, logged=False, file=False)
    tree.event("DELETED", message)
    tree.event("SENT", message)
    tree.write_log()
    items = read(tree)
    assert changes(items) == []
    assert len(rejects(items)) == 2


def test_a_deleted_message_whose_file_is_there_is_kept(tree: Tree) -> None:
    message = tree.send(1)
    tree.event("DELETED", message)
    tree.write_log()
    items = read(tree)
    assert [c["type"] for c in changes(items)] == ["sent"]
    assert only_reject(items).imported


def test_torn_and_broken_lines(tree: Tree) -> None:
    tree.send(1)
    tree.lines.append(b"\n")
    tree.lines.append(b"2026-11-23T14:32:33+0000|SENT|half\n")
    last = tree.send(2)
    torn = tree.lines.pop()[:-1]
    tree.write_log(end=torn)
    items = read(tree)
    assert [id_ for id_, _, _ in sent(items)] == [old_id(1), last.id]
    assert [(r.place, r.imported) for r in rejects(items)] == [
        ("events.log:2", False), ("events.log:3", False), ("events.log:4", False),
        (f"inbox/chat/{last.id}.msg", True)]


def test_a_line_longer_than_any_is_skipped_whole(tree: Tree) -> None:
    tree.lines.append(b"x" * (3 * 1024 * 1024) + b"|SENT|a|b|c|d\n")
    tree.send(1)
    tree.write_log()
    items = read(tree)
    assert len(sent(items)) == 1
    assert only_reject(items).place == "events.log:1"


def test_a_damaged_gzip_says_how_far_it_was_read(tree: Tree) -> None:
    for number in range(200):
        tree.send(number, file=False)
    whole = gzip.compress(b"".join(tree.lines))
    tree.lines = []
    (tree.folder / "events.log.1.gz").write_bytes(whole[:len(whole) // 2])
    tree.send(200)
    tree.write_log()
    items = read(tree)
    assert [id_ for id_, _, _ in sent(items)] == [old_id(200)]
    assert any(r.place == "events.log.1.gz" and "unreadable after line" in r.reason
               for r in rejects(items))


def test_a_log_packed_while_it_is_there_is_read_once(tree: Tree) -> None:
    tree.send(1)
    (tree.folder / "events.log.1.gz").write_bytes(gzip.compress(b"".join(tree.lines))[:20])
    tree.write_log("events.log.1")
    items = read(tree)
    assert len(sent(items)) == 1
    assert only_reject(items).place == "events.log.1.gz"


def test_a_log_with_another_name_is_named(tree: Tree) -> None:
    tree.send(1)
    tree.write_log("events.log")
    (tree.folder / "events.log.old").write_bytes(b"")
    assert only_reject(read(tree)).place == "events.log.old"


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "no line 'id:'"),
    (b"\xff\xfe", "no line 'id:'"),
    (f"id: other\nfrom: code\nto: chat\nsubject: \ntimestamp: {TIME}\nbody: |\n  \n".encode(),
     "is not its name"),
    (f"id: {old_id(1)}\nfrom: code\nto: ops\nsubject: \ntimestamp: {TIME}\nbody: |\n  \n".encode(),
     "is not its folder"),
    (f"id: {old_id(1)}\nfrom: code\nto: ../x\nsubject: \ntimestamp: {TIME}\nbody: |\n  \n".encode(),
     "the recipient '../x'"),
])
@pytest.mark.parametrize("logged", [True, False])
def test_files_that_are_no_messages(tree: Tree, data: bytes, reason: str, *, logged: bool) -> None:
    message = tree.send(1, logged=logged)
    tree.file(message).write_bytes(data)
    if logged:
        tree.write_log()
    items = read(tree)
    assert changes(items) == []
    assert reason in only_reject(items).reason
    assert only_reject(items).place == f"inbox/chat/{old_id(1)}.msg"


def test_bodies_larger_than_a_request_are_rejected(tree: Tree) -> None:
    tree.send(1, body="x" * (8 * 1024 * 1024))
    tree.send(2, body="x" * (7 * 1024 * 1024))
    tree.send(3, body="\n" * (5 * 1024 * 1024))  # as JSON it is twice as long
    tree.send(4, body="ok")
    tree.write_log()
    items = read(tree)
    assert [id_ for id_, _, _ in sent(items)] == [old_id(2), old_id(4)]
    assert [r.imported for r in rejects(items)] == [False, False]


def test_links_are_never_followed(tree: Tree, tmp_path: Path) -> None:
    outside = Tree(tmp_path / "outside")
    secret = outside.send(1, logged=False)
    chat = tree.folder / "inbox" / "chat"
    chat.mkdir()
    (chat / f"{secret.id}.msg").symlink_to(outside.folder / "inbox/chat" / f"{secret.id}.msg")
    (tree.folder / "inbox" / "ops").symlink_to(outside.folder / "inbox/chat")
    (tree.folder / "events.log").symlink_to("/dev/zero")
    os.mkfifo(tree.folder / "events.log.1")
    os.mkfifo(chat / "pipe.msg")
    items = read(tree)
    assert changes(items) == []
    assert {r.place: r.reason for r in rejects(items)} == {
        "events.log": "a symbolic link, not followed",
        "events.log.1": "not a file",
        "inbox/ops": "a symbolic link, not followed",
        f"inbox/chat/{secret.id}.msg": "a symbolic link, not followed",
        "inbox/chat/pipe.msg": "not a file"}


def test_an_inbox_that_is_a_link(tree: Tree, tmp_path: Path) -> None:
    outside = Tree(tmp_path / "outside")
    outside.send(1, logged=False)
    (tree.folder / "inbox").rmdir()
    (tree.folder / "inbox").symlink_to(outside.folder / "inbox")
    items = read(tree)
    assert changes(items) == []
    assert only_reject(items).place == "inbox"


def test_a_recipient_that_leads_outside(tree: Tree) -> None:
    """The old tool wrote it to `inbox/../x`; what lies there is not touched."""
    tree.lines.append(f"{TIME}|SENT|{old_id(1)}|code|../x|Hi\n".encode())
    (tree.folder / "x").mkdir()
    (tree.folder / "x" / f"{old_id(1)}.msg").write_bytes(b"id: 1\n")
    tree.write_log()
    items = read(tree)
    assert changes(items) == []
    assert only_reject(items).place == "events.log:1"
    assert "'../x'" in only_reject(items).reason


def test_odd_names_in_the_inbox(tree: Tree) -> None:
    inbox = tree.folder / "inbox"
    (inbox / "stray.msg").write_bytes(b"")
    (inbox / "a b").mkdir()
    (inbox / "a b" / "x.msg").write_bytes(b"")
    (inbox / "chat").mkdir()
    (inbox / "chat" / "note.txt").write_bytes(b"")
    (inbox / "chat" / "inner.msg").mkdir()
    Path(os.fsdecode(bytes(inbox / "chat") + b"/\xff\n.msg")).write_bytes(b"")
    items = read(tree)
    assert changes(items) == []
    assert {r.place for r in rejects(items)} == {
        "inbox/stray.msg", "inbox/a b/x.msg", "inbox/chat/note.txt", "inbox/chat/inner.msg",
        "inbox/chat/\\xff\\x0a.msg"}
    json.dumps([r._asdict() for r in rejects(items)]).encode()


def test_an_id_sent_twice(tree: Tree) -> None:
    tree.send(1)
    tree.send(2)
    tree.lines.append(tree.lines[0])
    tree.send(1, to="ops")
    tree.write_log()
    items = read(tree)
    assert sent(items) == [(old_id(1), ["chat"], "there"), (old_id(2), ["chat"], "there")]
    assert [(r.place, r.imported) for r in rejects(items)] == [
        ("events.log:3", True), ("events.log:4", False)]


def test_lines_in_a_row_with_one_id_are_one_message_to_several(tree: Tree) -> None:
    for to in ("chat", "ops", "human"):
        message = tree.send(1, to=to, file=to != "ops")
    tree.event("READ", message)
    tree.event("DELETED", message._replace(to_agent="ops"))
    tree.write_log()
    items = read(tree)
    assert rejects(items) == []
    assert sent(items) == [(old_id(1), ["chat", "ops", "human"], "there")]
    assert [(c["type"], c.get("agent")) for c in changes(items)] == [
        ("sent", None), ("read", "human"), ("deleted", "ops")]


def test_one_id_with_two_bodies_is_one_message_and_a_reject(tree: Tree) -> None:
    tree.send(1, to="chat")
    tree.send(1, to="ops", body="another")
    tree.write_log()
    items = read(tree)
    assert sent(items) == [(old_id(1), ["chat"], "there")]
    assert only_reject(items).place == f"inbox/ops/{old_id(1)}.msg"
    assert not only_reject(items).imported


def test_a_recipient_whose_line_is_lost_stays_with_the_others(tree: Tree) -> None:
    tree.send(1, to="chat", at="2026-11-23T15:00:00Z")
    tree.send(1, to="ops", at="2026-11-23T15:00:00Z", logged=False)
    tree.write_log()
    items = read(tree)
    assert sent(items) == [(old_id(1), ["chat", "ops"], "there")]
    assert only_reject(items).imported


def test_without_a_log_one_id_in_two_inboxes_is_one_message(tree: Tree) -> None:
    tree.send(1, to="ops", logged=False)
    tree.send(1, to="chat", logged=False)
    items = read(tree)
    assert rejects(items) == []
    assert sent(items) == [(old_id(1), ["chat", "ops"], "there")]


def test_a_line_that_differs_from_its_file(tree: Tree) -> None:
    message = tree.send(1)
    tree.file(message._replace(subject="Other"))
    tree.write_log()
    items = read(tree)
    assert changes(items)[0]["message"]["subject"] == "Other"
    assert only_reject(items).imported


def test_a_read_after_the_end(tree: Tree) -> None:
    message = tree.send(1, file=False)
    tree.event("DELETED", message)
    tree.event("READ", message)
    tree.event("DELETED", message)
    tree.write_log()
    items = read(tree)
    assert [c["type"] for c in changes(items)] == ["sent", "deleted"]
    assert only_reject(items).place == "events.log:3"
    assert [item for item in items if isinstance(item, Repeat)] == [Repeat("events.log:4")]


def test_a_folder_that_is_no_tree(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CoordctlError, match=str(path)):
            OldFolder(path)
