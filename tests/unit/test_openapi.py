from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import pytest

from coordd.api import docspage, openapi
from coordd.daemon import Daemon
from coordd.engines import open_engine
from coordd.http.router import Route
from coordd.settings import Settings

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.fixture(scope="module")
def routes() -> tuple[Route, ...]:
    wanted = Settings(data=Path("never-opened"))
    store = open_engine(wanted, lambda _error: None, "test")
    return Daemon(wanted, store, "test").application.router.routes


@pytest.fixture(scope="module")
def document(routes: tuple[Route, ...]) -> dict[str, Any]:
    return openapi.document(routes)


def test_every_route_is_an_operation_with_an_id_of_its_own(
        routes: tuple[Route, ...], document: dict[str, Any]) -> None:
    operations = [op for item in document["paths"].values() for op in item.values()]
    assert len(operations) == len(routes)
    assert len({op["operationId"] for op in operations}) == len(operations)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert names
    assert names <= set(document["components"]["schemas"])


def test_every_variable_of_a_path_is_a_parameter(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            given = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert given == set(re.findall(r"{(\w+)}", path)), path


def test_every_call_is_in_the_guide_and_every_call_of_the_guide_exists(
        routes: tuple[Route, ...]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    told = set()
    for row in re.findall(r"^\| (`(?:GET|POST|PUT|DELETE).+?) \|", text, re.MULTILINE):
        last = ""
        for call in re.split(r", (?=`)", row.replace("\\|", "/")):
            found = re.match(r"`?(?:(?P<verbs>(?:GET|POST|PUT|DELETE)(?:` and `\w+)*) )?"
                             r"(?P<path>/[^?` ]*)", call)
            if found is None:
                continue
            if found["verbs"]:
                verbs = found["verbs"].split("` and `")
            path = found["path"]
            if not path.startswith(("/api", "/health", "/ready", "/metrics")):
                path = last.rsplit("/", 1)[0] + path
            last = path
            told |= {(verb, path) for verb in verbs}
    unguided = {"/openapi.json", "/docs"}
    assert told == {(r.method, r.path) for r in routes if r.path not in unguided}


def test_the_page_shows_every_call_and_loads_nothing(
        routes: tuple[Route, ...], document: dict[str, Any]) -> None:
    page = docspage.page(routes, document)
    for route in routes:
        assert route.path in page
        assert escape(route.title) in page
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page
    assert "<script" not in page
    assert not re.search(r'(?:src|url\()', page)
    assert set(re.findall(r'href="([^#"][^"]*)"', page)) == {"/openapi.json"}


def test_the_page_escapes_what_it_shows() -> None:
    route = Route("GET", "/<b>", lambda _request: b"", "a <script>", "`<i>` & more")
    page = docspage.page([route], openapi.document([route]))
    assert "<script>" not in page
    assert "<code>&lt;i&gt;</code> &amp; more" in page


def test_the_examples_are_what_a_shell_takes(routes: tuple[Route, ...]) -> None:
    shown = [docspage.example(route) for route in routes]
    assert ("curl 'http://127.0.0.1:8000/api/v1/search?q=hello'") in shown
    assert all("{agent}" not in text and "{id}" not in text for text in shown)
