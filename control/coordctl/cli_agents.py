"""`coordctl agent`: the tokens of agents."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

from coordctl.cli_options import FormatOption, site_of, site_option, yes_option
from coordctl.errors import CoordctlError
from coordctl.legacy import is_name
from coordctl.output import confirm, note, say, show_rows
from coordctl.runs import Run

if TYPE_CHECKING:
    from coordctl.site import Site


@click.group()
def agent() -> None:
    """Give an agent a token, or take it back."""


def _api(site: Site) -> Any:
    from coordctl.api import Api

    return Api(site.url, site.token(), site.authority)


def _sole(site: Site, command: str) -> AbstractContextManager[int]:
    """Two operators must not both find that an agent has no token."""
    from coordctl.site import locked

    return locked(site.folder, command)


def _active(tokens: list[dict[str, Any]], name: str) -> list[str]:
    return [token["keyid"] for token in tokens
            if token["agent"] == name and token["revoked_at"] is None]


def _checked(_: click.Context, __: click.Parameter, name: str) -> str:
    if not is_name(name):
        raise click.BadParameter(f"{name!r} is not 1-50 of letters, digits, '.', '_', '-'")
    return name


_name = click.argument("name", callback=_checked)


def _show(site: Site, issued: dict[str, str]) -> None:
    note("This token is shown once. Give it to the agent as $COORD_TOKEN,")
    note(f"with {site.url} as $COORD_URL"
         + (f" and {site.authority} as $COORD_CA:" if site.authority else ":"))
    say(issued["token"])


@agent.command("add")
@site_option
@_name
@click.pass_context
def add(context: click.Context, name: str) -> None:
    """Make the token of the agent NAME and print it, once."""
    site = site_of(context)
    with _sole(site, "agent add"), _api(site) as api:
        if keyids := _active(api.tokens(), name):
            raise CoordctlError(f"{name} has a token, {keyids[0]}",
                                mend=f"coordctl agent rotate {name}")
        issued = api.issue(name)
        _show(site, issued)
        Run(site.folder, "agent add").log(f"{name}: token {issued['keyid']}")


@agent.command("list")
@site_option
@FormatOption
@click.pass_context
def list_(context: click.Context, style: str) -> None:
    """List all tokens, those revoked too; never a secret."""
    with _api(site_of(context)) as api:
        tokens = api.tokens()
    columns = {"agent": "AGENT", "keyid": "KEYID", "created_at": "MADE", "revoked_at": "REVOKED"}
    if style == "table":
        tokens = [token | {key: token[key] and token[key][:19].replace("T", " ")
                           for key in ("created_at", "revoked_at")} for token in tokens]
    if not tokens and style == "table":
        say("No tokens yet: coordctl agent add NAME makes one.")
        return
    show_rows(tokens, columns, style)


@agent.command("rotate")
@site_option
@_name
@yes_option
@click.pass_context
def rotate(context: click.Context, name: str, *, yes: bool) -> None:
    """Make a new token for NAME, print it, and revoke the older ones."""
    site = site_of(context)
    with _sole(site, "agent rotate"), _api(site) as api:
        older = _active(api.tokens(), name)
        if not older:
            raise CoordctlError(f"{name} has no token", mend=f"coordctl agent add {name}")
        note(f"{name} gets a new token; revoked at once: {', '.join(older)}")
        confirm("Rotate?", yes=yes)
        issued = api.issue(name)
        _show(site, issued)
        for keyid in older:
            api.revoke(keyid)
    Run(site.folder, "agent rotate").log(
        f"{name}: token {issued['keyid']} instead of {', '.join(older)}")


@agent.command("revoke")
@site_option
@_name
@yes_option
@click.pass_context
def revoke(context: click.Context, name: str, *, yes: bool) -> None:
    """Revoke the tokens of NAME, or the one token whose keyid is NAME."""
    site = site_of(context)
    with _api(site) as api:
        tokens = api.tokens()
        keyids = _active(tokens, name) or [token["keyid"] for token in tokens
                                           if token["keyid"] == name and not token["revoked_at"]]
        if not keyids:
            if any(name in (token["agent"], token["keyid"]) for token in tokens):
                say(f"{name}: revoked before.")
                return
            raise CoordctlError(f"{name} has no token", mend="coordctl agent list")
        note(f"Revoked at once: {', '.join(keyids)}")
        confirm("Revoke?", yes=yes)
        for keyid in keyids:
            api.revoke(keyid)
    Run(site.folder, "agent revoke").log(f"{name}: {', '.join(keyids)}")
    say(f"Revoked: {', '.join(keyids)}")
