"""How each answer of the API looks to a person. Takes the API's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coord.terminal import (
    PRIORITY_STYLES,
    STATE_MARKS,
    Cell,
    Column,
    harmless,
    line,
    long_time,
    on_terminal,
    one_line,
    short_time,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

SEQ = Column("seq", right=True)
TIME = Column("time")
SUBJECT = Column("subject", rest=True)


def _name(title: str) -> Column:
    return Column(title, widest=16)


def receipts(answers: Sequence[Json]) -> None:
    """What was sent, a line each."""
    for answer in answers:
        where = ", ".join(f"{one['to_agent']} {one['seq']}" for one in answer["deliveries"])
        line(Cell("sent"), Cell(answer["id"], "bold"), Cell(f"to {where or 'no one'}"))


def _priority(message: Json) -> Cell:
    level: str = message["priority"]
    return Cell("" if level == "normal" else level, PRIORITY_STYLES.get(level, ""))


def _subject(message: Json) -> Cell:
    style = "bold" if message.get("state") == "unread" else ""
    return Cell(one_line(message["subject"]) or "(no subject)", style)


def _mark(message: Json) -> Cell:
    return Cell(STATE_MARKS.get(message["state"], "?"), "bold cyan")


def inbox(messages: Sequence[Json]) -> None:
    """An inbox, a line a message; a dot marks what is unread, a tick what is acknowledged."""
    columns = [Column(" "), SEQ, TIME, _name("from"), Column("priority"), SUBJECT]
    rows = [[_mark(one), Cell(str(one["seq"])), Cell(short_time(one["created_at"]), "dim"),
             Cell(one["from_agent"]), _priority(one), _subject(one)] for one in messages]
    table(*_without_empty(columns, rows))


def history(messages: Sequence[Json]) -> None:
    """Messages of several inboxes, a line each."""
    columns = [Column(" "), TIME, _name("from"), _name("to"), SEQ, Column("priority"), SUBJECT]
    rows = [[_mark(one), Cell(short_time(one["created_at"]), "dim"), Cell(one["from_agent"]),
             Cell(one["to_agent"]), Cell(str(one["seq"])), _priority(one), _subject(one)]
            for one in messages]
    table(*_without_empty(columns, rows))


def _without_empty(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]
                   ) -> tuple[list[Column], list[list[Cell]]]:
    """The table without the columns that have nothing in any row."""
    kept = [at for at in range(len(columns)) if any(row[at].text.strip() for row in rows)]
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]


def message(one: Json) -> None:
    """A message in full: its subject, two lines about it, an empty one, its body as it is. One
    out of the archive says so beside the state, which is that before it went.
    """
    style = PRIORITY_STYLES.get(one["priority"], "")
    line(Cell(one_line(one["subject"]) or "(no subject)", "bold"))
    line(Cell(f"{one['from_agent']} to {one['to_agent']}"),
         Cell(f"· message {one['seq']} · {one['state']}", "dim"),
         *([Cell("·", "dim"), Cell("archived", "yellow")] if one.get("archived") else []),
         *([] if one["priority"] == "normal" else [Cell("·", "dim"), Cell(one["priority"], style)]))
    line(Cell(f"{long_time(one['created_at'])} · id {one['id']}", "dim"))
    if one["thread_id"] != one["id"]:
        line(Cell(f"in thread {one['thread_id']}", "dim"))
    if one["expires_at"] is not None:
        line(Cell(f"expires {long_time(one['expires_at'])}", "dim"))
    print()  # noqa: T201
    body = harmless(one["body"]) if on_terminal() else one["body"]
    print(body, end="" if body.endswith("\n") else "\n")  # noqa: T201


def arrived(one: Json) -> None:
    """A message as `watch` tells of it: one line."""
    line(_mark(one), Cell(f"{one['seq']:>4}"), Cell(short_time(one["created_at"]), "dim"),
         Cell(f"{one['from_agent']:<12}"), _priority(one), _subject(one), cut=True)


def events(answers: Sequence[Json]) -> None:
    """The audit log, a line an event."""
    styles = {"SENT": "green", "ACKED": "cyan", "DELETED": "red", "EXPIRED": "red"}
    columns = [SEQ, TIME, Column("event"), _name("from"), _name("to"), SUBJECT]
    table(columns, [[Cell(str(one["seq"])), Cell(short_time(one["timestamp"]), "dim"),
                     Cell(one["type"], styles.get(one["type"], "")), Cell(one["from_agent"]),
                     Cell(one["to_agent"]), Cell(one_line(one["subject"]))] for one in answers])


def stats(answer: Json) -> None:
    """The counts: of the whole store, then of each agent."""
    line(Cell("messages"), Cell(f"{answer['messages']:,}", "bold"),
         Cell("· unread"), Cell(f"{answer['unread']:,}", "bold"),
         Cell("· stored"), Cell(size(answer["size_bytes"]), "bold"))
    counts = ", ".join(f"{kind} {count:,}" for kind, count in answer["events"].items())
    if counts:
        line(Cell("events"), Cell(counts))
    if answer["agents"]:
        print()  # noqa: T201
        columns = [Column("agent"), *(Column(name, right=True)
                                      for name in ("sent", "received", "unread"))]
        table(columns, [[Cell(name), *(Cell(f"{one[column.title]:,}") for column in columns[1:])]
                        for name, one in sorted(answer["agents"].items())])


def size(size_bytes: float) -> str:
    """A size in the unit that leaves at most four digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.1f} TB"


def agents(answers: Sequence[Json]) -> None:
    """The registry, a line an agent."""
    table([Column("agent"), Column("since"), Column("description", rest=True)],
          [[Cell(one["name"], "bold"), Cell(short_time(one["created_at"]), "dim"),
            Cell(one_line(one["description"]))] for one in answers])


def groups(answers: Sequence[Json]) -> None:
    """The groups, a line a group."""
    table([Column("group"), Column("members", rest=True)],
          [[Cell(f"@{one['name']}", "bold"), Cell(", ".join(one["members"]))]
           for one in answers])
