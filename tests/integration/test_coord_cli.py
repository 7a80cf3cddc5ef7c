"""The `coord` command against a real server: what a shell sees."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.server import Server, start

LIMIT_S = 90
COORD = str(Path(sys.executable).with_name("coord"))
EVIL = "first\n\ttab\x1b[2J [bold]no markup[/bold] :smile: \x9b1m 日本 🎉\n\n"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("coord") / "data") as running:
        yield running


@pytest.fixture
def environ(server: Server, tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COORD_URL": server.url}


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    def command(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        # Bytes, not text: universal newlines would hide what a body's lines end with.
        done = subprocess.run([COORD, *argv], env=environ, input=stdin.encode(),
                              capture_output=True, timeout=LIMIT_S, check=False)
        return subprocess.CompletedProcess(argv, done.returncode, done.stdout.decode(),
                                           done.stderr.decode())
    return command


@pytest.fixture
def agent(request: pytest.FixtureRequest) -> str:
    """An agent of this test's own: its inbox begins at 1."""
    return request.node.name.removeprefix("test_").partition("[")[0][:50]


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def of(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    return dict(json.loads(good(done)))


def test_the_old_tools_commands_in_their_order(run: Run, agent: str) -> None:
    said = good(run("send", "code", agent, "Hi", "there"))
    listed = good(run("inbox", agent, "--limit", "5"))
    assert "Hi" in listed
    assert listed.splitlines()[1].split()[0] == "●"
    message_id = of(run("inbox", agent, "--json"))["messages"][0]["id"]  # type: ignore[index]
    assert message_id in said
    shown = good(run("read", agent, message_id))
    assert shown.endswith("\n\nthere\n")
    assert "●" not in good(run("inbox", agent))
    assert "SENT" in good(run("log"))
    assert agent in good(run("stats"))
    good(run("delete", agent, message_id))
    empty = run("inbox", agent)
    assert (empty.returncode, empty.stdout) == (0, "")
    assert f"No messages for {agent}" in empty.stderr


def test_read_says_what_is_not_there(run: Run, agent: str) -> None:
    for reference in ("no-such-id", "7", "#7", "0"):
        done = run("read", agent, reference)
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert "Traceback" not in done.stderr


def test_a_message_by_its_seq(run: Run, agent: str) -> None:
    for number in ("one", "two", "three"):
        good(run("send", "code", agent, number, "-", stdin=f"body {number}"))
    good(run("delete", agent, "2"))
    assert "body three" in good(run("read", agent, "3"))
    assert "body one" in good(run("read", agent, "#1"))
    assert run("read", agent, "2").returncode == 1
    assert "acknowledged" in good(run("ack", agent, "3"))
    states = {one["seq"]: one["state"]
              for one in of(run("inbox", agent, "--json"))["messages"]}  # type: ignore[attr-defined]
    assert states == {1: "read", 3: "acknowledged"}


def test_a_body_from_stdin_is_kept_to_the_byte(run: Run, agent: str) -> None:
    receipt = of(run("send", "code", agent, "s", "-", "--json", stdin=EVIL))
    message = of(run("read", agent, str(receipt["id"]), "--json"))
    assert message["body"] == EVIL
    assert good(run("read", agent, "1")).endswith("\n\n" + EVIL)


def test_texts_that_look_like_options(run: Run, agent: str) -> None:
    good(run("send", "code", agent, "--json", "--key"))
    message = of(run("read", agent, "1", "--json"))
    assert (message["subject"], message["body"]) == ("--json", "--key")


def test_several_recipients_and_groups(run: Run, agent: str) -> None:
    one, two = f"{agent}-1", f"{agent}-2"
    assert f"@{agent}" in good(run("group", f"@{agent}", "--members", f"{one}, {two},code"))
    assert good(run("groups")).count(f"@{agent}") == 1
    receipt = of(run("send", "code", f"@{agent},{one},other", "s", "b", "--json"))
    assert [one["to_agent"] for one in receipt["deliveries"]] == [  # type: ignore[attr-defined]
        one, two, "other"]
    assert good(run("sent", "code", "--limit", "3")).count(" code ") == 3


def test_priority_expiry_and_filters(run: Run, agent: str) -> None:
    good(run("send", "code", agent, "urgent", "b", "--priority", "critical"))
    good(run("send", "code", agent, "later", "b", "--priority", "low", "--expires", "1h"))
    good(run("read", agent, "1"))
    assert "later" not in good(run("inbox", agent, "--min-priority", "high"))
    assert "urgent" not in good(run("inbox", agent, "--unread"))
    oldest = of(run("inbox", agent, "--oldest", "--json"))["messages"]
    assert [one["seq"] for one in oldest] == [1, 2]  # type: ignore[attr-defined]
    after = of(run("inbox", agent, "--after", "1", "--json"))["messages"]
    assert [one["seq"] for one in after] == [2]  # type: ignore[attr-defined]
    assert after[0]["expires_at"] is not None  # type: ignore[index]


def test_wait_ends_with_the_first_message(run: Run, environ: dict[str, str], agent: str) -> None:
    with subprocess.Popen([COORD, "inbox", agent, "--wait", "60"], env=environ,
                          stdout=subprocess.PIPE, text=True) as waiting:
        time.sleep(0.5)
        good(run("send", "code", agent, "at last", "b"))
        out, _ = waiting.communicate(timeout=LIMIT_S)
    assert "at last" in out


def test_reply_thread_and_search(run: Run, agent: str) -> None:
    first = of(run("send", "code", agent, "Question", f"about {agent}", "--json"))
    good(run("reply", agent, "1", "--an answer", "--priority", "high"))
    answer = of(run("inbox", "code", "--limit", "1", "--json"))["messages"][0]  # type: ignore[index]
    assert answer["subject"] == "Re: Question"
    assert answer["body"] == "--an answer"
    assert answer["in_reply_to"] == first["id"] == answer["thread_id"]
    good(run("reply", "code", answer["id"], "thanks"))
    subjects = [one["subject"] for one in of(
        run("thread", str(first["id"]), "--json"))["messages"]]  # type: ignore[attr-defined]
    assert subjects == ["Question", "Re: Question", "Re: Question"]
    assert "Question" in good(run("search", f"ABOUT {agent}"))
    assert good(run("search", "answer", "--agent", "nobody")) == ""


def test_a_key_makes_it_one_message(run: Run, agent: str) -> None:
    argv = ("send", "code", agent, "s", "b", "--key", f"key-{agent}", "--json")
    assert of(run(*argv)) == of(run(*argv))
    assert len(of(run("inbox", agent, "--json"))["messages"]) == 1  # type: ignore[arg-type]
    other = run("send", "code", agent, "s", "another", "--key", f"key-{agent}")
    assert other.returncode == 1
    assert "--key" in other.stderr


def test_log_by_agent_and_type(run: Run, agent: str) -> None:
    good(run("send", "code", agent, "s", "b"))
    good(run("read", agent, "1"))
    page = of(run("log", "--agent", agent, "--type", "read", "--json"))
    assert [one["type"] for one in page["events"]] == ["READ"]  # type: ignore[attr-defined]
    lines = good(run("log", "--agent", agent)).splitlines()
    assert ["SENT" in lines[1], "READ" in lines[2]] == [True, True]
    for number in range(25):
        good(run("send", "code", agent, f"s{number}", "b"))
    lines = good(run("log")).splitlines()
    assert len(lines) == 1 + 20, "the last 20 events"
    assert "s24" in lines[-1]


def test_log_of_a_span_of_time(run: Run, agent: str) -> None:
    sent = of(run("send", "code", agent, "s", "b", "--json"))
    since, until = ("--since", "1h"), ("--until", str(sent["created_at"]))
    found = of(run("log", "--agent", agent, *since, "--json"))["events"]
    assert [one["message_id"] for one in found] == [sent["id"]]  # type: ignore[attr-defined]
    assert of(run("log", "--agent", agent, *since, *until, "--json"))["events"] == []
    assert "s" in good(run("log", "--agent", agent, "--since", str(sent["created_at"])))
    wrong = run("log", "--since", "yesterday")
    assert wrong.returncode == 1
    assert "since" in wrong.stderr
    assert "yesterday" in wrong.stderr


def test_pages_go_on_with_a_cursor(run: Run, agent: str) -> None:
    for number in range(3):
        good(run("send", "code", agent, f"s{number}", "b"))
    first = run("inbox", agent, "--limit", "2")
    cursor = first.stderr.split("--cursor ")[1].split()[0]
    rest = good(run("inbox", agent, "--limit", "2", "--cursor", cursor))
    assert "s0" in rest
    assert "s1" not in rest


def test_agents_say_who_they_are(run: Run, agent: str) -> None:
    missing = run("agent", agent)
    assert missing.returncode == 1
    good(run("agent", agent, "--description", "[red]Tests[/red] things"))
    assert "[red]Tests[/red] things" in good(run("agent", agent))
    assert agent in good(run("agents"))
    assert {"name", "description"} <= of(run("agent", agent, "--json")).keys()


def test_a_refusal_is_one_line(run: Run, agent: str) -> None:
    for argv in (("send", "code", agent, "x" * 201, "b"), ("send", "co de", agent, "s", "b"),
                 ("send", "code", agent, "s", "b\x01" * 40_000), ("inbox", "../x"),
                 ("send", "code", "@no-such-group", "s", "b"),
                 ("send", "code", agent, "s", "b", "--expires", "tomorrow")):
        done = run(*argv)
        assert done.returncode == 1, argv[:3]
        assert len(done.stderr.splitlines()) == 1
        assert "Traceback" not in done.stderr
    assert of(run("inbox", agent, "--json"))["messages"] == []


def test_json_is_the_apis_own(run: Run, server: Server, agent: str) -> None:
    good(run("send", "code", agent, "日本", EVIL))
    for argv, path in ((("inbox", agent), f"inbox/{agent}"), (("stats",), "stats"),
                       (("sent", "code"), "sent/code"), (("groups",), "groups"),
                       (("log",), "events?order=newest&limit=20")):
        with urllib.request.urlopen(f"{server.url}/api/v1/{path}", timeout=LIMIT_S) as answer:
            assert of(run(*argv, "--json")) == json.load(answer)
        assert of(run("--json", *argv)) == of(run(*argv, "--json"))


def test_watch_prints_a_line_each_as_it_comes(run: Run, environ: dict[str, str],
                                              agent: str) -> None:
    good(run("send", "code", agent, "before", "b"))
    with subprocess.Popen([COORD, "watch", agent, "--after", "0", "--json"], env=environ,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert json.loads(watching.stdout.readline())["subject"] == "before"
        for number in range(3):
            good(run("send", "code", agent, f"s{number}", "line\nline"))
            assert json.loads(watching.stdout.readline())["subject"] == f"s{number}"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(LIMIT_S) == 130
        assert watching.stderr.read().strip() == ""


def test_a_reader_that_has_enough_is_no_error(run: Run, environ: dict[str, str],
                                              agent: str) -> None:
    for number in range(3):
        good(run("send", "code", agent, f"s{number}", "x" * 60_000))
    for argv in (("read", agent, "1"), ("inbox", agent, "--json")):
        with subprocess.Popen([COORD, *argv], env=environ, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as command:
            assert command.stdout is not None
            assert command.stderr is not None
            command.stdout.read(1)
            command.stdout.close()
            command.wait(LIMIT_S)
            assert command.stderr.read() == b""


def on_a_terminal(environ: dict[str, str], *argv: str, columns: int = 80) -> str:
    """What the command writes to a terminal."""
    leader, follower = pty.openpty()
    command = subprocess.Popen([COORD, *argv], stdout=follower, stderr=follower,
                               stdin=subprocess.DEVNULL,
                               env=environ | {"TERM": "xterm", "COLUMNS": str(columns)})
    os.close(follower)
    seen = b""
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        if not select.select([leader], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the last writer has gone
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    assert command.wait(LIMIT_S) == 0
    return seen.decode()


def test_a_terminal_gets_no_control_sequences_of_a_message(run: Run, environ: dict[str, str],
                                                           agent: str) -> None:
    good(run("send", "code", agent, "[bold]no markup[/bold] " + "long " * 30, EVIL,
             "--priority", "critical"))
    listed = on_a_terminal(environ, "inbox", agent)
    assert "[bold]no markup[/bold]" in listed
    assert "\x1b[1m" in listed, "unread is bold"
    lines = listed.replace("\r\n", "\n").splitlines()
    assert len(lines) == 2, "a message is one line"
    shown = on_a_terminal(environ, "read", agent, "1")
    assert r"\x1b[2J [bold]no markup[/bold] :smile: \x9b1m 日本 🎉" in shown
    assert "\x1b[2J" not in shown
    as_json = on_a_terminal(environ, "read", agent, "1", "--json")
    assert json.loads(as_json)["body"] == EVIL
    assert "\x9b" not in as_json


def test_a_token_says_who_sends(tmp_path: Path) -> None:
    admin = tmp_path / "admin-token"
    admin.write_text("coord_admin_" + "a" * 43 + "\n")
    admin.chmod(0o600)
    with start(tmp_path / "data", auth="token", admin_token_file=admin) as server:
        request = urllib.request.Request(
            f"{server.url}/api/v1/admin/tokens", b'{"agent": "code"}',
            {"Authorization": f"Bearer {admin.read_text().strip()}",
             "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            token = json.load(answer)["token"]

        def command(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [COORD, *argv], capture_output=True, text=True, timeout=LIMIT_S, check=False,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | environment)

        without = command("send", "code", "code", "s", "b", COORD_URL=server.url)
        assert without.returncode == 1
        assert "COORD_TOKEN" in without.stderr
        good(command("send", "code", "code", "s", "b", COORD_URL=server.url, COORD_TOKEN=token))
        config = tmp_path / ".config" / "coord" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f'url = "{server.url}"\ntoken = "{token}"\n')
        config.chmod(0o600)
        listed = command("inbox", "code")
        assert "code" in good(listed)
        assert listed.stderr == ""
        config.chmod(0o644)
        assert "chmod 600" in command("inbox", "code").stderr
        other = command("send", "chat", "code", "s", "b")
        assert other.returncode == 1
        assert token not in other.stderr + without.stderr
