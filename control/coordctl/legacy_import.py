"""Sending an old tree to the server: surveyed first, then page by page, as often as need be."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from coordctl.api import Api, Refused, Unreachable
from coordctl.durable import sync_folder
from coordctl.errors import CoordctlError
from coordctl.legacy_tree import Change, Item, Reject, Repeat

PAGE_CHANGES: Final = 1000
PAGE_BYTES: Final = 4 * 1024 * 1024

AGAIN: Final = "the same command again: it skips what the server has"

_at_change = re.compile(r"changes\[(\d+)\]")


class RejectsFile:
    """The rejects of a run as JSON lines `{place, reason, imported}`.

    Written beside its name and renamed when complete; without a reject there is no file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.count = 0
        self.lost = 0
        """Those whose message is not imported."""
        self._beside = file.with_name(f".{file.name}.tmp")

    def __enter__(self) -> Self:
        try:
            self._out = self._beside.open("w", encoding="utf-8")
        except OSError as error:
            raise CoordctlError(f"the rejects file can't be written here: {self.file.parent}: "
                                f"{error.strerror}", mend="cd to a folder that you may write in"
                                ) from None
        return self

    def add(self, reject: Reject) -> None:
        """Write one."""
        self.count += 1
        self.lost += not reject.imported
        self._out.write(json.dumps(reject._asdict(), ensure_ascii=False) + "\n")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._out as out:
            out.flush()
            os.fsync(out.fileno())
        if kind is not None or not self.count:
            self._beside.unlink()
        else:
            self._beside.replace(self.file)
            sync_folder(self.file.parent)


@dataclass
class Survey:
    """What an import will do: changes by kind, and lines that repeat an earlier one."""

    kinds: Counter[str] = field(default_factory=Counter)
    repeats: int = 0

    @property
    def changes(self) -> int:
        """How many changes will be sent."""
        return self.kinds.total()


def survey(items: Iterable[Item], rejects: RejectsFile, step: Callable[[], None]) -> Survey:
    """Count what the tree holds; `step` is called for each item."""
    found = Survey()
    for item in items:
        step()
        if isinstance(item, Change):
            found.kinds[item.kind] += 1
        elif isinstance(item, Repeat):
            found.repeats += 1
        else:
            rejects.add(item)
    return found


def _pages(items: Iterable[Item], rejects: RejectsFile) -> Iterator[list[Change]]:
    page: list[Change] = []
    size_bytes = 0
    for item in items:
        if isinstance(item, Reject):
            rejects.add(item)
        elif isinstance(item, Change):
            if page and (len(page) == PAGE_CHANGES or size_bytes + len(item.data) > PAGE_BYTES):
                yield page
                page, size_bytes = [], 0
            page.append(item)
            size_bytes += len(item.data) + 1
    if page:
        yield page


def send(items: Iterable[Item], api: Api, rejects: RejectsFile, step: Callable[[int], None]
         ) -> tuple[int, int]:
    """Send all changes; (applied, skipped). `step(n)` is called when n more are durable.

    What the server refuses becomes a reject. Raises CoordctlError where the server can't go on:
    the pages before are durable, and a second run goes on after them.
    """
    applied = skipped = 0
    for page in _pages(items, rejects):
        left = list(page)
        while left:
            try:
                new, known = api.import_(b"[" + b",".join(c.data for c in left) + b"]")
            except Refused as refused:
                found = _at_change.match(refused.errors[0]["where"]) if refused.errors else None
                if refused.status != 422 or found is None or int(found[1]) >= len(left):
                    refused.mend = AGAIN
                    raise
                change = left.pop(int(found[1]))
                rejects.add(Reject(change.place, f"refused: {refused.errors[0]['problem']}"))
                continue
            except Unreachable as error:
                error.mend = AGAIN
                raise
            applied += new
            skipped += known
            break
        step(len(page))
    return applied, skipped
