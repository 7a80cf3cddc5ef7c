"""The decisions of a call, without a network: scripted answers in, requests and pauses out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from coord import calls, errors
from coord.protocol import (
    Call,
    Failure,
    Follower,
    Policy,
    Response,
    Send,
    Sleep,
    exchange,
    retry_after_s,
)

URL = "http://127.0.0.1:8000"
READ = calls.inbox("chat")
WRITE = calls.send("code", "chat", "Hi", "there", key="k-1")


def ok(value: Any) -> Response:
    return Response(200, {"content-type": "application/json"}, json.dumps(value).encode())


def problem(status: int, kind: str, detail: str, **headers: str) -> Response:
    document = {"type": f"/problems/{kind}", "title": kind, "status": status, "detail": detail}
    return Response(status, headers, json.dumps(document).encode())


REFUSED = Failure("connection refused", reached=False)
TIMED_OUT = Failure("timed out", reached=True)
BUSY = problem(503, "overloaded", "Too much is waiting.", **{"retry-after": "1"})


class Run:
    """Drives one exchange over a clock of its own; an attempt takes `attempt_s`."""

    def __init__(self, call: Call, outcomes: Iterable[Response | Failure],
                 policy: Policy | None = None, *, random: float = 0.0, attempt_s: float = 0.0
                 ) -> None:
        self.now = 1000.0
        self.sends: list[Send] = []
        self.sleeps: list[Sleep] = []
        self.error: errors.CoordError | None = None
        self.value: Any = None
        steps = exchange(call, URL, policy or Policy(), lambda: self.now, lambda: random)
        left = iter(outcomes)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Send):
                    self.sends.append(step)
                    self.now += attempt_s
                    step = steps.send(next(left))
                else:
                    self.sleeps.append(step)
                    self.now += step.seconds
                    step = next(steps)
        except StopIteration as end:
            self.value = end.value
        except errors.CoordError as error:
            self.error = error


def forever(outcome: Response | Failure) -> Iterable[Response | Failure]:
    while True:
        yield outcome


def test_an_answer_is_its_json() -> None:
    run = Run(READ, [ok({"messages": []})])
    assert run.value == {"messages": []}
    assert not run.sleeps


def test_an_empty_answer_is_none() -> None:
    assert Run(READ, [Response(204, {}, b"")]).value is None


@pytest.mark.parametrize("trouble", [
    REFUSED, TIMED_OUT, BUSY, problem(429, "rate-limited", "Too fast."),
    problem(503, "sealed", "Moving."), problem(503, "unavailable", "No database."),
    problem(503, "unknown-outcome", "Perhaps."), Response(502, {}, b"<html>"),
    Response(504, {}, b"")])
def test_what_waiting_may_mend_is_tried_again(trouble: Response | Failure) -> None:
    run = Run(WRITE, [trouble, trouble, ok({"id": "1"})])
    assert run.value == {"id": "1"}
    assert len(run.sleeps) == 2
    assert {send.call.key for send in run.sends} == {"k-1"}


@pytest.mark.parametrize(("status", "kind", "expected"), [
    (400, "bad-request", errors.Refused), (401, "no-token", errors.Unauthorized),
    (403, "forbidden", errors.Forbidden), (404, "not-found", errors.NotFound),
    (405, "method-not-allowed", errors.Refused), (409, "key-conflict", errors.KeyConflict),
    (413, "too-large", errors.TooLarge), (422, "invalid", errors.Invalid),
    (500, "internal", errors.ServerFault), (507, "full", errors.StoreFull)])
def test_other_problems_end_the_call(status: int, kind: str,
                                     expected: type[errors.CoordError]) -> None:
    run = Run(WRITE, [problem(status, kind, "What is wrong")])
    assert type(run.error) is expected
    assert isinstance(run.error, errors.Answered)
    assert str(run.error).startswith("What is wrong.")
    assert run.error.status == status
    assert run.error.problem["type"] == f"/problems/{kind}"


def test_a_refusal_names_the_errors_that_its_detail_does_not() -> None:
    document = {"type": "/problems/invalid", "detail": "Two values are wrong.",
                "errors": [{"where": "1.subject", "problem": "too long"}]}
    run = Run(WRITE, [Response(422, {}, json.dumps(document).encode())])
    assert str(run.error) == "Two values are wrong: 1.subject: too long."


def test_pauses_double_up_to_a_bound_and_are_jittered() -> None:
    policy = Policy(deadline_s=None, pause_s=0.1, pause_max_s=1.0)
    outcomes = [TIMED_OUT] * 6 + [ok(1)]
    most = [step.seconds for step in Run(READ, outcomes, policy, random=1.0).sleeps]
    least = [step.seconds for step in Run(READ, outcomes, policy, random=0.0).sleeps]
    assert most == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert least == pytest.approx([pause / 2 for pause in most])


def test_retry_after_is_a_floor() -> None:
    run = Run(READ, [problem(429, "rate-limited", "Too fast.", **{"retry-after": "7"}), ok(1)],
              random=0.5)
    assert run.sleeps[0].seconds == pytest.approx(7.05)


def test_a_retry_after_past_the_deadline_is_not_waited_for() -> None:
    run = Run(WRITE, [problem(503, "overloaded", "Too much is waiting.", **{"retry-after": "60"})])
    assert not run.sleeps
    assert isinstance(run.error, errors.Unavailable)
    assert "try again in 60 s" in str(run.error)
    assert "Nothing was stored" in str(run.error)
    assert not run.error.outcome_unknown


@pytest.mark.parametrize(("kind", "unknown"), [
    ("overloaded", False), ("sealed", False), ("unavailable", False), ("unknown-outcome", True)])
def test_what_the_server_says_of_the_outcome(kind: str, unknown: bool) -> None:
    run = Run(WRITE, forever(problem(503, kind, "Not now.")))
    assert isinstance(run.error, errors.Unavailable)
    assert run.error.outcome_unknown == unknown
    assert ("--key k-1" in str(run.error)) == unknown


@pytest.mark.parametrize(("text", "seconds"), [
    ("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("", 0.0), ("soon", 0.0),
    ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)])
def test_retry_after(text: str, seconds: float) -> None:
    assert retry_after_s(text) == seconds


def test_retry_after_as_a_date_to_come() -> None:
    assert retry_after_s("Fri, 31 Dec 2999 23:59:59 GMT") > 1e9


def test_the_deadline_holds_for_all_attempts_together() -> None:
    run = Run(READ, forever(TIMED_OUT), Policy(deadline_s=30), attempt_s=10.0)
    assert run.now <= 1000.0 + 30.0 + 10.0
    assert isinstance(run.error, errors.Unavailable)
    assert not run.error.outcome_unknown
    assert [send.timeout_s <= 30 for send in run.sends] == [True] * len(run.sends)
    assert run.sends[-1].timeout_s < 10.0


def test_after_the_deadline_a_sends_outcome_is_unknown_and_its_key_is_told() -> None:
    run = Run(WRITE, forever(TIMED_OUT), attempt_s=10.0)
    assert isinstance(run.error, errors.Unavailable)
    assert run.error.outcome_unknown
    assert run.error.key == "k-1"
    assert "coord send … --key k-1" in str(run.error)


def test_an_unknown_outcome_stays_unknown_when_the_server_is_gone_later() -> None:
    run = Run(WRITE, [TIMED_OUT, *[REFUSED] * 1000], Policy(unreached_s=1.0))
    assert isinstance(run.error, errors.Unavailable)
    assert run.error.outcome_unknown
    assert run.now > 1000.0 + 20.0, "a server that was there is waited for longer"


def test_a_server_that_was_never_there_is_given_up_sooner() -> None:
    run = Run(WRITE, forever(REFUSED), Policy(unreached_s=5.0))
    assert isinstance(run.error, errors.Unavailable)
    assert 1000.0 < run.now <= 1005.0
    assert URL in str(run.error)
    assert "coordctl up" in str(run.error)
    assert "Nothing was stored" in str(run.error)


def test_a_defect_of_the_server_leaves_a_send_unknown_and_a_read_not() -> None:
    fault = problem(500, "internal", "A defect")
    assert "--key k-1" in str(Run(WRITE, [fault]).error)
    assert "stored" not in str(Run(READ, [fault]).error)


def test_a_kept_connection_that_aged_is_replaced_at_once() -> None:
    run = Run(WRITE, [Failure("reset", reached=True, stale=True), ok(1)])
    assert run.value == 1
    assert not run.sleeps


def test_a_long_poll_has_its_wait_on_top() -> None:
    run = Run(calls.inbox("chat", wait=50), [ok(1)])
    assert run.sends[0].timeout_s == pytest.approx(60)


@pytest.mark.parametrize("response", [
    Response(200, {"content-type": "text/html"}, b"<html>"),
    Response(404, {"content-type": "text/html"}, b"<html>"),
    Response(404, {}, b'{"detail": "no type"}'),
    Response(400, {}, b"[]")])
def test_another_server_is_told_from_ours(response: Response) -> None:
    run = Run(READ, [response])
    assert isinstance(run.error, errors.UnexpectedAnswer)
    assert "COORD_URL" in str(run.error)


def test_a_redirect_is_not_followed_but_named() -> None:
    run = Run(READ, [Response(301, {"location": "https://127.0.0.1/"}, b"")])
    assert isinstance(run.error, errors.UnexpectedAnswer)
    assert "https://127.0.0.1/" in str(run.error)


def test_a_follower_goes_on_from_what_it_took() -> None:
    follower = Follower("chat", 4, wait_s=30, limit=2)
    assert follower.call().path == "/api/v1/inbox/chat?limit=2&order=oldest&after=4&wait=30"
    assert follower.take({"messages": [], "last_seq": 9}) == []
    assert follower.after == 4, "an empty page moves nothing, whatever last_seq says"
    assert [one["seq"] for one in follower.take({"messages": [{"seq": 5}, {"seq": 8}]})] == [5, 8]
    assert follower.after == 8
