"""The commands that make a site and bring it to its level."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from coordctl.cli_options import FormatOption, folder, site_of, site_option, yes_option

_LEVELS = ("individual", "team", "organization", "enterprise")


@click.group(invoke_without_command=True)
@FormatOption
@click.pass_context
def levels(context: click.Context, style: str) -> None:
    """Show the scale levels side by side."""
    if context.invoked_subcommand is not None:
        return
    from coordctl.output import results_console, show_rows
    from coordctl.profile import profiles
    from coordctl.show import levels_table

    if style == "table":
        results_console().print(levels_table(profiles()))
    else:
        show_rows([profile.model_dump(mode="json") for profile in profiles()], {}, style)


@levels.command("show")
@click.argument("level", type=click.Choice(_LEVELS))
@FormatOption
def show_level(level: str, style: str) -> None:
    """Show LEVEL in full: what it must hold, its machines, what they bear."""
    from coordctl.output import results_console, say, show_facts
    from coordctl.profile import profile
    from coordctl.show import level_facts, placement_table, roles_table

    told = profile(level)
    if style != "table":
        show_facts(told.model_dump(mode="json"), {}, style)
        return
    say(f"{told.name}: {told.summary}")
    say()
    facts = level_facts(told)
    show_facts(facts, {words: words for words in facts}, style)
    say()
    results_console().print(placement_table(told))
    say()
    results_console().print(roles_table(told))


def _place(text: str) -> dict[str, Any]:
    """`[USER@]ADDRESS[:PORT]`; an IPv6 address with a port stands in brackets."""
    user, _, place = text.rpartition("@")
    if place.startswith("["):
        address, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    elif place.count(":") > 1:
        address, port = place, ""
    else:
        address, _, port = place.partition(":")
    if port and not port.isdigit():
        raise click.BadParameter(f"{text!r} is no address with a port")
    return ({"address": address} | ({"user": user} if user else {})
            | ({"port": int(port)} if port else {}))


def _machine(_: click.Context, _option: click.Parameter, values: tuple[str, ...]
             ) -> dict[str, Any]:
    machines: dict[str, Any] = {}
    for value in values:
        name, _equals, address = value.partition("=")
        if not address or not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
            raise click.BadParameter(f"{value!r} is not such as m1=192.0.2.7 or "
                                     "m1=admin@192.0.2.7:2222")
        if name in machines:
            raise click.BadParameter(f"{name} is named twice")
        machines[name] = _place(address)
    return machines


@click.command()
@site_option
@click.option("--level", type=click.Choice(_LEVELS), default="individual", show_default=True,
              help="The scale level.")
@click.option("--machine", "machines", multiple=True, metavar="NAME=[USER@]ADDRESS[:PORT]",
              callback=_machine, help="A machine of the site; may be given several times.")
@click.option("--key", type=click.Path(path_type=Path), help="The machines' SSH private key.")
@click.option("--name", help="The site's name.  [the folder's]")
@click.option("--domain", help="The name under which agents reach the site.")
@yes_option
@click.pass_context
def init(context: click.Context, level: str, machines: dict[str, Any], key: Path | None,
         name: str | None, domain: str | None, *, yes: bool) -> None:
    """Write a site: its level, its machines, its secrets.

    On a site that stands nowhere yet (such as one that `lab up` wrote), what is
    given is changed and the rest stays.
    """
    from coordctl import site_init

    if key is not None:
        for fields in machines.values():
            fields["key"] = str(key.expanduser().absolute())
    given = context.get_parameter_source("level") == click.core.ParameterSource.COMMANDLINE
    site_init.init(folder(context), level if given else None, machines, name, domain, yes=yes)


@click.command()
@site_option
@click.option("--to", "level", type=click.Choice(_LEVELS), help="Another level than the site's.")
@FormatOption
@click.pass_context
def plan(context: click.Context, level: str | None, style: str) -> None:
    """Show what `up` would do: topology, files, changes. Changes nothing."""
    from coordctl import plan as plans

    plans.plan(folder(context), level, style)


@click.command()
@site_option
@click.pass_context
def render(context: click.Context) -> None:
    """Write the inventory that Ansible will use."""
    from coordctl import render as renders
    from coordctl import site as sites
    from coordctl import stage
    from coordctl.output import say

    here: Any = site_of(context)
    with sites.locked(here.folder, "render"):
        changed = renders.write(here.folder / "inventory", stage.rendered(here))
    for file in changed:
        say(str(here.folder / "inventory" / file))
    say(f"{len(changed)} file{'s' * (len(changed) != 1)} changed.")


@click.command()
@site_option
@click.option("--port", type=click.IntRange(1, 65535),
              help="The port to listen on, for a site on this machine.  [8000]")
@click.option("--level", type=click.Choice(_LEVELS),
              help="The level of a site that stands nowhere yet.  [as site.yml says]")
@click.option("--compact", is_flag=True,
              help="On fewer machines than the level is meant for, for a site that stands nowhere.")
@click.option("--resume", is_flag=True, help="Skip the phases that hold.")
@yes_option
@click.pass_context
def up(context: click.Context, port: int | None, level: str | None, *, compact: bool, resume: bool,
       yes: bool) -> None:
    """Bring the site to its level; make the site on first use."""
    from coordctl import provision

    provision.up(folder(context), port, yes=yes, resume=resume, level=level, compact=compact)


@click.command()
@site_option
@click.pass_context
def down(context: click.Context) -> None:
    """Stop what `up` started on this machine. The messages stay."""
    from coordctl import site_status

    site_status.down(folder(context))


@click.command()
@site_option
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@FormatOption
@click.pass_context
def status(context: click.Context, style: str, *, watch: bool) -> None:
    """Show how the site fares, what is wrong and what mends it. Exit code 0: it is ready."""
    from coordctl import site_status

    if watch:
        site_status.watch(folder(context), style)
    elif not site_status.status(folder(context), style):
        context.exit(1)


@click.command()
@site_option
@FormatOption
@click.pass_context
def doctor(context: click.Context, style: str) -> None:
    """Look at the machines before anything is done to them. Exit code 0: fit."""
    from coordctl import doctor as doctors
    from coordctl.output import show_rows, waiting

    here = site_of(context)
    topology = here.topology()
    with waiting("Looking at the machines …"):
        findings = doctors.examine(here, topology, here.profile())
    columns = {"machine": "MACHINE", "check": "CHECK", "verdict": "", "says": "FOUND",
               "mend": "MEND"}
    show_rows(doctors.rows(findings), columns, style)
    if doctors.errors(findings):
        context.exit(1)


def _count(_: click.Context, _argument: click.Parameter, value: str) -> tuple[str, int]:
    from coordctl.scale import CHOICES

    what, _equals, count = value.partition("=")
    if what not in CHOICES or not re.fullmatch(r"[0-9]{1,3}", count):
        raise click.BadParameter(f"{value!r} is not such as "
                                 + " or ".join(f"{name}=3" for name in CHOICES))
    return what, int(count)


@click.command()
@site_option
@click.option("--certificates", is_flag=True,
              help="Make the certificates anew too: those of machines, and the balancer's.")
@yes_option
@click.pass_context
def update(context: click.Context, *, certificates: bool, yes: bool) -> None:
    """Bring what the machines run to its newest packages, one after the other."""
    from coordctl import update as updating

    updating.update(folder(context), certificates=certificates, yes=yes)


@click.command()
@site_option
@click.argument("what", metavar="coordd=N", callback=_count)
@yes_option
@click.pass_context
def scale(context: click.Context, what: tuple[str, int], *, yes: bool) -> None:
    """Have N message servers. Agents go on meanwhile."""
    from coordctl import scale as scaling

    scaling.scale(folder(context), *what, yes=yes)


@click.command()
@site_option
@click.option("--to", "machine", help="The machine that shall lead.  [the synchronous replica's]")
@yes_option
@click.pass_context
def failover(context: click.Context, machine: str | None, *, yes: bool) -> None:
    """Have another machine lead the database. Writes wait for some seconds."""
    from coordctl import database

    database.failover(folder(context), machine, yes=yes)


@click.command()
@site_option
@click.pass_context
def backup(context: click.Context) -> None:
    """Make a backup now, beside those of every night."""
    from coordctl import backups

    backups.backup(folder(context))


@click.command()
@site_option
@click.option("--to", "moment", required=True, metavar="TIME",
              help="Such as 2026-11-24T02:31, or latest.")
@yes_option
@click.pass_context
def restore(context: click.Context, moment: str, *, yes: bool) -> None:
    """Bring the database to what it was at TIME. Message servers stop meanwhile."""
    from coordctl import backups

    backups.restore(folder(context), moment, yes=yes)


COMMANDS = (levels, init, plan, render, up, down, status, scale, update, failover, backup,
            restore, doctor)
