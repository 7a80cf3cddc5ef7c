"""What the verbs of the command share: their options, the session, output, errors."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from coord.errors import BadCall, NotFound
from coord.protocol import Policy
from coord.terminal import harmless_json, on_terminal, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.protocol import Call, Sleep
    from coord.session import Session

DEADLINE_S = 30.0
UNREACHED_S = 5.0
"""A server that was just restarted is back by then; one that is not there is worth no more."""
PRIORITIES = ("critical", "high", "normal", "low", "info")


class Wishes:
    """The options that hold for every verb, given before it or after it."""

    url: str | None = None
    ca: str | None = None
    as_json: bool = False
    timeout_s: float | None = None


def wishes() -> Wishes:
    """Those of the command that runs."""
    return click.get_current_context().find_root().ensure_object(Wishes)


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value is not None and value is not False:
        setattr(ctx.find_root().ensure_object(Wishes), str(param.name), value)


def shared_options() -> list[click.Parameter]:
    """`--json`, `--url`, `--ca`, `--timeout`."""
    return [
        click.Option(["--json", "as_json"], is_flag=True, expose_value=False, callback=_remember,
                     help="Print the API's JSON."),
        click.Option(["--url"], metavar="URL", expose_value=False, callback=_remember,
                     help="The server; else $COORD_URL, the config file, http://127.0.0.1:8000."),
        click.Option(["--ca"], metavar="FILE", expose_value=False, callback=_remember,
                     help="The authority of its certificate; else $COORD_CA, the config file, the "
                          "system's."),
        click.Option(["--timeout", "timeout_s"], type=click.FloatRange(0.1), metavar="SECONDS",
                     expose_value=False, callback=_remember,
                     help="How long to keep trying (30; 5 where no server answers at all)."),
    ]


class Verb(click.Command):
    """A verb. The `takes` arguments from the first one on are taken as they are, dashes and all:
    a script's body may be `--json`. Options stand before them or after them.
    """

    def __init__(self, *args: Any, takes: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.takes = takes
        self.params.extend(shared_options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verbatim arguments behind a `--`, where click leaves them alone."""
        at = self._first_argument(args)
        verbatim = args[at:at + self.takes]
        if self.takes and len(verbatim) == self.takes and "--" not in args[:at]:
            args = [*args[:at], *args[at + self.takes:], "--", *verbatim]
        return super().parse_args(ctx, args)

    def _first_argument(self, args: Sequence[str]) -> int:
        valued = {name for param in self.params if isinstance(param, click.Option)
                  and not param.is_flag for name in param.opts}
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] != "-":
            if args[at] == "--":
                return at + 1
            at += 2 if args[at] in valued else 1
        return at


class Verbs(click.Group):
    """The command. An unknown verb is answered with the nearest one, exit code 1."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(shared_options())

    def resolve_command(self, ctx: click.Context, args: list[str]
                        ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that `args` begin with."""
        if args and self.get_command(ctx, args[0]) is None:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1, cutoff=0.5)
            advice = f"Did you mean: coord {near[0]}" if near else "All commands: coord --help"
            raise click.ClickException(f"There is no command {args[0]!r}. {advice}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """The verbs in the order a newcomer meets them."""
        return list(self.commands)


def session() -> Session:
    """The session of the command that runs, opened on its first call."""
    root = click.get_current_context().find_root()
    held: Session | None = root.meta.get("coord.session")
    if held is None:
        from coord import config
        from coord.session import Session

        wish = wishes()
        server = config.find_server(wish.url, ca=wish.ca)
        for warning in server.warnings:
            say(f"Warning: {warning}")
        deadline_s = DEADLINE_S if wish.timeout_s is None else wish.timeout_s
        unreached_s = UNREACHED_S if wish.timeout_s is None else None
        held = Session(server.url, server.token, ca=server.ca,
                       policy=Policy(deadline_s, unreached_s), notice=_notice(server.url))
        root.meta["coord.session"] = held
        root.call_on_close(held.close)
    return held


def _notice(url: str) -> Callable[[Sleep], None]:
    """Say once why it takes long: a person waits with more patience, an agent's log has it."""
    said = False

    def notice(step: Sleep) -> None:
        nonlocal said
        if not said:
            key = f" (key {step.key})" if step.key else ""
            say(f"No answer yet from {url}: {step.reason}. Trying again{key} …")
        said = True
    return notice


def ask(call: Call) -> Any:
    """The JSON that answers `call`."""
    return session().fetch(call)


def say(text: str) -> None:
    """One line beside the output: on stderr."""
    click.echo(f"coord: {one_line(text)}", err=True)


def tell(answer: Any, show: Callable[[], None]) -> None:
    """Print `answer` as JSON where that is wished, else let `show` print it for a person."""
    if not wishes().as_json:
        show()
        return
    indent = 2 if on_terminal() else None
    print(harmless_json(json.dumps(answer, ensure_ascii=False, indent=indent)))  # noqa: T201


def tell_page(page: Any, items: Sequence[Any], show: Callable[[Sequence[Any]], None], empty: str
              ) -> None:
    """Print a page; for a person say on stderr that it is empty, or how to see more messages."""
    def shown() -> None:
        if items:
            show(items)
        else:
            say(empty)
        if page.get("next_cursor") and "messages" in page:
            say(f"More: the same with --cursor {page['next_cursor']}")
    tell(page, shown)


def message_id(agent: str, text: str) -> str:
    """The id that `text` stands for: itself, or for `12` and `#12` that of the inbox's seq 12."""
    digits = re.fullmatch(r"#?([0-9]{1,15})", text)
    if digits is None:
        return text
    from coord import calls

    seq = int(digits[1])
    page = ask(calls.inbox(agent, order="oldest", after=seq - 1, limit=1)) if seq else None
    if page is None or not page["messages"] or page["messages"][0]["seq"] != seq:
        detail = f"{agent} has no message {seq}"
        raise NotFound(f"{detail}. What there is: coord inbox {agent}",
                       {"type": "/problems/not-found", "status": 404, "detail": detail})
    return str(page["messages"][0]["id"])


def body_text(text: str) -> str:
    """A message's body: `-` is what stands on stdin, to the byte."""
    if text != "-":
        return text
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise BadCall(f"The body on stdin is not UTF-8 (byte {error.start}): messages are "
                      "UTF-8 text.") from None


def expiry(text: str | None) -> str | None:
    """A time as it is; a span such as `90s`, `30m`, `2h`, `7d` as the time that far from now."""
    return _moment(text, "--expires", 1)


def ago(text: str | None, option: str) -> str | None:
    """A time as it is; a span as for `expiry`, as the time so long ago."""
    return _moment(text, option, -1)


def _moment(text: str | None, option: str, sign: int) -> str | None:
    span = re.fullmatch(r"([0-9]{1,9})([smhd])", text or "")
    if span is None:
        return text
    from datetime import UTC, datetime, timedelta

    seconds = int(span[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[span[2]]
    try:
        moment = datetime.now(UTC) + sign * timedelta(seconds=seconds)
    except OverflowError:
        edge = "past the year 9999" if sign > 0 else "before the year 1"
        raise BadCall(f"{option} {text} is {edge}; give a shorter one.") from None
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
