"""Reading the old tool's folder without ever leaving it.

Everything is opened relative to the folder's own descriptor and links are never followed, so that
neither a name such as `../x` nor a link swapped in while an import runs leads outside.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

from coordctl.errors import CoordctlError
from coordctl.legacy import BODY_BYTES_MAX

LINE_BYTES_MAX: Final = 1024 * 1024
FILE_BYTES_MAX: Final = BODY_BYTES_MAX + 64 * 1024

_LOG: Final = re.compile(r"events\.log(?:\.(0|[1-9]\d{0,8})(?:\.gz)?)?\Z")
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# Without O_NONBLOCK the opening of a named pipe would wait for its writer.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class Unreadable(Exception):  # noqa: N818
    """Something that lies in the folder and can't be read as what it should be: `place`, why."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason


class Line(NamedTuple):
    """A line of a log, without its newline. `torn`: there was none."""

    place: str
    data: bytes
    torn: bool


def shown(name: str) -> str:
    """A file's name as text that any file and terminal can hold."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


class OldFolder:
    """The folder that holds `inbox/` and `events.log`, open for reading."""

    def __init__(self, path: Path) -> None:
        """Raises CoordctlError where `path` is no such folder."""
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise CoordctlError(f"{path} can't be read: {error.strerror}",
                                mend="coordctl import PATH, the folder that holds inbox/"
                                ) from None
        self.path = path
        names = _names(self._root)
        if "inbox" not in names and not any(n.startswith("events.log") for n in names):
            os.close(self._root)
            raise CoordctlError(f"{path} holds neither inbox/ nor events.log",
                                mend="coordctl import PATH, the folder that holds inbox/")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def logs(self) -> Iterator[str | Unreadable]:
        """The names of the logs, oldest first; what is called like one and can't be read."""
        found: dict[int, str] = {}
        for name in _names(self._root):
            if not name.startswith("events.log"):
                continue
            match = _LOG.match(name)
            if match is None:
                yield Unreadable(shown(name), "the name of no log: events.log[.N[.gz]]")
                continue
            if reason := self._not_a_file(name):
                yield Unreadable(name, reason)
                continue
            number = int(match[1] or -1)
            if number in found:
                # Sorted: the one without .gz came first. The tool that packs logs removes it last.
                yield Unreadable(name, f"{found[number]} is there too and is read instead")
                continue
            found[number] = name
        for number in sorted(found, reverse=True):
            yield found[number]

    def _not_a_file(self, name: str) -> str:
        mode = os.stat(name, dir_fd=self._root, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            return "a symbolic link, not followed"
        return "" if stat.S_ISREG(mode) else "not a file"

    def lines(self, name: str) -> Iterator[Line | Unreadable]:
        """The lines of the log `name`, in order; where it can't be read on, why."""
        number = 0
        try:
            with _open(name, self._root) as raw:
                lines = gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw
                while data := lines.readline(LINE_BYTES_MAX):
                    number += 1
                    place = f"{name}:{number}"
                    if data.endswith(b"\n"):
                        yield Line(place, data[:-1], torn=False)
                    elif len(data) < LINE_BYTES_MAX:
                        yield Line(place, data, torn=True)
                    else:
                        while data and not data.endswith(b"\n"):
                            data = lines.readline(LINE_BYTES_MAX)
                        yield Unreadable(place, "the line is longer than 1 MiB")
        except (OSError, EOFError, zlib.error) as error:
            yield Unreadable(name, f"unreadable after line {number}: {_reason(error)}")

    def messages(self) -> Iterator[tuple[str, str] | Unreadable]:
        """(folder, file name) of all that may be messages, in no order; and what can't be one."""
        try:
            inbox = os.open("inbox", _FOLDER_FLAGS, dir_fd=self._root)
        except FileNotFoundError:
            return
        except OSError as error:
            yield Unreadable("inbox", _reason(error))
            return
        try:
            with os.scandir(inbox) as folders:
                for entry in folders:
                    yield from self._folder(inbox, entry)
        finally:
            os.close(inbox)

    def _folder(self, inbox: int, entry: os.DirEntry[str]
                ) -> Iterator[tuple[str, str] | Unreadable]:
        place = f"inbox/{shown(entry.name)}"
        if entry.is_symlink():
            yield Unreadable(place, "a symbolic link, not followed")
            return
        try:
            folder = os.open(entry.name, _FOLDER_FLAGS, dir_fd=inbox)
        except OSError as error:
            yield Unreadable(place, _reason(error))
            return
        try:
            with os.scandir(folder) as files:
                for file in files:
                    inner = f"{place}/{shown(file.name)}"
                    if file.is_symlink():
                        yield Unreadable(inner, "a symbolic link, not followed")
                    elif not file.is_file(follow_symlinks=False):
                        yield Unreadable(inner, "not a file")
                    elif not file.name.endswith(".msg"):
                        yield Unreadable(inner, "not a message: its name does not end in .msg")
                    else:
                        yield entry.name, file.name
        finally:
            os.close(folder)

    def read(self, folder: str, name: str) -> tuple[bytes, int]:
        """A message's file: its bytes and its modification time in ns. Raises Unreadable."""
        place = f"inbox/{folder}/{shown(name)}"
        descriptors: list[int] = []
        try:
            descriptors.append(os.open("inbox", _FOLDER_FLAGS, dir_fd=self._root))
            descriptors.append(os.open(folder, _FOLDER_FLAGS, dir_fd=descriptors[-1]))
            with _open(name, descriptors[-1]) as file:
                data = file.read(FILE_BYTES_MAX + 1)
                changed_ns = os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            raise Unreadable(place, _reason(error)) from None
        finally:
            for descriptor in reversed(descriptors):
                os.close(descriptor)
        if len(data) > FILE_BYTES_MAX:
            raise Unreadable(place, f"the body is larger than {BODY_BYTES_MAX // 2**20} MiB")
        return data, changed_ns


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def _open(name: str, folder: int) -> BinaryIO:
    descriptor = os.open(name, _FILE_FLAGS, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file")
    return os.fdopen(descriptor, "rb")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "a symbolic link, not followed"
    if isinstance(error, OSError) and error.errno == errno.ENOTDIR:
        return "not a folder"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
