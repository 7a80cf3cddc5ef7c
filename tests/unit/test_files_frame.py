"""Framing: what is whole is read as it was written, what is not is never taken for something."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordd.engines.files import frame
from coordd.engines.files.hashindex import HashIndex
from coordd.engines.files.pages import read_cursor
from coordd.engines.times import text_to_us, to_log_text, to_text
from coordd.model import parse_time
from coordd.store import BadCursorError

payloads = st.binary(max_size=200).map(lambda data: b'{"m":"' + data.hex().encode() + b'"}')
logs = st.lists(payloads, min_size=1, max_size=8)


def written(items: list[bytes], synced: int = 1) -> bytes:
    return b"".join(frame.encode(item, position, synced)
                    for position, item in enumerate(items, start=1))


@given(logs)
def test_frames_are_read_as_they_were_written(items: list[bytes]) -> None:
    data = written(items)
    frames = list(frame.walk(data, 0))
    assert [(each.payload, each.position) for each in frames] == [
        (item, position) for position, item in enumerate(items, start=1)]
    assert [data[each.payload_start : each.end - 1] for each in frames] == items
    assert frames[-1].end == len(data)


@given(logs, st.integers(min_value=0))
def test_of_a_torn_log_the_whole_frames_are_left(items: list[bytes], cut: int) -> None:
    data = written(items)
    torn = data[: cut % (len(data) + 1)]
    ends = [each.end for each in frame.walk(data, 0)]
    assert [each.end for each in frame.walk(torn, 0)] == [end for end in ends if end <= len(torn)]


@given(logs, st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_is_seen(items: list[bytes], place: int, flip: int) -> None:
    data = bytearray(written(items))
    place %= len(data)
    data[place] ^= flip
    for each in frame.walk(bytes(data), 0):
        # Hex digits may change their case; nothing else passes.
        assert items[each.position - 1] == each.payload
        assert not (each.start <= place < each.end) or chr(data[place]).lower() == chr(
            data[place] ^ flip).lower()


@given(logs, st.integers(min_value=0, max_value=7))
def test_a_later_frame_tells_what_was_durable(items: list[bytes], bad: int) -> None:
    """The frame at `bad` is destroyed; the ones behind it were written after it was durable, or
    with it."""
    bad %= len(items)
    for synced, expected in ((bad + 2, bad + 1 < len(items)), (bad + 1, False)):
        parts = [frame.encode(item, position, 1 if position <= bad + 1 else synced)
                 for position, item in enumerate(items, start=1)]
        start = sum(map(len, parts[:bad]))
        data = b"".join(parts[:bad]) + b"\0" * len(parts[bad]) + b"".join(parts[bad + 1 :])
        # The newline of the destroyed frame is what the next one is found by.
        data = data[: start + len(parts[bad]) - 1] + b"\n" + data[start + len(parts[bad]) :]
        assert frame.durable_after(data, start, bad + 1) is expected


@given(st.text(max_size=30))
def test_a_cursor_is_one_or_is_refused(text: str) -> None:
    try:
        letter, number = read_cursor(text)
    except BadCursorError:
        return
    assert letter in "ab"
    assert number >= 0


@given(st.sampled_from("ab"), st.integers(min_value=0, max_value=10**18 - 1))
def test_a_cursor_is_read_back(letter: str, number: int) -> None:
    assert read_cursor(f"{letter}{number}") == (letter, number)


@given(st.integers(min_value=0, max_value=2**51))
def test_times_are_read_back(us: int) -> None:
    assert text_to_us(to_text(us)) == us
    assert text_to_us(to_log_text(us)) == us // 1_000_000 * 1_000_000
    assert parse_time(to_log_text(us)).utcoffset() is not None


@given(st.dictionaries(st.text(max_size=12), st.integers(min_value=0, max_value=2**32 - 2)),
       st.lists(st.text(max_size=12), max_size=20))
def test_the_hash_index_answers_as_a_dict(rows: dict[str, int], others: list[str]) -> None:
    index = HashIndex()
    for text, row in rows.items():
        index.set(text, 0)
        index.set(text, row)
    loaded = HashIndex.load([memoryview(part) for part in index.dump()])
    for text in (*rows, *others):
        assert index.get(text) == rows.get(text) == loaded.get(text)


def test_the_hash_index_grows() -> None:
    index = HashIndex()
    for row in range(20_000):
        index.set(f"text {row}", row)
    assert all(index.get(f"text {row}") == row for row in range(20_000))
    assert index.get("text 20000") is None
