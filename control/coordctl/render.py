"""Inventories: values through the kit's templates, and onto the disk."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from coordctl import kit
from coordctl.durable import sync_folder, write_file
from coordctl.values import Values

Files = dict[str, str]
"""Path in the inventory's folder → the file's text."""


def _yaml(value: Any) -> str:
    """A value as YAML in one line: JSON is YAML, but for DEL, which JSON leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def render(values: Mapping[str, tuple[str, Values]]) -> Files:
    """The inventory's files. Raises jinja2's errors for a template that is wrong."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(kit.folder() / "templates"),
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        autoescape=False)  # noqa: S701  YAML, not HTML
    environment.filters["yaml"] = _yaml
    return {name: environment.get_template(template).render(fields)
            for name, (template, fields) in sorted(values.items())}


def read(folder: Path) -> Files:
    """The inventory that `folder` holds; {} where there is none."""
    return {str(file.relative_to(folder)): file.read_text(encoding="utf-8")
            for file in sorted(folder.rglob("*.yml"))}


def write(folder: Path, files: Files) -> list[str]:
    """Make `folder` hold just `files`; the names that changed. Raises OSError.

    Each file is there whole or as before; a run that is cut short is mended by the next one.
    """
    before = read(folder)
    changed = []
    for name, text in files.items():
        if before.get(name) == text:
            continue
        file = folder / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(file, text)
        changed.append(name)
    for name in before.keys() - files.keys():
        (folder / name).unlink()
        changed.append(name)
    if changed:
        sync_folder(folder)
    return sorted(changed)


def diff(before: Files, after: Files) -> list[str]:
    """A unified diff of two inventories, a line an item, without line ends; [] where alike."""
    lines: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        lines += difflib.unified_diff(
            before.get(name, "").splitlines(), after.get(name, "").splitlines(),
            f"a/{name}" if name in before else "/dev/null",
            f"b/{name}" if name in after else "/dev/null", lineterm="", n=1)
    return lines
