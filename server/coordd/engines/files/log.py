"""The log: segments of frames on disk. One writer; bytes here are the only truth of the engine.

A place in the log is one number: the segment's `base` plus the offset in its file. Bases never
change, so compaction, which makes a segment's file shorter, moves places only within a segment.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from coordd.engines.files.disk import Disk, ensure_folder
from coordd.engines.files.frame import crc32c_extend
from coordd.store import StoreDamagedError, StoreFullError

SUFFIX: Final = ".log"
TEMPORARY: Final = ".new"
_HEADER: Final = b"coordd log 1, from position %d\n"
STEP_BYTES: Final = 256 << 10
"""What is written at once to files beside the active segment: a file system in ordered mode makes a
sync of the log wait for all new bytes of other files."""
_SMALL_BYTES: Final = 64 << 10
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(slots=True)
class Segment:
    """One file of the log. `crc` is that of its first `size` bytes.

    `size` and `crc` belong to the writer's thread, which is ahead of the index while a commit is on
    its way; what the index knows of the segment are `shown_size` bytes.
    """

    path: Path
    fd: int
    first_position: int
    base: int
    size: int
    crc: int
    reserved: int = 0
    """Up to where the file holds zeros behind `size`."""
    shown_size: int = 0
    shown_crc: int = 0
    dead_bytes: int = 0
    """Bytes of messages that are deleted or expired, and not given back yet."""

    @property
    def header_bytes(self) -> int:
        """The length of the file's first line."""
        return len(_HEADER % self.first_position)


class Written(NamedTuple):
    """What an append did: the segment, the place where the data begins, and the segment's size
    and checksum with it.
    """

    segment: Segment
    place: int
    size: int
    crc: int


