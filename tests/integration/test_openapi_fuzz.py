"""Schemathesis against the OpenAPI document: no 5xx from any input, and every answer as described.

Deterministic, and bounded in examples, not in time.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from coordd.api import openapi
from coordd.daemon import Daemon
from coordd.engines import open_engine
from coordd.settings import Settings
from integration.conftest import ADMIN_TOKEN
from support.server import Server

EXAMPLES = 40
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance,
          response_schema_conformance]
LEFT_OUT = {
    "/api/v1/inbox/{agent}/stream": "has no end",
    "/api/v1/admin/seal": "a sealed store would refuse what the other tests send",
}


def _document() -> dict[str, Any]:
    wanted = Settings(data=Path("never-opened"))
    daemon = Daemon(wanted, open_engine(wanted, lambda _error: None, "test"), "test")
    return openapi.document(daemon.application.router.routes)


DOCUMENT = _document()
OPERATIONS = [(method.upper(), path) for path, item in DOCUMENT["paths"].items()
              for method in item if path not in LEFT_OUT]


def test_the_server_serves_this_document(server: Server) -> None:
    assert httpx.get(f"{server.url}/openapi.json").json() == DOCUMENT


@pytest.fixture(scope="module")
def schema(server: Server) -> Any:
    """The document, with the id of a message that is there among those it may choose."""
    item = {"from_agent": "fuzz", "to_agent": "fuzz", "subject": "", "body": ""}
    receipt = httpx.post(f"{server.url}/api/v1/messages", json=item).json()
    document = copy.deepcopy(DOCUMENT)
    for path, operations in document["paths"].items():
        if path.startswith("/api/v1/messages/{id}"):
            for operation in operations.values():
                parameter = operation["parameters"][0]
                parameter["schema"] = {"anyOf": [{"const": receipt["id"]}, parameter["schema"]]}
    for parameter in document["paths"]["/api/v1/inbox/{agent}"]["get"]["parameters"]:
        if parameter["name"] == "wait":
            parameter["schema"]["maximum"] = 0.01
    return schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_as_described(server: Server, schema: Any, method: str, path: str) -> None:
    operation = schema[path][method]
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"} if "/admin/" in path else {}

    @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode)
                            for mode in GenerationMode)))
    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
              phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
    def fuzz(case: Any) -> None:
        case.call_and_validate(base_url=server.url, headers=headers, checks=CHECKS, timeout=60)

    fuzz()
