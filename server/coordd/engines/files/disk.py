"""Every call by which the files engine touches durable bytes.

A test puts its own `Disk` in, notes each call, and builds what a power loss could have left: so
nothing in the engine may write, rename or sync past this class. Reading needs no such care.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Disk:
    """The real disk. Errors are OSError, as the kernel gave them."""

    def make_folder(self, path: Path) -> None:
        """Make a folder; durable after `sync_folder` of the one above."""
        path.mkdir(mode=0o700, exist_ok=True)

    def open(self, path: Path, *, create: bool = False) -> int:
        """A descriptor to read and write; `create`: the file must not be there yet."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return os.open(path, flags, 0o600)

    def close(self, fd: int) -> None:
        """Give the descriptor back."""
        os.close(fd)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`; after an error any part of it may be there."""
        done = os.pwrite(fd, data, offset)
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)

    def datasync(self, fd: int) -> None:
        """Make the file's bytes and size durable. An error here is final: the kernel may have
        dropped the dirty pages, and a second call would answer without having them.
        """
        os.fdatasync(fd)

    def write_synced(self, fd: int, data: bytes, offset: int) -> None:
        """`write` and `datasync` in one call of the kernel: the writer's thread needs not wait in
        between until Python lets it go on, which costs a third of the throughput under load.
        """
        done = os.pwritev(fd, [data], offset, os.RWF_DSYNC)
        while done < len(data):
            done += os.pwritev(fd, [data[done:]], offset + done, os.RWF_DSYNC)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes; durable after `datasync`."""
        os.ftruncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        """Put `source` in the place of `target` at once; durable after `sync_folder`."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a file; durable after `sync_folder`."""
        path.unlink()

    def sync_folder(self, path: Path) -> None:
        """Make the folder's names durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def ensure_folder(disk: Disk, path: Path) -> None:
    """Make a folder, and those above it, where there is none, durably."""
    if not path.is_dir():
        ensure_folder(disk, path.parent)
        disk.make_folder(path)
    # Also where it is there already: whoever made it may have been killed before the sync. Whose
    # folder is given to this server by somebody else need not have the right to read above it.
    with suppress(PermissionError):
        disk.sync_folder(path.parent)
