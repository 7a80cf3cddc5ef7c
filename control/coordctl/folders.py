"""The user's own folders, as the XDG Base Directory Specification names them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache(environ: Mapping[str, str] = os.environ) -> Path:
    """What can be made again: releases, the lab's image and packages."""
    return _folder("XDG_CACHE_HOME", ".cache", environ)


def config(environ: Mapping[str, str] = os.environ) -> Path:
    """The keys of the sites' secrets."""
    return _folder("XDG_CONFIG_HOME", ".config", environ)


def data(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's default site."""
    return _folder("XDG_DATA_HOME", ".local/share", environ)


def _folder(variable: str, default: str, environ: Mapping[str, str]) -> Path:
    base = environ.get(variable, "")  # a relative path there counts as none
    return (Path(base) if base.startswith("/") else Path.home() / default) / "coordctl"
