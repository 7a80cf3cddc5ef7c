"""Where the kit's own files are: playbooks, roles, templates, locks, profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PROFILES: Final = Path(__file__).with_name("profiles")


def folder() -> Path:
    """The folder of playbooks/, roles/, templates/ and lock/: that of the checkout, or the copy
    that an installed wheel brings beside this module.
    """
    installed = Path(__file__).with_name("kit_files")
    return installed if installed.is_dir() else Path(__file__).parents[2]
