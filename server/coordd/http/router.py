"""One table of routes: dispatch, 405 with Allow, the OpenAPI document and the docs page read it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from coordd.http.request import Handler, Request
from coordd.problems import Fault, Kind, Problem, fault_of, invalid

QUERY_FIELDS_MAX: Final = 50

_whole: Final = re.compile(r"-?[0-9]{1,18}\Z")


@dataclass(frozen=True)
class Param:
    """A value in the query, the path or a header. `type` carries its bounds (msgspec.Meta)."""

    name: str
    type: Any
    doc: str
    default: Any = None
    required: bool = False
    whole: bool = False
    """Digits only: the lax conversion would take `1e3` too."""

    def read(self, text: str) -> Any:
        """`text` as the type. Raises Problem (422) naming the parameter."""
        if self.type is bool:
            if text not in ("true", "false"):
                raise invalid([Fault(self.name, "expected true or false")])
            return text == "true"
        if "\0" in text:
            raise invalid([Fault(self.name, "holds a NUL")])
        if self.whole and not _whole.match(text):
            raise invalid([Fault(self.name, "expected a whole number")])
        try:
            return msgspec.convert(text, self.type, strict=False)
        except msgspec.ValidationError as error:
            raise invalid([fault_of(error, self.name)]) from None


@dataclass(frozen=True, eq=False)
class Route:
    """A call: what answers it and everything a document says of it.

    `path` is a template, `/api/v1/inbox/{agent}`; `body` and `answer` are types that msgspec can
    describe; `media` is the answer's content type; `status` that of success; `problems` are those
    beside the ones that follow from the rest (a body: 400, 413, 422; a parameter: 422; …).
    """

    method: str
    path: str
    handler: Handler
    title: str
    doc: str = ""
    group: str = "Server"
    path_params: tuple[Param, ...] = ()
    query: tuple[Param, ...] = ()
    headers: tuple[Param, ...] = ()
    body: Any = None
    body_example: Any = None
    answer: Any = None
    media: str = "application/json"
    status: int = 200
    problems: tuple[Kind, ...] = ()
    access: str = "token"
    """`public`: no token is asked for; `token`: as the settings say; `admin`: the operator's."""
    writes: bool = False
    """Whether it changes the store: then it may be full, sealed or busy."""
    unready: bool = False
    """Whether it may answer 503 without having written."""
    timed: bool = False
    counts: dict[int, int] = field(default_factory=dict)
    """Answers so far, by status."""

    def read_query(self, raw: bytes) -> dict[str, Any]:
        """The query's parameters, converted, defaults filled in. Raises Problem (400, 422)."""
        values = {param.name: param.default for param in self.query}
        given: set[str] = set()
        if raw:
            by_name = {param.name: param for param in self.query}
            for name, text in _pairs(raw):
                param = by_name.get(name)
                if param is None:
                    known = ", ".join(by_name) or "none"
                    raise invalid([Fault(name[:50] or "query", "is no parameter of this call; "
                                                               f"known: {known}")])
                if name in given:
                    raise invalid([Fault(name, "is given twice")])
                given.add(name)
                values[name] = param.read(text)
        for param in self.query:
            if param.required and param.name not in given:
                raise invalid([Fault(param.name, "is missing")])
        return values


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict",
                         max_num_fields=QUERY_FIELDS_MAX)
    except UnicodeError:
        raise Problem("bad-request", "the query is no percent-encoded UTF-8") from None
    except ValueError:
        raise Problem("bad-request", f"more than {QUERY_FIELDS_MAX} query parameters") from None


class Router:
    """Finds the route of a request: one look-up for a static path without a query."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self.unmatched = Route("ANY", "unmatched", _no_handler, "Requests that no call is for")
        self._exact: dict[tuple[bytes, bytes], Route] = {}
        self._static: dict[bytes, dict[bytes, Route]] = {}
        self._templates: dict[int, list[_Template]] = {}
        for route in self.routes:
            methods = self._methods_of(route.path)
            methods[route.method.encode()] = route
            if route.method == "GET":
                methods[b"HEAD"] = route
        for path, methods in self._static.items():
            for method, route in methods.items():
                self._exact[method, path] = route

    def _methods_of(self, path: str) -> dict[bytes, Route]:
        if "{" not in path:
            return self._static.setdefault(path.encode(), {})
        segments = tuple(path.encode().split(b"/"))
        templates = self._templates.setdefault(len(segments), [])
        for template in templates:
            if template.segments == segments:
                return template.methods
        templates.append(_Template(segments))
        return templates[-1].methods

    def find(self, request: Request) -> Route:
        """Set the request's `route` and `args`. Raises Problem (400, 404, 405).

        A path is split at its slashes before anything is decoded: `%2F` is part of a name.
        """
        route = self._exact.get((request.method, request.target))
        if route is None:
            request.route = self.unmatched
            route = self._search(request)
        request.route = route
        return route

    def _search(self, request: Request) -> Route:
        target = request.target
        if not target.startswith(b"/"):
            target = _path_of_absolute(target)
            request.target = target
        path = target.partition(b"?")[0]
        methods = self._static.get(path)
        if methods is None:
            segments = path.split(b"/")
            for template in self._templates.get(len(segments), ()):
                if template.fits(segments):
                    methods = template.methods
                    request.args = [_decoded(segments[i]) for i in template.variable]
                    break
            else:
                raise Problem("not-found", "no such call: /docs lists them all")
        route = methods.get(request.method)
        if route is None:
            allow = ", ".join(sorted(method.decode() for method in methods))
            raise Problem("method-not-allowed", f"this address takes {allow}",
                          headers=(("Allow", allow),))
        if not route.query:
            route.read_query(target.partition(b"?")[2])
        return route


class _Template:
    """A path with variable segments, and the routes of its methods."""

    def __init__(self, segments: tuple[bytes, ...]) -> None:
        self.segments = segments
        self.methods: dict[bytes, Route] = {}
        self.variable = [i for i, text in enumerate(segments) if text.startswith(b"{")]
        self._literal = [(i, text) for i, text in enumerate(segments) if text[:1] != b"{"]

    def fits(self, segments: list[bytes]) -> bool:
        """Whether every literal is there and no variable is empty."""
        return (all(segments[i] == text for i, text in self._literal)
                and all(segments[i] for i in self.variable))


def _decoded(segment: bytes) -> str:
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        raise Problem("bad-request", "the path is no percent-encoded UTF-8") from None


def _path_of_absolute(target: bytes) -> bytes:
    """`http://host/path?query`, the form that proxies get, without its first part."""
    scheme, _, rest = target.partition(b"://")
    if scheme.lower() not in (b"http", b"https"):
        raise Problem("bad-request", "the request's target is no path")
    _, slash, path = rest.partition(b"/")
    return slash + path or b"/"


def _no_handler(_request: Request) -> bytes:
    raise AssertionError("the pseudo-route of unmatched requests is never dispatched")
