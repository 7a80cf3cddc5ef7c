"""The example inventories: rendered anew, to compare, or (run as a program) to write them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from coordctl import render
from coordctl.profile import LEVELS
from coordctl.site import Site
from coordctl.values import Controller, values_of

EXAMPLES: Final = Path(__file__).parents[2] / "inventories"


def rendered(level: str) -> render.Files:
    """What the example's site.yml renders to, on a computer where it lies under /srv."""
    site = Site(EXAMPLES / level)
    controller = Controller(Path("/srv/coordctl/example"), site.url)
    return render.render(values_of(site.file, site.profile(), site.topology(), controller))


if __name__ == "__main__":
    for name in LEVELS:
        render.write(EXAMPLES / name / "inventory", rendered(name))
