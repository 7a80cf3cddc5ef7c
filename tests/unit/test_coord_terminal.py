"""What a terminal gets to see of messages that anyone may have written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from coord.terminal import (
    Cell,
    Column,
    harmless,
    harmless_json,
    long_time,
    one_line,
    short_time,
    table,
)

EVIL = "a\x1b[2Jb\x9bc\x07d\r\ne\tf\x7fg\u202eh\u2028i日本🎉"


def test_control_sequences_are_written_out() -> None:
    assert harmless(EVIL) == "a\\x1b[2Jb\\x9bc\\x07d\\r\ne\tf\\x7fg\\u202eh\\u2028i日本🎉"
    assert one_line(EVIL) == "a\\x1b[2Jb\\x9bc\\x07d\\r\\ne\\tf\\x7fg\\u202eh\\u2028i日本🎉"
    plain = "".join(map(chr, range(32, 127)))
    assert one_line(plain) == harmless(plain) == plain


def test_json_keeps_its_values() -> None:
    shown = harmless_json(json.dumps({"body": EVIL}, ensure_ascii=False))
    assert json.loads(shown) == {"body": EVIL}
    assert "日本🎉" in shown
    assert not set(shown) & set("\x1b\x9b\x7f\u202e\u2028")


def test_times_are_short() -> None:
    now = datetime(2026, 11, 23, 14, 32, 33, tzinfo=UTC)
    local = now.astimezone()
    assert short_time("2026-11-23T14:32:33+0000", now) == f"{local:%H:%M:%S}"
    earlier = local - timedelta(days=40)
    assert short_time(earlier.isoformat(), now) == f"{earlier:%b %d %H:%M}"
    assert short_time("2019-06-01T12:00:00-06:00", now) == "2019-06-01"
    assert short_time("yesterday\x1b", now) == r"yesterday\x1b"


@pytest.mark.parametrize(("ago", "told"), [
    (timedelta(seconds=5), ", 5 s ago"), (timedelta(minutes=90), ", 1 h ago"),
    (timedelta(days=3), ", 3 d ago"), (timedelta(days=300), ""), (timedelta(days=-1), "")])
def test_a_long_time_says_how_long_ago(ago: timedelta, told: str) -> None:
    now = datetime(2026, 11, 23, 14, 32, 33, tzinfo=UTC)
    moment = now - ago
    assert long_time(moment.isoformat(), now) == f"{moment.astimezone():%Y-%m-%d %H:%M:%S}{told}"


def test_a_piped_table_is_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    table([Column("seq", right=True), Column("subject", rest=True), Column("x", widest=1)],
          [[Cell("1"), Cell("[bold]s[/bold]" * 20), Cell("yy")], [Cell("10"), Cell(""), Cell("")]])
    assert capsys.readouterr().out.splitlines() == [
        "seq  subject" + " " * 273 + "  x", "  1  " + "[bold]s[/bold]" * 20 + "  yy", " 10"]
