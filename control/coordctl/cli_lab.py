"""`coordctl lab`: machines on this computer."""

from __future__ import annotations

from typing import Final

import click

from coordctl.cli_options import FormatOption, folder, site_option, yes_option

_name_option: Final = click.option(
    "--name", "lab_name", metavar="LAB", callback=lambda _, __, value: _checked(value),
    help="The lab's name.  [the site's, else one made from the folder's path]")
_machine: Final = click.argument("machine_name", metavar="NAME")


def _checked(value: str | None) -> str | None:
    import re

    if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", value):
        raise click.BadParameter(f"{value!r} is not 1-31 of a-z, 0-9, '-'")
    return value


@click.group()
def lab() -> None:
    """Make machines on this computer, and break them."""


@lab.command()
@site_option
@_name_option
@click.option("--machines", type=click.IntRange(1, 64), default=1, show_default=True,
              help="How many there shall be; more than these are never removed.")
@click.option("--level", default="team", show_default=True, help="The level of a new site.")
@yes_option
@click.pass_context
def up(context: click.Context, lab_name: str | None, machines: int, level: str,
       yes: bool) -> None:
    """Have machines m1, m2 … running, and a site that knows them."""
    from coordctl.lab import lab as labs

    labs.up(folder(context), machines, level, lab_name, yes=yes)


@lab.command()
@site_option
@_name_option
@yes_option
@click.pass_context
def down(context: click.Context, lab_name: str | None, yes: bool) -> None:
    """Remove the machines, their disks and their network."""
    from coordctl.lab import lab as labs

    labs.down(folder(context), lab_name, yes=yes)


@lab.command()
@site_option
@_name_option
@FormatOption
@click.pass_context
def status(context: click.Context, lab_name: str | None, style: str) -> None:
    """Show the machines: name, address, state, since when, faults."""
    from coordctl.lab import lab as labs

    labs.status(folder(context), lab_name, style)


@lab.command()
@site_option
@_name_option
@_machine
@click.argument("command", nargs=-1)
@click.pass_context
def shell(context: click.Context, lab_name: str | None, machine_name: str,
          command: tuple[str, ...]) -> None:
    """Open a shell on machine NAME, or run a command there (after --)."""
    from coordctl.lab import lab as labs

    labs.shell(folder(context), lab_name, machine_name, list(command))


@lab.group()
def fault() -> None:
    """Break a machine, or mend it."""
