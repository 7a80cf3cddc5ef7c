"""A disk that notes every call, and what a power loss after any of them could have left.

What a real disk may do with what was not synced yet, and so what is built here:

- a write is there, is not, or in part: cut at any byte, or any subset of its 512-byte sectors,
  while a later one is there; sectors that are not hold what was there before, or zeros;
- the file's size has grown, with or without the bytes;
- a truncation has happened or not;
- a name that was made, renamed or removed stands as before or as after, until its folder is
  synced; syncing a file does not sync its name, nor the other way round;
- a sync that failed leaves its writes in doubt for good: the kernel calls them clean, so the next
  sync says yes without having written them. Only writing them again helps.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from coordd.engines.files.disk import Disk
from faults.losses import LOSSES, apply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from random import Random

CallName = Literal[
    "make_folder", "create", "write", "write_synced", "datasync", "datasync_failed", "truncate",
    "rename", "unlink", "sync_folder",
]


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `file` is the file's number: a name may change, a file stays the same.

    `write_synced` follows its `write`, and speaks of that one only.
    """

    name: CallName
    path: Path
    file: int = 0
    data: bytes = b""
    offset: int = 0
    target: Path | None = None
    full: bool = False
    """Whether the disk had been told to run out of room."""


class RecordingDisk(Disk):
    """The real disk, with a trace of its calls.

    `pretend`: calls that it answers for are done, but a power loss does not know of them: a disk
    that lies, or an engine that forgot the call.
    """

    def __init__(self, pretend: Callable[[Call], bool] = lambda _: False) -> None:
        self.trace: list[Call] = []
        self._pretend = pretend
        self._lock = threading.RLock()
        self._names: dict[Path, int] = {}
        self._files: dict[int, tuple[int, Path]] = {}
        self._made = 0
        self._room: int | None = None
        self._syncs_left: int | None = None

    @property
    def now(self) -> int:
        """How many calls were made."""
        return len(self.trace)

    def fill(self, room: int) -> None:
        """Have room for `room` bytes more; the write after that fails with ENOSPC, half done."""
        self._room = room

    def free(self) -> None:
        """Have room again."""
        self._room = None

    def fail_sync(self, after: int) -> None:
        """Let the datasync after the next `after` ones fail with EIO."""
        self._syncs_left = after

    def _note(self, call: Call) -> None:
        if self._room is not None:
            call = replace(call, full=True)
        if not self._pretend(call):
            self.trace.append(call)

    def make_folder(self, path: Path) -> None:
        with self._lock:
            super().make_folder(path)
            self._note(Call("make_folder", path))

    def open(self, path: Path, *, create: bool = False) -> int:
        with self._lock:
            fd = super().open(path, create=create)
            if create:
                self._made += 1
                self._names[path] = self._made
                self._note(Call("create", path, self._made))
            elif path not in self._names:
                raise AssertionError(f"{path} was made past the disk")
            self._files[fd] = self._names[path], path
            return fd

    def write(self, fd: int, data: bytes, offset: int) -> None:
        with self._lock:
            file, path = self._files[fd]
            room, whole = self._room, len(data)
            if room is not None:
                data, self._room = data[:room], max(room - whole, 0)
            super().write(fd, data, offset)
            self._note(Call("write", path, file, bytes(data), offset))
            if len(data) < whole:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def datasync(self, fd: int) -> None:
        with self._lock:
            self._fail_sync(fd)
            super().datasync(fd)
            file, path = self._files[fd]
            self._note(Call("datasync", path, file))

    def write_synced(self, fd: int, data: bytes, offset: int) -> None:
        with self._lock:
            self.write(fd, data, offset)
            self._fail_sync(fd)
            super().write_synced(fd, data, offset)
            file, path = self._files[fd]
            self._note(Call("write_synced", path, file))

    def _fail_sync(self, fd: int) -> None:
        if self._syncs_left is None:
            return
        self._syncs_left -= 1
        if self._syncs_left < 0:
            self._syncs_left = None
            file, path = self._files[fd]
            self._note(Call("datasync_failed", path, file))
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def truncate(self, fd: int, size: int) -> None:
        with self._lock:
            super().truncate(fd, size)
            file, path = self._files[fd]
            self._note(Call("truncate", path, file, offset=size))

    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            super().rename(source, target)
            file = self._names[target] = self._names.pop(source)
            self._files = {
                fd: (number, target if number == file else path)
                for fd, (number, path) in self._files.items()
            }
            self._note(Call("rename", source, file, target=target))

    def unlink(self, path: Path) -> None:
        with self._lock:
            super().unlink(path)
            self._note(Call("unlink", path, self._names.pop(path)))

    def sync_folder(self, path: Path) -> None:
        with self._lock:
            super().sync_folder(path)
            self._note(Call("sync_folder", path))

    def begin_with(self, state: CrashState, root: Path, new_root: Path) -> None:
        """Begin with a state, durably on the disk, under a new root."""
        state.build(root, new_root)
        for folder in sorted(state.folders - {root}):
            self.trace.append(Call("make_folder", _moved(folder, root, new_root)))
        for number, (old, data) in enumerate(state.files.items(), 1):
            path = _moved(old, root, new_root)
            self._names[path] = number
            self.trace += [Call("create", path, number), Call("write", path, number, data),
                           Call("datasync", path, number)]
        self.trace += [Call("sync_folder", _moved(f, root, new_root)) for f in state.folders]
        self._made = len(state.files)

    def go_on(self, trace: list[Call], root: Path, new_root: Path) -> None:
        """Begin with all that another disk's trace has done, synced or not, under a new root."""
        platter = Platter(root)
        for call in trace:
            platter.do(call)
            target = _moved(call.target, root, new_root) if call.target else None
            moved = replace(call, path=_moved(call.path, root, new_root), target=target)
            self.trace.append(moved)
            self._made = max(self._made, call.file)
            if call.name in ("create", "rename", "unlink"):
                _rename(self._names, moved)
        platter.now().build(root, new_root)


