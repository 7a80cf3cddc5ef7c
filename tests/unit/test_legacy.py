"""The old tool's message file and event line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordctl.legacy import (
    BODY_BYTES_MAX,
    FormatError,
    OldEvent,
    OldMessage,
    is_name,
    moment,
    parse_event,
    parse_message,
    render_event,
    render_message,
)

names = st.from_regex(r"(?!\.+\Z)[A-Za-z0-9._-]{1,50}\Z", fullmatch=True)
ids = st.from_regex(r"[A-Za-z0-9._:+@=~-]{1,200}\Z", fullmatch=True)
times = st.sampled_from(["2026-11-23T14:32:33+0000", "2026-11-23T08:32:33-0600",
                         "2026-11-23T08:32:33-06:00", "2026-11-23T14:32:33Z",
                         "2026-11-23T14:32:33.123456Z"])
subjects = st.one_of(
    st.sampled_from(["", "SENT", " a | b || c ", "SENT|READ|DELETED", "body: |", "  padded  "]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[
        chr(c) for c in (*range(32), 127)]), max_size=300))
bodies = st.one_of(
    st.sampled_from(["", "\n", "body: |\n", "from: x\nbody: |\n  y", "  indented", "\n\n", "\r\n"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
messages = st.builds(OldMessage, ids, names, names, subjects, times, bodies)
events = st.builds(OldEvent, times, st.sampled_from(["SENT", "READ", "DELETED"]), ids, names,
                   names, subjects)

GOOD = OldMessage("2026-11-23T14:32:33+0000-code-3f0c", "code", "chat", "Hello",
                  "2026-11-23T14:32:33+0000", "first line of the body\nsecond line of the body")


@given(messages)
def test_a_message_survives_its_file(message: OldMessage) -> None:
    assert parse_message(render_message(message)) == message


@given(messages)
def test_a_file_survives_its_message(message: OldMessage) -> None:
    data = render_message(message)
    assert render_message(parse_message(data)) == data


@given(events)
def test_an_event_survives_its_line(event: OldEvent) -> None:
    line = render_event(event)
    assert line.endswith(b"\n")
    assert parse_event(line[:-1]) == event


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_reason(data: bytes) -> None:
    for parse in (parse_message, parse_event):
        with contextlib.suppress(FormatError):
            parse(data)


@given(messages, st.data())
def test_a_file_cut_short_is_never_another_message(message: OldMessage, data: st.DataObject
                                                   ) -> None:
    """But for a cut right behind a newline of the body: nothing in the format shows that one."""
    whole = render_message(message)
    cut = whole[:data.draw(st.integers(0, len(whole) - 1))]
    if cut.endswith(b"\n") and b"\nbody: |\n  " in cut:
        return
    with pytest.raises(FormatError):
        parse_message(cut)


def test_the_format_is_that_of_the_old_tool() -> None:
    assert render_message(GOOD) == (
        b"id: 2026-11-23T14:32:33+0000-code-3f0c\nfrom: code\nto: chat\nsubject: Hello\n"
        b"timestamp: 2026-11-23T14:32:33+0000\nbody: |\n  first line of the body\n"
        b"second line of the body\n")
    assert render_event(OldEvent(GOOD.timestamp, "SENT", *GOOD[:4])) == (
        b"2026-11-23T14:32:33+0000|SENT|2026-11-23T14:32:33+0000-code-3f0c|code|chat|Hello\n")


@pytest.mark.parametrize(("change", "reason"), [
    ((b"from: code\n", b""), "no line 'from:'"),
    ((b"subject: Hello\n", b"subject: Hel\nlo\n"), "no line 'timestamp:'"),
    ((b"body: |\n", b"body: >\n"), "does not end with 'body: |'"),
    ((b"  first", b"first"), "not indented"),
    ((b"of the body\n", b"of the body"), "cut short"),
    ((b"first", b"f\xffrst"), "the body is not UTF-8"),
    ((b"Hello", b"H\xffllo"), "'subject:' is not UTF-8"),
    ((b"first", b"f\0rst"), "NUL"),
    ((b"Hello", b"He\tllo"), "control character"),
    ((b"to: chat", b"to: ../x"), "the recipient '../x'"),
    ((b"to: chat", b"to: .."), "the recipient '..'"),
    ((b"from: code", b"from: "), "the sender ''"),
    ((b"id: 2026", b"id: a/b2026"), "the id"),
    ((b"timestamp: 2026-11-23T14:32:33+0000", b"timestamp: 2026-11-23T14:32:33"), "no offset"),
    ((b"timestamp: 2026-11-23T14:32:33+0000", b"timestamp: yesterday"), "'yesterday' is none"),
    ((b"first", b"x" * (BODY_BYTES_MAX + 1)), "larger than 7 MiB"),
])
def test_what_is_no_message_says_why(change: tuple[bytes, bytes], reason: str) -> None:
    data = render_message(GOOD).replace(b"second line of the body\n", b"")
    assert parse_message(data)
    with pytest.raises(FormatError, match=reason.replace("|", r"\|").replace(".", r"\.")):
        parse_message(data.replace(*change, 1))


@pytest.mark.parametrize(("line", "reason"), [
    (b"", "1 of 6 fields"),
    (b"2026-11-23T14:32:33+0000|SENT|id|code|chat", "5 of 6 fields"),
    (b"2026-11-23T14:32:33+0000|MOVED|id|code|chat|Hi", "'MOVED'"),
    (b"2026-11-23T14:32:33+0000|SENT|id|code|../x|Hi", "recipient '../x'"),
    (b"2026-11-23T14:32:33+0000|SENT|i d|code|chat|Hi", "the id"),
    (b"14:32|SENT|id|code|chat|Hi", "the time"),
    (b"2026-11-23T14:32:33+0000|SENT|id|code|chat|\xff", "not UTF-8"),
    (b"2026-11-23T14:32:33+0000|SENT|id|code|chat|Hi\r", "control character"),
])
def test_what_is_no_event_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_event(line)


def test_a_subject_longer_than_a_send_allows_is_kept() -> None:
    long = GOOD._replace(subject="s" * 5000)
    assert parse_message(render_message(long)) == long


def test_offsets_are_the_same_moment() -> None:
    assert len({moment(text) for text in (
        "2026-11-23T14:32:33+0000", "2026-11-23T08:32:33-0600", "2026-11-23T08:32:33-06:00",
        "2026-11-23T14:32:33Z")}) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é", "x" * 51, "a\n", "a\0"])
def test_names_that_are_none(name: str) -> None:
    assert not is_name(name)
