"""The docs page: the OpenAPI document for people, one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from coordd import __version__
from coordd.api.openapi import problems_of, schema_of
from coordd.http.router import Param, Route
from coordd.problems import KINDS

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --paper: #fcfcfd;
  --card: #fff; --line: #e2e4e9; --code: #f3f4f6; --get: #0b68cb; --post: #18794e;
  --put: #9a5b00; --delete: #c62a2f; --link: #0b68cb; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #a8adb6; --paper: #111214;
  --card: #18191b; --line: #303236; --code: #202225; --get: #70b8ff; --post: #3dd68c;
  --put: #ffca16; --delete: #ff9592; --link: #70b8ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 54rem; margin: 0 auto; padding: 1.5rem 1rem 5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; letter-spacing: -.02em; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; }
h3 { font-size: .8rem; margin: 1.1rem 0 .35rem; color: var(--soft); font-weight: 600; }
p { margin: .5rem 0; } a { color: var(--link); } .soft { color: var(--soft); }
code, pre { font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { background: var(--code); border-radius: 4px; padding: .1em .3em; }
pre { background: var(--code); border-radius: 8px; padding: .75rem .9rem; overflow-x: auto;
  margin: .35rem 0; }
pre code { padding: 0; background: none; }
nav { display: flex; flex-wrap: wrap; gap: .4rem 1rem; margin: 1rem 0 0; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  margin: .5rem 0; }
summary { cursor: pointer; padding: .65rem .9rem; display: flex; flex-wrap: wrap;
  gap: .15rem .7rem; align-items: baseline; list-style: none; border-radius: 10px; }
summary::-webkit-details-marker { display: none; }
summary:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
summary .path { font: 600 .9rem/1.5 ui-monospace, SFMono-Regular, Menlo, monospace;
  overflow-wrap: anywhere; }
summary .title { color: var(--soft); font-size: .92rem; }
.method { font: 700 .75rem/1.5 ui-monospace, Menlo, monospace; min-width: 3.6rem; }
.GET { color: var(--get); } .POST { color: var(--post); } .PUT { color: var(--put); }
.DELETE { color: var(--delete); }
.inside { padding: 0 .9rem .9rem; border-top: 1px solid var(--line); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: .8rem; }
tr:last-child td { border-bottom: 0; } td:first-child { white-space: nowrap; }
"""

_INTRO = """<p>Messages between agents: send, read, follow, acknowledge. A 200 to a send means that
the message is durable. Times are RFC 3339 texts; unknown keys and parameters are refused. The same
for programs: <a href="/openapi.json">openapi.json</a>.</p>
<p>Where the server asks for tokens, add <code>-H "Authorization: Bearer $COORD_TOKEN"</code> to
the examples; the operator's calls always need the operator's token.</p>"""


