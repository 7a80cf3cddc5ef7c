"""The port to where the work queue keeps what must outlive a process.

Everything that is awaited is durable. What is told to have failed may have been done where the
connection broke: every call may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from coordd.model import Priority
from coordd.store import Feed
from coordd.work.model import (
    DeadTask,
    Folded,
    Hook,
    HourCount,
    Link,
    NewTask,
    Task,
    TaskId,
    Totals,
)


class WorkStore(Protocol):
    """One a process. All calls but `open` raise StoreError."""

    async def open(self) -> None:
        """Connect. Raises StoreError, OSError."""

    async def close(self) -> None:
        """Let go."""

    # The feed.

    async def feed(self, after: int, limit: int) -> Feed:
        """See `Store.feed`."""

    async def last(self) -> int:
        """The newest position there is."""

    async def told_of(self, ids: Sequence[str]) -> dict[str, tuple[str, str, Priority]]:
        """Of each message that is known: from_agent, subject, priority."""

    # Hooks.

    async def hooks(self) -> list[Hook]:
        """All, in the order made."""

    async def add_hook(self, hook: Hook) -> Hook:
        """Store one; its `since` becomes the newest position there is."""

    async def remove_hook(self, hook: str) -> bool:
        """Remove one with all its tasks; whether there was one."""

    # The dispatcher.

    async def lead(self, holder: str, seconds: float) -> bool:
        """Take or keep the lease of dispatching; whether it is `holder`'s for so long."""

    async def cursor(self) -> int:
        """Up to where the feed is dispatched."""

    async def advance(self, holder: str, old: int, new: int, tasks: Sequence[NewTask]) -> bool:
        """Move the cursor and store the tasks, both or neither. False where `holder` has not the
        lease any more, or the cursor is not at `old`. A task that is there already stays.
        """

    async def ready(self) -> int:
        """Tasks that could be handed out now."""

    async def hand_out(self, limit: int, lease_s: float) -> list[TaskId]:
        """Take tasks that are due, those due first: they are queued then. Of a hook whose last
        call failed one at a time.
        """

    async def put_back(self, tasks: Sequence[TaskId], delay_s: float = 0.0) -> None:
        """What was handed out is due again, after that time."""

    async def put_back_lost(self, *, all_: bool = False) -> int:
        """What was handed out and not done in `lease_s` (with `all_`: at all) is due again."""

    # Tasks.

    async def begin(self, task: TaskId, busy_s: float) -> Task | None:
        """The task, which is nobody else's for so long then, unless it is `busy` already. None
        where it is done, dead, or its hook removed.
        """

    async def done(self, tasks: Sequence[TaskId]) -> None:
        """They have succeeded: their rows go."""

    async def failed(self, task: TaskId, error: str, *, seen: int, wait_s: float | None,
                     rest_s: float) -> None:
        """A try has failed. Again in `wait_s`, or dead where that is None. `seen`: the hook's
        failures as the try began; where none came meanwhile, the hook rests for `rest_s`.
        """

    async def dead(self, limit: int, hook: str | None = None) -> list[DeadTask]:
        """Dead tasks, the oldest first."""

    async def retry(self, hook: str | None = None, event: str | None = None) -> int:
        """Try dead tasks anew, as if for the first time; how many."""

    # The ledger.

    async def folded(self) -> Folded:
        """How far it is."""

    async def fold(self, old: int, new: Folded, links: Sequence[Link],
                   hours: Sequence[HourCount]) -> bool:
        """Add to it. False where it is not at `old`: another one has done it."""

    async def links(self, after: int, limit: int) -> list[Link]:
        """The links with a position above `after`, in order."""

    async def totals(self) -> Totals:
        """Counts for people and metrics."""