class Log:
    """The segments of one store's folder, oldest first; the last one is written to."""

    def __init__(self, folder: Path, disk: Disk, segment_bytes: int) -> None:
        self.folder = folder
        self.disk = disk
        self.segment_bytes = segment_bytes
        self.segments: list[Segment] = []
        self._bases: list[int] = []

    @property
    def active(self) -> Segment:
        """The segment that is written to."""
        return self.segments[-1]

    @property
    def size_bytes(self) -> int:
        """All segments' bytes on disk."""
        return sum(segment.size for segment in self.segments)

    def open(self) -> None:
        """Open what the folder holds, sizes as they are on disk; nothing is judged yet but the
        first lines. Raises StoreDamagedError.
        """
        ensure_folder(self.disk, self.folder)
        for path in sorted(self.folder.iterdir()):
            if path.name.endswith(TEMPORARY):
                self.disk.unlink(path)
            elif path.name.endswith(SUFFIX) and path.stem.isdecimal():
                self._open_segment(path)
        if self.segments:
            # A server that was killed may not have come to it.
            self.disk.sync_folder(self.folder)
        else:
            self._create(1)

    def _open_segment(self, path: Path) -> None:
        try:
            fd = self.disk.open(path)
        except OSError as error:
            raise StoreDamagedError(
                f"segment {path} can't be read: {error.strerror}; mend its rights or restore the "
                "data folder from a backup") from error
        first = int(path.stem)
        last = self.segments[-1] if self.segments else None
        base = last.base + last.size if last else 0
        self._add(Segment(path, fd, first, base, os.fstat(fd).st_size, 0))
        header = _HEADER % first
        if os.pread(fd, len(header), 0) != header:
            raise StoreDamagedError(
                f"segment {path} is damaged at offset 0: it does not begin with {header!r}; "
                "restore the data folder from a backup")

    def _add(self, segment: Segment) -> None:
        self.segments.append(segment)
        self._bases.append(segment.base)

    def _create(self, first_position: int) -> Segment:
        """Write a new segment so that it is whole or not there, and make it the active one."""
        path = self.folder / f"{first_position:020d}{SUFFIX}"
        header = _HEADER % first_position
        fd = self._write_file(path, header)
        base = self.active.base + self.active.size if self.segments else 0
        segment = Segment(path, fd, first_position, base, len(header), crc32c_extend(0, header))
        self._add(segment)
        return segment

    def _write_file(self, path: Path, data: bytes) -> int:
        """Put a whole file in place; its descriptor. Raises StoreFullError, OSError."""
        temporary = path.with_suffix(TEMPORARY)
        if temporary.exists():
            self.disk.unlink(temporary)
        fd = self.disk.open(temporary, create=True)
        try:
            for offset in range(0, len(data), STEP_BYTES):
                self.disk.write_synced(fd, data[offset : offset + STEP_BYTES], offset)
            self.disk.rename(temporary, path)
            self.disk.sync_folder(self.folder)
        except OSError as error:
            self.disk.close(fd)
            if error.errno in _NO_ROOM:
                temporary.unlink(missing_ok=True)
                raise StoreFullError(f"no room for {path.name} in {self.folder}") from error
            raise
        return fd

    def append(self, data: bytes, position: int) -> Written:
        """Write frames that begin at `position` behind the last ones and make them durable.

        Raises StoreFullError, after which the log is durably as it was; OSError is final: what
        is on disk is not known any more.
        """
        segment = self.active
        try:
            if (segment.size + len(data) > self.segment_bytes
                    and segment.size > segment.header_bytes):
                self.trim()
                segment = self._create(position)
            self._reserve(segment, len(data))
            self.disk.write_synced(segment.fd, data, segment.size)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            # Not only cut but synced: a crash must not bring back what is refused here.
            segment.reserved = segment.size
            self.disk.truncate(segment.fd, segment.size)
            self.disk.datasync(segment.fd)
            raise StoreFullError(f"no room on the disk of {self.folder}") from error
        segment.crc = crc32c_extend(segment.crc, data)
        segment.size += len(data)
        return Written(segment, segment.base + segment.size - len(data), segment.size, segment.crc)

    def _reserve(self, segment: Segment, size: int) -> None:
        """Have zeros where a small write goes: a sync that changes neither the file's size nor its
        blocks takes half the time. Large writes do not gain by it.
        """
        if size > _SMALL_BYTES or segment.size + size <= segment.reserved:
            return
        start = max(segment.reserved, segment.size)
        try:
            self.disk.write_synced(segment.fd, bytes(STEP_BYTES), start)
            segment.reserved = start + STEP_BYTES
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            # There may be room for the message itself.
            segment.reserved = segment.size
            self.disk.truncate(segment.fd, segment.size)
            self.disk.datasync(segment.fd)

    def trim(self) -> None:
        """Cut the zeros behind the active segment's last frame off, durably: in a closed segment
        they would be damage.
        """
        segment = self.active
        if segment.reserved > segment.size:
            self.disk.truncate(segment.fd, segment.size)
            self.disk.datasync(segment.fd)
            segment.reserved = segment.size

    def read(self, place: int, size: int) -> bytes:
        """`size` bytes at `place`."""
        segment = self.segments[bisect_right(self._bases, place) - 1]
        return os.pread(segment.fd, size, place - segment.base)

    def segment_at(self, place: int) -> Segment:
        """The segment that holds `place`."""
        return self.segments[bisect_right(self._bases, place) - 1]

    def load(self, segment: Segment) -> bytes:
        """A segment's bytes, all of them. Raises StoreDamagedError."""
        try:
            data = os.pread(segment.fd, segment.size, 0)
        except OSError as error:
            raise StoreDamagedError(
                f"segment {segment.path} can't be read: {error.strerror}; restore the data folder "
                "from a backup") from error
        if len(data) < segment.size:
            raise StoreDamagedError(f"segment {segment.path} ends at {len(data)}, "
                                    f"not at {segment.size}")
        return data

    def crc_of(self, segment: Segment, size: int) -> int:
        """The CRC32C of a segment's first `size` bytes, read in pieces that stay in the cache."""
        crc = offset = 0
        while offset < size:
            piece = os.pread(segment.fd, min(STEP_BYTES, size - offset), offset)
            if not piece:
                break
            crc = crc32c_extend(crc, piece)
            offset += len(piece)
        return crc

    def rebase(self, count: int) -> None:
        """Take the bases that the first `count` segments were given; the others' follow."""
        for before, segment in zip(self.segments[count - 1 :], self.segments[count:], strict=False):
            segment.base = before.base + before.size
        self._bases = [segment.base for segment in self.segments]

    def cut(self, segment: Segment, size: int) -> None:
        """Cut a torn tail off, durably."""
        self.disk.truncate(segment.fd, size)
        self.disk.datasync(segment.fd)
        segment.size = size

    def replace(self, segment: Segment, data: bytes) -> int:
        """Put a compacted file in a segment's place, on disk; its descriptor. The segment itself
        is as before until `adopt`. Raises StoreFullError, OSError.
        """
        return self._write_file(segment.path, data)

    def adopt(self, segment: Segment, fd: int, data: bytes) -> None:
        """Read a segment from its compacted file from now on."""
        self.disk.close(segment.fd)
        segment.fd = fd
        segment.size = len(data)
        segment.crc = crc32c_extend(0, data)
        segment.shown_size, segment.shown_crc = segment.size, segment.crc

    def close(self) -> None:
        """Let the files go."""
        for segment in self.segments:
            self.disk.close(segment.fd)
        self.segments = []
        self._bases = []
