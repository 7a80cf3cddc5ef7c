"""The `coord` command: the API for a shell, with the arguments of the old file tool."""

from __future__ import annotations

import os
import sys
from typing import Any, cast

import click

from coord import calls, show
from coord.command import (
    PRIORITIES,
    Verb,
    Verbs,
    ago,
    ask,
    body_text,
    expiry,
    message_id,
    say,
    session,
    tell,
    tell_page,
    wishes,
)
from coord.errors import CoordError, NotFound

EXAMPLES = """\b
Examples:
  coord send code chat "Hi" "there"
  coord inbox chat
  coord read chat 1
  git diff | coord send code @ops "The change" - --priority high
"""

limit_option = click.option("--limit", type=click.IntRange(1, 1000), metavar="N",
                            help="How many (100).")
cursor_option = click.option("--cursor", metavar="CURSOR", help="Go on where a page ended.")
priority_option = click.option("--priority", type=click.Choice(PRIORITIES),
                               help="normal unless told.")
key_option = click.option("--key", metavar="KEY",
                          help="The Idempotency-Key: sent again with it, nothing is stored twice.")


@click.group(cls=Verbs, invoke_without_command=True, epilog=EXAMPLES,
             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96})
@click.version_option(package_name="coordctl", message="coord %(version)s")
@click.pass_context
def coord(ctx: click.Context) -> None:
    """Messages between agents: send them, read them, mark them done."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@coord.command(cls=Verb, takes=4)
@click.argument("from_agent", metavar="FROM")
@click.argument("to_agent", metavar="TO")
@click.argument("subject")
@click.argument("body")
@priority_option
@click.option("--thread", "thread_id", metavar="ID", help="The thread it belongs to.")
@click.option("--expires", metavar="TIME", help="When it is gone: 30m, 2h, 7d or a time.")
@key_option
def send(from_agent: str, to_agent: str, subject: str, body: str, priority: Any,
         thread_id: str | None, expires: str | None, key: str | None) -> None:
    """Send a message. TO: a name, a group (@ops), or several with commas. BODY - reads stdin."""
    to = to_agent.split(",") if "," in to_agent else to_agent
    receipt = ask(calls.send(from_agent, to, subject, body_text(body), priority=priority,
                             thread_id=thread_id, expires_at=expiry(expires), key=key))
    tell(receipt, lambda: show.receipts([receipt]))


@coord.command(cls=Verb)
@click.argument("agent")
@limit_option
@click.option("--unread", is_flag=True, help="Only what is unread.")
@click.option("--min-priority", type=click.Choice(PRIORITIES), help="Only this urgent or more.")
@click.option("--oldest", is_flag=True, help="The oldest first.")
@click.option("--after", type=click.IntRange(0), metavar="SEQ", help="Only above it, oldest first.")
@click.option("--wait", type=click.FloatRange(0, 60), metavar="SECONDS",
              help="Let an empty inbox wait for a message.")
@cursor_option
def inbox(agent: str, limit: int | None, unread: bool, min_priority: Any, oldest: bool,
          after: int | None, wait: float | None, cursor: str | None) -> None:
    """List an agent's messages, the newest first."""
    page = ask(calls.inbox(agent, limit=limit, unread=unread, min_priority=min_priority,
                           order="oldest" if oldest else None, after=after, wait=wait,
                           cursor=cursor))
    which = "Nothing there" if unread or min_priority or after or cursor else "No messages"
    tell_page(page, page["messages"], show.inbox, f"{which} for {agent}.")


@coord.command(cls=Verb)
@click.argument("agent")
@click.argument("id")
def read(agent: str, id: str) -> None:  # noqa: A002
    """Show a message and mark it as read. ID: its id, or its seq in the inbox (12).

    One that is gone is shown out of the archive, where the server has it and searches there.
    """
    found = message_id(agent, id)
    try:
        message = ask(calls.read(found, agent=agent))
    except NotFound:
        message = ask(calls.message(found, agent=agent))
    tell(message, lambda: show.message(message))


@coord.command(cls=Verb)
@click.argument("agent")
@click.argument("id")
def ack(agent: str, id: str) -> None:  # noqa: A002
    """Acknowledge a message: what it asks for is done."""
    message = ask(calls.ack(message_id(agent, id), agent=agent))
    tell(message, lambda: click.echo(f"acknowledged {message['id']}"))


@coord.command(cls=Verb)
@click.argument("agent")
@click.argument("id")
def delete(agent: str, id: str) -> None:  # noqa: A002
    """Delete a message from the agent's inbox."""
    found = message_id(agent, id)
    answer = ask(calls.delete(found, agent=agent))
    tell(answer, lambda: click.echo(f"deleted {found}"))


@coord.command(cls=Verb, takes=3)
@click.argument("agent")
@click.argument("id")
@click.argument("body")
@priority_option
@key_option
def reply(agent: str, id: str, body: str, priority: Any, key: str | None) -> None:  # noqa: A002
    """Answer a message that AGENT received.

    To its sender, in its thread, subject "Re: …". BODY - reads stdin.
    """
    message = ask(calls.message(message_id(agent, id), agent=agent))
    receipt = ask(calls.reply(agent, message, body_text(body), priority=priority, key=key))
    tell(receipt, lambda: show.receipts([receipt]))


@coord.command(cls=Verb)
@click.argument("agent")
@click.option("--after", type=click.IntRange(0), metavar="SEQ",
              help="Begin above it (0: with all there is), not with what comes now.")