@dataclass(slots=True)
class _Step:
    """A write or a truncation that may not have reached the disk. `certain`: it has, but one
    before it may not have; `clean`: a sync failed on it, so that no later one writes it."""

    call: Call
    certain: bool = False
    clean: bool = False


@dataclass(slots=True)
class _File:
    durable: bytes = b""
    steps: list[_Step] = field(default_factory=list)

    def sync(self, steps: list[_Step]) -> None:
        """These have reached the disk, but for those that the kernel does not write any more."""
        for step in steps:
            step.certain = step.certain or not step.clean
        data = bytearray(self.durable)
        while self.steps and self.steps[0].certain:
            apply(data, self.steps.pop(0).call)
        self.durable = bytes(data)


@dataclass(frozen=True)
class CrashState:
    """What the machine finds when the power is back."""

    files: dict[Path, bytes]
    folders: set[Path]

    def build(self, old_root: Path, new_root: Path) -> None:
        """Make it, under another root."""
        for folder in sorted(self.folders):
            (new_root / folder.relative_to(old_root)).mkdir(parents=True, exist_ok=True)
        for path, data in self.files.items():
            (new_root / path.relative_to(old_root)).write_bytes(data)


class Platter:
    """The state of the disk as the calls of a trace go by. `root` is there and stays there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[int, _File] = defaultdict(_File)
        self._names: dict[Path, int] = {}
        """Durable names; 0 for a folder."""
        self._pending: list[Call] = []

    def do(self, call: Call) -> None:
        file = self._files[call.file]
        if call.name in ("write", "truncate"):
            file.steps.append(_Step(call))
        elif call.name == "datasync":
            file.sync(file.steps)
        elif call.name == "write_synced":
            file.sync(file.steps[-1:])
        elif call.name == "datasync_failed":
            for step in file.steps:
                step.clean = not step.certain
        elif call.name == "sync_folder":
            for pending in self._pending:
                if pending.path.parent == call.path:
                    _rename(self._names, pending)
            self._pending = [p for p in self._pending if p.path.parent != call.path]
        else:
            self._pending.append(call)

    def now(self) -> CrashState:
        """What a process sees while there is power."""
        return self._state(lambda _: True, apply)

    def after_power_loss(self, random: Random, samples: int) -> Iterator[CrashState]:
        """What may be left: nothing of what is in doubt, all of it, and `samples` mixtures."""
        yield self._state(lambda _: False, lambda data, call: None)
        yield self.now()
        if not self._pending and not any(file.steps for file in self._files.values()):
            return
        for _ in range(samples):
            yield self._mixture(random)

    def _mixture(self, random: Random) -> CrashState:
        named = random.choice(["none", "all", "first", "some"])
        first = random.randrange(len(self._pending) + 1)

        def keep_name(number: int) -> bool:
            return {"none": False, "all": True, "first": number < first,
                    "some": random.random() < 0.5}[named]

        loss = random.choice(LOSSES)
        last = random.random()

        def keep_step(data: bytearray, call: Call) -> None:
            loss(data, call, random, last)

        return self._state(keep_name, keep_step)

    def _state(self, keep_name: Callable[[int], bool],
               keep_step: Callable[[bytearray, Call], None]) -> CrashState:
        names = dict(self._names)
        for number, call in enumerate(self._pending):
            if keep_name(number):
                _rename(names, call)
        folders = {self._root}
        for path in sorted(path for path, file in names.items() if file == 0):
            if path.parent in folders:
                folders.add(path)
        files = {
            path: self._content(self._files[number], keep_step)
            for path, number in names.items()
            if number and path.parent in folders
        }
        return CrashState(files, folders)

    def _content(self, file: _File, keep_step: Callable[[bytearray, Call], None]) -> bytes:
        data = bytearray(file.durable)
        for step in file.steps:
            if step.certain:
                apply(data, step.call)
            else:
                keep_step(data, step.call)
        return bytes(data)


def _moved(path: Path, root: Path, new_root: Path) -> Path:
    return new_root / path.relative_to(root) if path.is_relative_to(root) else path


def _rename(names: dict[Path, int], call: Call) -> None:
    if call.name == "make_folder":
        names[call.path] = 0
    elif call.name == "create":
        names[call.path] = call.file
    elif call.name == "unlink":
        if names.get(call.path) == call.file:
            del names[call.path]
    else:
        assert call.target is not None
        if names.get(call.path) == call.file:
            del names[call.path]
        names[call.target] = call.file
