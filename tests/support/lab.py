"""`coordctl lab` as a person runs it, on a site of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from .ctl import Ctl

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
LAB_CACHE: Final = CACHE / "coordctl" / "lab"
UP_LIMIT_S: Final = 400.0  # the image may have to be built


class Lab(Ctl):
    """Runs coordctl for the site `folder`; image and packages come from the user's own cache."""

    def __init__(self, folder: Path, cwd: Path) -> None:
        super().__init__(folder, cwd)
        self.env["XDG_CACHE_HOME"] = str(CACHE)

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.arguments("lab", *words), cwd=self.cwd, env=self.env, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=UP_LIMIT_S)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def machines(self) -> dict[str, dict[str, Any]]:
        """What status tells of each machine, by name."""
        rows = json.loads(self("status", "--format", "json").stdout)
        return {row["name"]: row for row in rows}

    def on(self, machine: str, command: str, *, given: str = "", code: int = 0) -> str:
        """What a command prints on a machine, reached with what the site's folder holds alone.

        `given`: its stdin.
        """
        facts = self.site()["machines"][machine]
        done = subprocess.run(
            ["ssh", "-F", "none", "-i", self.folder / facts["key"], "-o", "BatchMode=yes",
             "-o", f"UserKnownHostsFile={self.folder / 'known_hosts'}",
             "-o", "StrictHostKeyChecking=yes", f"root@{facts['address']}", command],
            input=given, capture_output=True, text=True, timeout=100)
        assert done.returncode == code, f"{machine}: {command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def site(self) -> dict[str, Any]:
        """What site.yml says."""
        fields: dict[str, Any] = yaml.safe_load(
            (self.folder / "site.yml").read_text(encoding="utf-8"))
        return fields

    @property
    def name(self) -> str:
        return (self.folder / "lab" / "name").read_text(encoding="utf-8").strip()
