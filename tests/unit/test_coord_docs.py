"""docs/coord.md names what there is."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

import coord as library
from coord.cli import coord

DOCS = (Path(__file__).parents[2] / "docs" / "coord.md").read_text()


@pytest.mark.parametrize("verb", list(coord.commands))
def test_every_command_and_option_is_documented(verb: str) -> None:
    assert f"`coord {verb}" in DOCS
    for param in coord.commands[verb].params:
        if isinstance(param, click.Option):
            assert all(name in DOCS for name in param.opts if name.startswith("--"))


@pytest.mark.parametrize("name", [name for name in library.__all__ if isinstance(
    getattr(library, name), type) and issubclass(getattr(library, name), library.CoordError)])
def test_every_error_is_documented(name: str) -> None:
    assert f"`{name}`" in DOCS


@pytest.mark.parametrize("client", [library.Client, library.AsyncClient])
def test_every_call_is_a_documented_method_of_both_clients(client: type) -> None:
    from coord import calls

    for name, call in vars(calls).items():
        public = not name.startswith("_") and getattr(call, "__module__", "") == calls.__name__
        if public and name != "reply_subject":
            assert callable(getattr(client, name))
            assert f"`{name}" in DOCS, name
