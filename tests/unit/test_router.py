from __future__ import annotations

from typing import Annotated

import pytest
from msgspec import Meta

from coordd.http.request import Request
from coordd.http.router import Param, Route, Router
from coordd.problems import Problem


def _answer(_request: Request) -> bytes:
    return b"{}"


LIMIT = Param("limit", Annotated[int, Meta(ge=1, le=10)], "", default=5, whole=True)
ROUTES = (
    Route("GET", "/list", _answer, "list", query=(LIMIT, Param("unread", bool, "", default=False),
                                                  Param("q", str, "", required=True))),
    Route("POST", "/list", _answer, "add"),
    Route("GET", "/box/{agent}", _answer, "box", path_params=(Param("agent", str, ""),)),
    Route("DELETE", "/box/{agent}", _answer, "drop", path_params=(Param("agent", str, ""),)),
    Route("GET", "/box/{agent}/stream", _answer, "stream"),
    Route("POST", "/box/batch", _answer, "batch"),
)
ROUTER = Router(ROUTES)


def _find(method: str, target: str) -> tuple[str, list[str]]:
    request = Request(method.encode(), target.encode(), [], b"")
    return ROUTER.find(request).title, request.args


def _problem(method: str, target: str) -> Problem:
    with pytest.raises(Problem) as caught:
        _find(method, target)
    return caught.value


def test_static_paths_and_templates() -> None:
    assert _find("POST", "/list") == ("add", [])
    assert _find("GET", "/list?q=1") == ("list", [])
    assert _find("GET", "/box/code") == ("box", ["code"])
    assert _find("GET", "/box/code/stream") == ("stream", ["code"])
    assert _find("DELETE", "/box/x") == ("drop", ["x"])


def test_a_static_path_goes_before_a_template() -> None:
    assert _find("POST", "/box/batch") == ("batch", [])


def test_head_is_answered_by_get() -> None:
    assert _find("HEAD", "/box/code") == ("box", ["code"])


@pytest.mark.parametrize(("target", "args"), [
    ("/box/a%2Fb", ["a/b"]), ("/box/%2e%2e", [".."]), ("/box/a%00", ["a\0"]),
    ("/box/%C3%A9", ["é"]), ("/box/%zz", ["%zz"]), ("/box/a%252Fb", ["a%2Fb"]),
    ("/box/a%3Fq", ["a?q"]),
])
def test_segments_are_decoded_once_after_the_split(target: str, args: list[str]) -> None:
    assert _find("GET", target) == ("box", args)


def test_no_encoded_slash_reaches_another_route() -> None:
    assert _find("GET", "/box/code%2Fstream") == ("box", ["code/stream"])


@pytest.mark.parametrize("target", ["/", "/box", "/box/", "/box//stream", "/list/", "//list",
                                    "/box/a/b/c", "/LIST", "/%6cist"])
def test_what_is_no_path_of_ours_is_404(target: str) -> None:
    assert _problem("GET", target).kind == "not-found"


def test_405_says_what_is_allowed() -> None:
    problem = _problem("PUT", "/box/code")
    assert (problem.kind, problem.headers) == ("method-not-allowed",
                                               (("Allow", "DELETE, GET, HEAD"),))


@pytest.mark.parametrize("target", ["/box/%ff", "/list?q=%ff", "ftp://x/list", "*"])
def test_what_cannot_be_read_is_400(target: str) -> None:
    if "?" in target:
        request = Request(b"GET", target.encode(), [], b"")
        ROUTER.find(request)
        with pytest.raises(Problem) as caught:
            request.query()
        assert caught.value.kind == "bad-request"
    else:
        assert _problem("GET", target).kind == "bad-request"


def test_an_absolute_target_is_its_path() -> None:
    assert _find("GET", "http://coord.example/box/code") == ("box", ["code"])


def _query(text: str) -> dict[str, object]:
    return ROUTES[0].read_query(text.encode())


def test_parameters_are_converted_and_defaults_filled_in() -> None:
    assert _query("q=a+b%26&unread=true") == {"limit": 5, "unread": True, "q": "a b&"}


@pytest.mark.parametrize(("text", "where"), [
    ("", "q"), ("q=x&limit=0", "limit"), ("q=x&limit=11", "limit"), ("q=x&limit=1e1", "limit"),
    ("q=x&limit=", "limit"), ("q=x&limit=1.0", "limit"), ("q=x&limit=" + "9" * 400, "limit"),
    ("q=x&unread=1", "unread"), ("q=x&unread=True", "unread"), ("q=x&q=y", "q"),
    ("q=x&page=2", "page"), ("q=%00", "q"), ("q=x&=1", "query"),
])
def test_a_bad_parameter_is_422_and_named(text: str, where: str) -> None:
    with pytest.raises(Problem) as caught:
        _query(text)
    assert caught.value.kind == "invalid"
    assert caught.value.errors[0].where == where


def test_too_many_parameters_are_refused() -> None:
    with pytest.raises(Problem, match="more than 50"):
        _query("&".join(f"a{i}=1" for i in range(1000)))


def test_a_call_without_parameters_refuses_them() -> None:
    assert _problem("POST", "/list?x=1").errors[0].where == "x"
