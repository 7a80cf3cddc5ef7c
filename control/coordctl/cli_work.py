"""`coordctl hook` and `coordctl verify`: what runs behind sends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from coordctl.cli_options import FormatOption, site_of, site_option, yes_option
from coordctl.errors import CoordctlError
from coordctl.output import confirm, note, progress, say, show_facts, show_rows
from coordctl.runs import Run

if TYPE_CHECKING:
    from coordctl.api import Api
    from coordctl.chain import Link
    from coordctl.site import Site

_TYPES: Final = ("SENT", "READ", "ACKED", "DELETED", "EXPIRED")
_PRIORITIES: Final = ("critical", "high", "normal", "low", "info")
_DEAD_MAX: Final = 1000
_LINKS: Final = 5000
_HOOKS: Final = {"id": "ID", "kind": "KIND", "target": "TARGET", "chooses": "CHOOSES",
                 "waiting": "WAITING", "done": "DONE", "failed": "FAILED"}
_DEAD: Final = {"event": "EVENT", "hook": "HOOK", "type": "TYPE", "error": "WHY"}


@click.group()
def hook() -> None:
    """Tell a webhook, a Slack channel or an address of events."""


def _api(site: Site) -> Api:
    from coordctl.api import Api

    return Api(site.url, site.token(), site.authority)


@hook.command("add")
@site_option
@click.argument("kind", type=click.Choice(("webhook", "slack", "email")))
@click.argument("target")
@click.option("--to", "to_agent", metavar="AGENT", help="Only what this agent receives.")
@click.option("--type", "types", multiple=True, type=click.Choice(_TYPES, case_sensitive=False),
              help="Only events of this type; may stand several times.")
@click.option("--min-priority", type=click.Choice(_PRIORITIES), help="Only this and more urgent.")
@click.pass_context
def add(context: click.Context, kind: str, target: str, to_agent: str | None,
        types: tuple[str, ...], min_priority: str | None) -> None:
    """Tell TARGET, a URL or an address of e-mail, of events from now on.

    A webhook's secret, by which it knows that a request is the server's, is
    printed once. Whom the server may call is told in site.yml: hooks.allow.
    """
    from coordctl.api import Refused

    site = site_of(context)
    with _api(site) as api:
        try:
            made = api.call("POST", "/api/v1/admin/hooks", tries=1, json={
                "kind": kind, "target": target, "to_agent": to_agent,
                "types": [type_.upper() for type_ in types], "min_priority": min_priority})
        except Refused as error:
            if "webhook_allow" in str(error):
                raise CoordctlError(str(error), mend=f"edit {site.folder / 'site.yml'} (hooks: "
                                    "{allow: [HOST]}), then coordctl up") from None
            raise
    Run(site.folder, "hook add").log(f"{made['id']}: {kind}")
    if made["secret"] is None:
        say(made["id"])
        return
    note(f"The hook {made['id']} is told from now on. It signs by this secret, shown once:")
    say(made["secret"])


@hook.command("list")
@site_option
@FormatOption
@click.pass_context
def list_(context: click.Context, style: str) -> None:
    """List the hooks; never a secret."""
    with _api(site_of(context)) as api:
        hooks = api.call("GET", "/api/v1/admin/hooks")["hooks"]
    if not hooks and style == "table":
        say("No hooks yet: coordctl hook add webhook URL makes one.")
        return
    if style == "table":
        hooks = [each | {"chooses": _choice(each)} for each in hooks]
    show_rows(hooks, _HOOKS, style)


def _choice(told: dict[str, Any]) -> str:
    words = list(told["types"])
    if told["to_agent"]:
        words.append(f"to {told['to_agent']}")
    if told["min_priority"]:
        words.append(f"{told['min_priority']} up")
    return ", ".join(words) or "all"


@hook.command("remove")
@site_option
@click.argument("id_", metavar="ID")
@yes_option
@click.pass_context
def remove(context: click.Context, id_: str, *, yes: bool) -> None:
    """Remove the hook ID, with all that it was still to be told."""
    from coordctl.api import Refused

    site = site_of(context)
    with _api(site) as api:
        confirm(f"Remove the hook {id_} and what waits for it?", yes=yes)
        try:
            api.call("DELETE", f"/api/v1/admin/hooks/{_checked(id_)}")
        except Refused as error:
            if error.status != 404:
                raise
            raise CoordctlError(f"there is no hook {id_}", mend="coordctl hook list") from None
    Run(site.folder, "hook remove").log(id_)
    say(f"Removed: {id_}")


def _checked(id_: str) -> str:
    if not re.fullmatch(r"[0-9a-z_]{1,64}", id_):
        raise CoordctlError(f"{id_!r} is no hook's id", mend="coordctl hook list")
    return id_


@hook.command("dead")
@site_option
@click.option("--hook", "hook_", metavar="ID", help="Only of this hook.")
@FormatOption
@click.pass_context
def dead(context: click.Context, hook_: str | None, style: str) -> None:
    """List dead letters: events that a hook was told of in vain."""
    params = {"limit": _DEAD_MAX} | ({"hook": _checked(hook_)} if hook_ else {})
    with _api(site_of(context)) as api:
        rows = api.call("GET", "/api/v1/admin/work/dead", params=params)["dead"]
    if not rows and style == "table":
        say("No dead letters.")
        return
    show_rows(rows, _DEAD, style)


@hook.command("retry")
@site_option
@click.argument("event", required=False)
@click.option("--hook", "hook_", metavar="ID", help="Only of this hook.")
@click.pass_context
def retry(context: click.Context, event: str | None, hook_: str | None) -> None:
    """Try dead letters anew: all, those of a hook, or that of an EVENT."""
    site = site_of(context)
    with _api(site) as api:
        retried = api.call("POST", "/api/v1/admin/work/retry",
                           json={"event": event, "hook": hook_ and _checked(hook_)})["retried"]
    Run(site.folder, "hook retry").log(f"{retried} dead letters")
    say(f"Tried anew: {retried:,}")


def _head(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise click.BadParameter(f"{text!r} is not 64 hex digits")
    return text and text.lower()


@click.command()
@site_option
@click.option("--head", metavar="HASH", callback=_head,
              help="A head that was noted earlier: it must be in the chain.")
@FormatOption
@click.pass_context
def verify(context: click.Context, head: str | None, style: str) -> None:
    """Check that no stored message was changed, removed or put in between.

    Each message is hashed together with the hash before it. Note the head that
    is printed, apart from the server: with --head a later run shows that all
    that was there then still is.
    """
    from coordctl.chain import Check

    with _api(site_of(context)) as api:
        first = _page(api, 0, 1)
        check = Check(forgets=first["forgets"], noted=head)
        with progress() as bar:
            task = bar.add_task("Checking", total=None)
            verdict = check.run(
                (change for change, _ in api.feed()), _links(api, first["position"]),
                first["position"], first["head"], lambda: bar.advance(task))
    facts = {"head": verdict.head, "messages": verdict.messages, "gone": verdict.gone,
             "later": verdict.later, "wrong": verdict.wrong or None}
    if verdict.wrong and style == "table":
        raise CoordctlError(f"the chain does not hold: {verdict.wrong}; {verdict.messages:,} "
                            "messages before it are as they were stored",
                            mend="coordctl restore, or compare with a backup")
    if not verdict.noted:
        raise CoordctlError(f"{head} is not in the chain, which holds in itself: it is another "
                            "site's, or all since then was written anew",
                            mend="compare with a backup")
    labels = {"head": "head", "messages": "messages as they were stored",
              "gone": "gone (deleted, expired, forgotten)", "later": "not in the chain yet",
              "wrong": "wrong"}
    show_facts(facts, {key: label for key, label in labels.items() if facts[key] is not None}
               if style == "table" else labels, style)
    if verdict.wrong:
        context.exit(1)


def _page(api: Api, after: int, limit: int) -> dict[str, Any]:
    page: dict[str, Any] = api.call("GET", "/api/v1/admin/work/chain",
                                    params={"after": after, "limit": limit})
    return page


def _links(api: Api, position: int) -> Iterator[Link]:
    """Those that were there when `position` was told."""
    from coordctl.chain import Link

    after = 0
    while links := _page(api, after, _LINKS)["links"]:
        for link in links:
            if link["pos"] > position:
                return
            yield Link(**link)
        after = links[-1]["pos"]
