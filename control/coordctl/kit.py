"""Where the kit's playbooks, roles, templates and locks lie."""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """A checkout's top, else the folder that an installed wheel brought along."""
    top = Path(__file__).parents[2]
    return top if (top / "pyproject.toml").exists() else Path(__file__).parent / "kit"