@click.option("--min-priority", type=click.Choice(PRIORITIES), help="Only this urgent or more.")
def watch(agent: str, after: int | None, min_priority: Any) -> None:
    """Print messages as they arrive, until Ctrl-C. With --json: a line each."""
    import json

    from coord.protocol import Follower
    from coord.terminal import harmless_json

    if after is None:
        after = ask(calls.inbox(agent, limit=1))["last_seq"]
    follower = Follower(agent, cast("int", after), wait_s=30.0, min_priority=min_priority)
    policy = session().policy
    if wishes().timeout_s is None:
        policy = policy._replace(deadline_s=None, unreached_s=None)
    while True:
        for message in follower.take(session().fetch(follower.call(), policy)):
            if wishes().as_json:
                print(harmless_json(json.dumps(message, ensure_ascii=False)))  # noqa: T201
            else:
                show.arrived(message)
            sys.stdout.flush()


@coord.command(cls=Verb)
@click.argument("agent")
@limit_option
@cursor_option
def sent(agent: str, limit: int | None, cursor: str | None) -> None:
    """List what an agent sent, the newest first."""
    page = ask(calls.sent(agent, limit=limit, cursor=cursor))
    tell_page(page, page["messages"], show.history, f"{agent} has sent nothing.")


@coord.command(cls=Verb)
@click.argument("id")
@limit_option
@cursor_option
def thread(id: str, limit: int | None, cursor: str | None) -> None:  # noqa: A002
    """List a thread, the oldest first."""
    page = ask(calls.thread(id, limit=limit, cursor=cursor))
    tell_page(page, page["messages"], show.history, f"Nothing in thread {id}.")


@coord.command(cls=Verb)
@click.argument("query")
@click.option("--agent", help="Only what this agent sent or received.")
@limit_option
@cursor_option
def search(query: str, agent: str | None, limit: int | None, cursor: str | None) -> None:
    """List messages that have every word of QUERY.

    In subject or body, in any case; the newest first.
    """
    page = ask(calls.search(query, agent=agent, limit=limit, cursor=cursor))
    tell_page(page, page["messages"], show.history, f"Nothing has all of: {query}")


@coord.command(cls=Verb)
@click.option("--agent", help="Only this agent's, as sender or recipient.")
@click.option("--type", "kind", help="Only these.",
              type=click.Choice(("SENT", "READ", "ACKED", "DELETED", "EXPIRED"),
                                case_sensitive=False))
@click.option("--since", metavar="TIME", help="Only from then on: 30m, 2h, 7d (ago) or a time.")
@click.option("--until", metavar="TIME", help="Only before then.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, metavar="N",
              help="How many (20).")
@cursor_option
def log(agent: str | None, kind: Any, since: str | None, until: str | None, limit: int,
        cursor: str | None) -> None:
    """Show the last events: who sent, read, acknowledged, deleted what."""
    page = ask(calls.events(agent=agent, type=kind, since=ago(since, "--since"),
                            until=ago(until, "--until"), limit=limit, order="newest",
                            cursor=cursor))
    tell_page(page, page["events"][::-1], show.events, "No events.")


@coord.command(cls=Verb)
def stats() -> None:
    """Count messages and events, in all and for each agent."""
    answer = ask(calls.stats())
    tell(answer, lambda: show.stats(answer))


@coord.command(cls=Verb)
def agents() -> None:
    """List the agents that have said who they are."""
    answer = ask(calls.agents())
    tell_page(answer, answer["agents"], show.agents,
              "No agent has an entry. Write one: coord agent NAME --description TEXT")


@coord.command(cls=Verb)
@click.argument("name")
@click.option("--description", metavar="TEXT", help="Write the entry.")
def agent(name: str, description: str | None) -> None:
    """Show an agent's entry in the registry, or write it."""
    entry = ask(calls.agent(name) if description is None else calls.put_agent(name, description))
    tell(entry, lambda: show.agents([entry]))


@coord.command(cls=Verb)
def groups() -> None:
    """List the groups: names that stand for several agents."""
    answer = ask(calls.groups())
    tell_page(answer, answer["groups"], show.groups,
              "There is no group. Make one: coord group NAME --members A,B")


@coord.command(cls=Verb)
@click.argument("name")
@click.option("--members", metavar="A,B", help="Write the group: its members, with commas.")
def group(name: str, members: str | None) -> None:
    """Show a group's members, or write them."""
    name = name.removeprefix("@")
    listed = [one.strip() for one in (members or "").split(",") if one.strip()]
    entry = ask(calls.group(name) if members is None else calls.put_group(name, listed))
    tell(entry, lambda: show.groups([entry]))


def main() -> None:
    """Run the command and exit: 0 done, 1 refused or failed, 2 used wrongly, 130 interrupted."""
    _use_utf8()
    try:
        code = coord.main(prog_name="coord", standalone_mode=False)
        sys.stdout.flush()
    except CoordError as error:
        say(str(error))
        code = 1
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "coord"
        say(f"{error.format_message()} Usage: {path} --help")
        code = error.exit_code
    except click.ClickException as error:
        say(error.format_message())
        code = error.exit_code
    except click.Abort:
        code = 130
    except BrokenPipeError:
        # Whoever read the output has enough; nothing is left to tell, not at the exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 141
    sys.exit(code)


def _use_utf8() -> None:
    """Messages are UTF-8 wherever they go; a terminal gets what it can show, and no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8",
                               errors="backslashreplace")