def page(routes: Sequence[Route], document: dict[str, Any]) -> str:
    """The page. Text from the routes is escaped."""
    groups = list(dict.fromkeys(route.group for route in routes))
    schemas = document["components"]["schemas"]
    parts = [(
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>coordd {escape(__version__)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>coordd <span class=soft>{escape(__version__)}</span></h1>{_INTRO}<nav>"),
        *(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in [*groups, "Errors",
                                                                        "Schemas"]),
        "</nav>"]
    for group in groups:
        parts.append(f'<h2 id="{_anchor(group)}">{escape(group)}</h2>')
        parts += [_call(route, document) for route in routes if route.group == group]
    parts.append('<h2 id="errors">Errors</h2>')
    parts.append(_table(("type", "status", "when"), [
        (_code(f"/problems/{kind}"), str(status), escape(title))
        for kind, (status, title) in KINDS.items()]))
    parts.append('<h2 id="schemas">Schemas</h2>')
    parts += [_schema(name, schema) for name, schema in sorted(schemas.items())]
    parts.append("</main></body></html>")
    return "".join(parts)


def _call(route: Route, document: dict[str, Any]) -> str:
    operation = document["paths"][route.path][route.method.lower()]
    inside = [f"<p>{_prose(route.doc)}</p>" if route.doc else "<p></p>"]
    params = [*(("path", p) for p in route.path_params), *(("query", p) for p in route.query),
              *(("header", p) for p in route.headers)]
    if params:
        inside.append("<h3>Parameters</h3>" + _table(("name", "in", "takes", ""), [
            (_code(p.name) + (" *" if p.required else ""), where, _takes(p), _prose(p.doc))
            for where, p in params]))
    if route.body is not None:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        inside.append(f"<h3>Body</h3><p>{_type(schema)}</p>")
    answer = operation["responses"][str(route.status)].get("content", {})
    shown = [_type(media["schema"]) if name == "application/json" else _code(name)
             for name, media in answer.items()]
    inside.append(f"<h3>Answer</h3><p>{route.status} {' '.join(shown)}</p>")
    kinds = ", ".join(f"{KINDS[kind][0]} {_code(kind)}" for kind in problems_of(route))
    inside.append(f"<p class=soft>or {kinds}</p>")
    inside.append(f"<h3>Example</h3><pre><code>{escape(example(route))}</code></pre>")
    return (f"<details><summary><span class='method {route.method}'>{route.method}</span>"
            f"<span class=path>{escape(route.path)}</span>"
            f"<span class=title>{escape(route.title)}</span></summary>"
            f"<div class=inside>{''.join(inside)}</div></details>")


def example(route: Route) -> str:
    """A curl command that can be pasted into a shell."""
    path = route.path
    values = {"agent": "chat", "name": "ops", "id": "0190b5a4-7e1c-7d3a-9f00-2b6f6c1d5e42",
              "keyid": "4f1d0c9a8b7e6d53"}
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    required = "&".join(f"{p.name}=hello" for p in route.query if p.required)
    url = f"http://127.0.0.1:8000{path}{'?' + required if required else ''}"
    words = ["curl"]
    if route.media == "text/event-stream":
        words.append("-N")
    if route.method not in ("GET", "POST") or (route.method == "POST" and route.body is None):
        words.append(f"-X {route.method}")
    words.append(f"'{url}'")
    if route.access == "admin":
        words.append('\\\n  -H "Authorization: Bearer $COORD_ADMIN_TOKEN"')
    if route.body_example is not None:
        words.append("\\\n  -H 'Content-Type: application/json'")
        words.append(f"\\\n  -d '{json.dumps(route.body_example)}'")
    return " ".join(words)


def _takes(param: Param) -> str:
    schema = schema_of(param)
    text = _type(schema)
    bounds = [f"{schema[low]} to {schema[high]}" for low, high in
              (("minimum", "maximum"), ("minLength", "maxLength"))
              if low in schema and high in schema]
    if bounds:
        text += f" of {bounds[0]}" + (" characters" if "maxLength" in schema else "")
    if param.default is not None:
        text += f", {_code(json.dumps(param.default))} unless told"
    return text


def _schema(name: str, schema: dict[str, Any]) -> str:
    needed = schema.get("required", [])
    rows = [(_code(key) + (" *" if key in needed else ""), _type(value))
            for key, value in schema.get("properties", {}).items()]
    prose = schema.get("description", "").split("\n\n")[0]
    return (f'<details id="{_anchor(name)}"><summary><span class=path>{escape(name)}</span>'
            f"</summary><div class=inside><p>{_prose(prose)}</p>{_table(('key', 'is'), rows)}"
            "</div></details>")


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f'<a href="#{_anchor(name)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return " ".join(_code(str(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        inner = schema.get("items")
        if inner:
            return f"list of {_type(inner)}"
        return "pair of " + ", ".join(_type(one) for one in schema.get("prefixItems", []))
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"name → {_type(schema['additionalProperties'])}"
    return escape({"integer": "whole number", "string": "text"}.get(
        schema.get("type", ""), schema.get("type", "anything")))


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _prose(text: str) -> str:
    """Escaped text, `so` as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _anchor(name: str) -> str:
    return escape(name.lower().replace(" ", "-"))
