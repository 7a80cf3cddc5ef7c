from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from coordd import problems
from coordd.model import NewMessage
from coordd.problems import KINDS, Fault, Problem, fault_of, invalid
from coordd.rules import Names, decode, decoder_of
from coordd.store import (
    BadCursorError,
    ImportRefusedError,
    KeyConflictError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreSealedError,
    StoreUnavailableError,
    StoreUnknownError,
)

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_problem_is_documented_with_its_status() -> None:
    rows = re.findall(r"^\| `/problems/([\w-]+)` \| (\d+) \|", DOCS.read_text(encoding="utf-8"),
                      re.MULTILINE)
    assert {kind: int(status) for kind, status in rows} == {
        kind: status for kind, (status, _) in KINDS.items()}


@pytest.mark.parametrize(("error", "status", "retry"), [
    (StoreBusyError("x"), 503, "1"), (StoreSealedError("x"), 503, "1"),
    (StoreUnavailableError("x"), 503, "1"), (StoreUnknownError("x"), 503, "1"),
    (StoreFullError("x"), 507, None), (KeyConflictError("x"), 409, None),
    (BadCursorError("x"), 422, None), (ImportRefusedError(3, "no"), 422, None),
    (StoreError("x"), 500, None), (ZeroDivisionError("x"), 500, None),
])
def test_what_the_store_raises_has_its_status(error: Exception, status: int, retry: str | None
                                              ) -> None:
    response = problems.of(error).response()
    document = msgspec.json.decode(response.body)
    assert response.status == document["status"] == status
    assert response.content_type == "application/problem+json"
    assert dict(response.headers).get("Retry-After") == retry


def test_a_defect_tells_the_client_nothing_of_itself() -> None:
    assert b"secret" not in problems.of(ValueError("secret")).response().body


def test_many_faults_are_counted_and_cut() -> None:
    problem = invalid([Fault(f"[{i}].body", "holds a NUL") for i in range(500)])
    assert problem.detail == "[0].body: holds a NUL (and 499 more)"
    assert len(msgspec.json.decode(problem.response().body)["errors"]) == problems.ERRORS_MAX


@pytest.mark.parametrize(("body", "where", "problem"), [
    (b"[]", "the request", "expected object, got array"),
    (b'{"from_agent":"a"}', "to_agent", "is missing"),
    (b'{"from_agent":1}', "from_agent", "expected str, got int"),
    (b'{"colour":1}', "colour", "is unknown"),
    (b'{"from_agent":"a","to_agent":[1]}', "to_agent[0]", "expected str, got int"),
])
def test_a_type_fault_names_its_place(body: bytes, where: str, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=NewMessage)
    assert fault_of(caught.value) == Fault(where, problem)


def test_a_type_fault_in_a_batch_names_the_item() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(b'[{"from_agent":"a"}]', type=list[NewMessage])
    assert fault_of(caught.value) == Fault("[0].to_agent", "is missing")


@pytest.mark.parametrize("body", [
    b"", b"  ", b"{", b"nul", b'{"a":1}}', b"\xef\xbb\xbf{}", b'{"from_agent":"\xff"}',
    b'{"from_agent":"a","subject":"\\ud800"}', b'{"from_agent":"\\ud800\\ud800 and more"}',
    b'{"from_agent":"a","x":' + b"[" * 200_000, b"[" * 200_000, b'{"a":' * 200_000,
    b"\x00", b'{"from_agent":"a\x00"}',
])
def test_what_is_no_json_or_utf8_is_an_answer_not_a_crash(body: bytes) -> None:
    for kind in (NewMessage, list[NewMessage], dict, list):
        with pytest.raises(Problem) as caught:
            decode(decoder_of(kind), body)
        assert caught.value.kind in ("bad-request", "invalid")


def _new(**values: object) -> NewMessage:
    base = {"from_agent": "code", "to_agent": "chat", "subject": "Hi", "body": "there"}
    return msgspec.convert(base | values, NewMessage)


GOOD: list[dict[str, object]] = [
    {}, {"subject": ""}, {"subject": "é \N{SNOWMAN} \N{ZERO WIDTH SPACE} | x"},
    {"subject": "s" * 200}, {"body": ""}, {"body": "a\nb\r\n\t"}, {"body": "b" * 65536},
    {"body": "é" * 32768}, {"to_agent": "@ops"}, {"to_agent": ["a", "@ops", "a"]},
    {"from_agent": "a" * 50}, {"to_agent": "-._x"}, {"thread_id": "2026-11-23T14:32:33+0000-x"},
    {"expires_at": "2999-01-01T00:00:00Z"}, {"expires_at": "2999-01-01T00:00:00.123456-06:00"},
]
BAD: list[tuple[dict[str, object], str]] = [
    ({"from_agent": "a/b"}, "from_agent"), ({"from_agent": "@ops"}, "from_agent"),
    ({"from_agent": ".."}, "from_agent"), ({"from_agent": "a\n"}, "from_agent"),
    ({"from_agent": "é"}, "from_agent"), ({"to_agent": "@"}, "to_agent"),
    ({"to_agent": "@@x"}, "to_agent"), ({"to_agent": "../x"}, "to_agent"),
    ({"to_agent": ["a", "b c"]}, "to_agent[1]"), ({"to_agent": "x" * 51}, "to_agent"),
    ({"subject": "a\nb"}, "subject"), ({"subject": "\x7f"}, "subject"), ({"body": "\0"}, "body"),
    ({"body": "é" * 32769}, "body"), ({"thread_id": "a b"}, "thread_id"),
    ({"in_reply_to": "a/b"}, "in_reply_to"), ({"expires_at": "tomorrow"}, "expires_at"),
    ({"expires_at": "2999-01-01"}, "expires_at"), ({"expires_at": "2999-01-01T00:00:00"},
                                                   "expires_at"),
    ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
    ({"expires_at": "9999-12-31T23:59:59-23:00"}, "expires_at"),
    ({"expires_at": "2999-01-01\x0000:00:00Z"}, "expires_at"), ({"expires_at": ""}, "expires_at"),
]


@pytest.mark.parametrize("values", GOOD)
def test_right_messages_have_no_fault(values: dict[str, object]) -> None:
    assert Names().faults(_new(**values)) == []


@pytest.mark.parametrize(("minutes", "faults"), [(-9, 0), (-11, 1)])
def test_a_clock_that_is_a_little_off_makes_nothing_past(minutes: int, faults: int) -> None:
    moment = datetime.now(UTC) + timedelta(minutes=minutes)
    assert len(Names().faults(_new(expires_at=moment.isoformat()))) == faults


@pytest.mark.parametrize(("values", "where"), BAD)
def test_each_fault_names_its_field_and_no_glance_overlooks_it(values: dict[str, object],
                                                               where: str) -> None:
    names = Names()
    names.faults(_new())
    new = _new(**values)
    assert not names.plain(new)
    assert [fault.where for fault in names.faults(new, "[3].")] == [f"[3].{where}"]


def test_a_message_that_was_right_is_right_by_a_glance() -> None:
    names = Names()
    assert not names.plain(_new())
    names.faults(_new())
    assert names.plain(_new())


def test_the_names_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordd.rules.NAMES_REMEMBERED", 10)
    names = Names()
    for i in range(100):
        assert names.right(f"agent{i}")
    assert len(names.known) <= 10
