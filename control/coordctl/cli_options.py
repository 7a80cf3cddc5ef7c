"""Options that several commands share."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from coordctl.output import FORMATS

if TYPE_CHECKING:
    from coordctl.site import Site

_SITE: Final = "coordctl.site"


def _keep_site(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.meta[_SITE] = value


site_option: Final = click.option(
    "--site", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", expose_value=False,
    callback=_keep_site, help="The site's folder.")

FormatOption: Final = click.option("--format", "style", type=click.Choice(FORMATS),
                                   default="table", show_default=True, help="How to print it.")

yes_option: Final = click.option("--yes", "-y", is_flag=True, help="Do it without asking.")


def folder(context: click.Context) -> Path:
    """The site's folder, whether a site is there or not."""
    from coordctl.site import locate  # its models take longer to import than --help to run

    return locate(given_site(context))


def with_site(text: str) -> str:
    """A line to type next, for the same site as this command's."""
    context = click.get_current_context(silent=True)
    given = given_site(context) if context is not None else None
    if given is None:
        return text
    return text.replace("coordctl ", f"coordctl --site {shlex.quote(str(given))} ")


def given_site(context: click.Context) -> Path | None:
    """What --site says, None where it was not given."""
    given: Path | None = context.meta.get(_SITE)
    return given


def site_of(context: click.Context) -> Site:
    """The site; raises CoordctlError where there is none."""
    from coordctl.site import existing

    return existing(folder(context))
