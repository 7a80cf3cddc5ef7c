"""The command without a server: its arguments, its help, its errors, what it loads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from coord.cli import coord
from coord.command import Verb, ago, expiry
from coord.errors import BadCall

LIMIT_S = 60
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the real command in a home of its own."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def command(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("coord")), *argv], env=environ | environment,
            input="", capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return command


def parsed(verb: str, *argv: str) -> dict[str, object]:
    command = coord.commands[verb]
    assert isinstance(command, Verb)
    with click.Context(coord, info_name="coord") as parent:
        return command.make_context(verb, list(argv), parent=parent).params


@pytest.mark.parametrize("argv", [
    ("code", "chat", "--subject", "--json", "--priority", "high", "--key=k"),
    ("--priority", "high", "--key=k", "code", "chat", "--subject", "--json"),
    ("--priority", "high", "code", "chat", "--subject", "--json", "--key", "k")])
def test_a_scripts_texts_may_look_like_options(argv: tuple[str, ...]) -> None:
    params = parsed("send", *argv)
    assert (params["from_agent"], params["to_agent"]) == ("code", "chat")
    assert (params["subject"], params["body"]) == ("--subject", "--json")
    assert (params["priority"], params["key"]) == ("high", "k")


@pytest.mark.parametrize("body", ["-", "--", "-5", "--help", ""])
def test_any_body_is_a_body(body: str) -> None:
    assert parsed("send", "code", "chat", "s", body)["body"] == body
    assert parsed("reply", "code", "12", body)["body"] == body


def test_two_dashes_end_the_options() -> None:
    assert parsed("send", "--", "code", "chat", "s", "--key")["body"] == "--key"


@pytest.mark.parametrize("text", [None, "2030-01-01T00:00:00Z", "tomorrow"])
def test_a_time_to_expire_is_left_to_the_server(text: str | None) -> None:
    assert expiry(text) == text


def test_a_span_to_expire_is_a_time() -> None:
    near, far = expiry("90s"), expiry("7d")
    assert near is not None
    assert far is not None
    assert near.endswith("Z")
    assert near < far
    with pytest.raises(BadCall):
        expiry("999999999d")


def test_a_span_of_the_past_is_a_time() -> None:
    near, far = ago("90s", "--since"), ago("7d", "--since")
    assert near is not None
    assert far is not None
    assert far < near < (expiry("0s") or "")
    assert ago("yesterday", "--since") == "yesterday"
    with pytest.raises(BadCall, match="--until 999999999d is before the year 1"):
        ago("999999999d", "--until")


def test_no_argument_prints_help(run: Run) -> None:
    done = run()
    assert done.returncode == 0
    for verb in ("send", "inbox", "read", "delete", "log", "stats", "watch"):
        assert f"\n  {verb} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "..." not in done.stdout.partition("Commands:")[2], "a help text is cut short"


@pytest.mark.parametrize(("verb", "near"), [("sned", "coord send"), ("xyzzy", "coord --help")])
def test_an_unknown_command_exits_1_and_names_the_nearest(run: Run, verb: str, near: str
                                                          ) -> None:
    done = run(verb)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert repr(verb) in done.stderr
    assert near in done.stderr


def test_wrong_use_is_one_line(run: Run) -> None:
    for argv in (["send", "code"], ["inbox"], ["inbox", "a", "--limit", "0"], ["stats", "x"],
                 ["send", "a", "b", "c", "d", "e"], ["--nope"]):
        done = run(*argv)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "--help" in done.stderr


def test_a_server_that_is_not_there_is_named(run: Run) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        done = run("inbox", "chat", "--timeout", "0.5", COORD_URL=url)
    assert done.returncode == 1
    assert done.stdout == ""
    assert url in done.stderr
    assert "coordctl up" in done.stderr
    assert "Traceback" not in done.stderr


def test_something_else_at_the_address_is_said(run: Run) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.handle_request)
        thread.start()
        done = run("inbox", "chat", "--url", f"http://127.0.0.1:{other.server_port}")
        thread.join()
    assert done.returncode == 1
    assert "not as coordd does" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_is_never_an_argument(run: Run) -> None:
    assert "token" not in run("--help").stdout.lower().replace("$coord_token", "")
    assert run("--token", "x", "stats").returncode == 2


def test_the_version(run: Run) -> None:
    assert run("--version").stdout.startswith("coord 0.")


def test_the_command_loads_only_what_it_uses() -> None:
    code = ("import sys, coord.cli, coord.session, coord.config\n"
            "heavy = {'httpx', 'rich', 'dataclasses', 'asyncio', 'msgspec', 'coordd', 'tomllib'}\n"
            "print(sorted(heavy & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=LIMIT_S, check=True)
    assert done.stdout.strip() == "[]"


def test_the_library_does_not_know_the_server() -> None:
    code = ("import sys\nfrom coord import *\n"
            "print(sorted({'msgspec', 'coordd'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=LIMIT_S, check=True)
    assert done.stdout.strip() == "[]"
