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
    """Break a machine, or mend it. What is so already stays so."""


def _on_one(kind: str, does: str) -> None:
    @fault.command(kind, help=does)
    @site_option
    @_name_option
    @_machine
    @click.pass_context
    def _(context: click.Context, lab_name: str | None, machine_name: str) -> None:
        from coordctl.lab import lab as labs

        labs.break_one(folder(context), lab_name, kind, machine_name)


_on_one("kill", "Power off at once: what was not synced to the data disk is lost.")
_on_one("start", "Switch on a machine that is off, and wait until it has booted.")
_on_one("pause", "Freeze every process; connections stay open and silent.")
_on_one("resume", "Let a paused machine go on.")
_on_one("fill", "Take all room of the data disk (coordd's, PostgreSQL's, backups).")
_on_one("free", "Give back the room that fill took.")


@fault.command()
@site_option
@_name_option
@click.argument("one", metavar="A")
@click.argument("other", metavar="B")
@click.option("--one-way", is_flag=True, help="Only what A sends to B.")
@click.pass_context
def partition(context: click.Context, lab_name: str | None, one: str, other: str, *,
              one_way: bool) -> None:
    """Drop every packet between machines A and B, until heal."""
    from coordctl.lab import lab as labs

    if one == other:
        raise click.BadParameter(f"{one} can't be cut off from itself")
    labs.partition(folder(context), lab_name, one, other, one_way=one_way)


@fault.command()
@site_option
@_name_option
@_machine
@click.option("--rate", "rate_kbytes", type=click.IntRange(1, 1_000_000), required=True,
              metavar="KBYTES", help="At most so many kB a second, each way.")
@click.pass_context
def slow(context: click.Context, lab_name: str | None, machine_name: str,
         rate_kbytes: int) -> None:
    """Slow a machine's network down, until heal or its next boot."""
    from coordctl.lab import lab as labs

    labs.slow(folder(context), lab_name, machine_name, rate_kbytes)


@fault.command()
@site_option
@_name_option
@click.pass_context
def heal(context: click.Context, lab_name: str | None) -> None:
    """End every partition and every slow network of the lab."""
    from coordctl.lab import lab as labs

    labs.heal(folder(context), lab_name)
