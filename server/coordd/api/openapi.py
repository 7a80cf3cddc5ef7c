"""The OpenAPI document, made from the routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from coordd import __version__
from coordd.http.router import Param, Route
from coordd.problems import KINDS, Kind, ProblemDocument

_REF = "#/components/schemas/{name}"
_SUMMARY = """Messages between agents: send, read, follow, acknowledge. \
200 to a send means that the message is durable. Times are RFC 3339 texts. Unknown keys and \
parameters are refused. Errors are RFC 9457 problem documents with a stable `type`."""


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document, as what JSON can hold."""
    types = [t for route in routes for t in (route.body, route.answer) if t is not None]
    types.append(ProblemDocument)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = {id(t): schema for t, schema in zip(types, schemas, strict=True)}
    components["ProblemDocument"]["properties"]["type"]["enum"] = [
        f"/problems/{kind}" for kind in KINDS]
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "coordd", "version": __version__, "description": _SUMMARY,
                 "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(route.group for route in routes)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {
                "type": "http", "scheme": "bearer",
                "description": "`coord_<keyid>_<secret>`; asked for where the settings say "
                               "`auth = \"token\"`, and by the operator's calls always."}}},
    }


def problems_of(route: Route) -> list[Kind]:
    """Every problem that the call may answer."""
    kinds: set[Kind] = {"bad-request", "method-not-allowed", *route.problems}
    if route.access != "public":
        kinds |= {"no-token", "forbidden", "rate-limited", "unavailable"}
    if route.path_params or route.query or route.headers or route.body is not None:
        kinds.add("invalid")
    if route.body is not None:
        kinds.add("too-large")
    if route.writes:
        kinds |= {"overloaded", "sealed", "unknown-outcome", "full"}
    if route.unready:
        kinds |= {"overloaded", "sealed", "unavailable", "full", "internal"}
    kinds |= {"invalid", "too-large"}
    return [kind for kind in KINDS if kind in kinds]


def _operation(route: Route, by_type: dict[int, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").rstrip("_"),
        "summary": route.title, "tags": [route.group],
    }
    if route.doc:
        operation["description"] = route.doc
    parameters = [*(_parameter(p, "path") for p in route.path_params),
                  *(_parameter(p, "query") for p in route.query),
                  *(_parameter(p, "header") for p in route.headers)]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        media = {"schema": by_type[id(route.body)]}
        if route.body_example is not None:
            media["example"] = route.body_example
        operation["requestBody"] = {"required": True, "content": {"application/json": media}}
    operation["responses"] = _responses(route, by_type)
    if route.access == "token":
        operation["security"] = [{}, {"token": []}]
    elif route.access == "admin":
        operation["security"] = [{"token": []}]
    return operation


def _parameter(param: Param, where: str) -> dict[str, Any]:
    schema = schema_of(param)
    if param.default is not None:
        schema["default"] = param.default
    return {"name": param.name, "in": where, "required": param.required or where == "path",
            "description": param.doc, "schema": schema}


def schema_of(param: Param) -> dict[str, Any]:
    """The parameter's JSON schema."""
    return msgspec.json.schema(param.type)


def _responses(route: Route, by_type: dict[int, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Done" if route.status == 204 else route.title}
    if route.status != 204:
        schema = {"type": "string"} if route.answer is None else by_type[id(route.answer)]
        if route.answer is None and route.media == "application/json":
            schema = {"type": "object"}
        success["content"] = {route.media: {"schema": schema}}
    responses: dict[str, Any] = {str(route.status): success}
    titles: dict[int, list[str]] = {}
    for kind in problems_of(route):
        status = 503 if route.unready and kind in ("full", "internal") else KINDS[kind][0]
        titles.setdefault(status, []).append(KINDS[kind][1])
    for status, texts in sorted(titles.items()):
        responses[str(status)] = {
            "description": "; or: ".join(texts),
            "content": {"application/problem+json": {
                "schema": {"$ref": _REF.format(name="ProblemDocument")}}}}
        if status in (429, 503):
            responses[str(status)]["headers"] = {"Retry-After": {
                "description": "Seconds until it is worth trying again.",
                "schema": {"type": "integer"}}}
    return responses
