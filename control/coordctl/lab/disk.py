"""A machine's data disk and its package cache, folders of this computer that it sees as its own.

The data disk is a small sparse file with ext4 on a loop device: it can be full without this
computer's own disk being so, and can lose its power. Lies in the machine's folder:
    disk.img    the file
    disk/       where it is mounted
    archives/   the machine's /var/cache/apt/archives
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Final

from coordctl.errors import CoordctlError
from coordctl.lab import host

DISK_BYTES: Final = 2 * 1024**3
# Where the machine sees the data disk's folders.
FOLDERS: Final = {"coordd": "/var/lib/coordd", "postgresql": "/var/lib/postgresql",
                  "backups": "/var/backups"}
ARCHIVES: Final = "/var/cache/apt/archives"
_FILLING: Final = "filling"
_UMOUNT_LIMIT_S: Final = 10.0
_SHUTDOWN: Final = 0x8004587D  # EXT4_IOC_SHUTDOWN, linux/fs/ext4/ext4.h
_NOLOGFLUSH: Final = 2  # neither data nor the journal is written: as without power


def mount(folder: Path) -> None:
    """Mount the disk of the machine's `folder`, made if need be. Raises CoordctlError."""
    image, disk = folder / "disk.img", folder / "disk"
    if not image.exists():
        fresh = folder / "disk.img.new"
        fresh.unlink(missing_ok=True)
        with fresh.open("wb") as file:
            file.truncate(DISK_BYTES)
        # No blocks for root alone: a full disk is full for every user.
        host.run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1",
                  str(fresh)])
        fresh.rename(image)
    disk.mkdir(exist_ok=True)
    if not disk.is_mount():
        host.run(["mount", "-o", "loop", str(image), str(disk)])
    for name in FOLDERS:
        (disk / name).mkdir(exist_ok=True)


def unmount(folder: Path) -> None:
    """Unmount the disk; its loop device goes with it. Raises CoordctlError when it stays busy."""
    disk = folder / "disk"
    deadline = time.monotonic() + _UMOUNT_LIMIT_S
    while disk.is_mount():
        last = time.monotonic() > deadline
        host.run(["umount", str(disk)], check=last,
                 mend=f"fuser -vm {disk}, then the same command once more")
        time.sleep(0.05)


def lose_power(folder: Path) -> None:
    """Unmount the disk as a power loss does: what was not synced is gone."""
    disk = folder / "disk"
    if disk.is_mount():
        descriptor = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(descriptor)
    unmount(folder)


def fill(folder: Path) -> None:
    """Take every free block of the disk. This computer's own disk gets no fuller by it."""
    disk = _mounted(folder)
    step = DISK_BYTES
    with (disk / _FILLING).open("ab") as file:
        while step >= 4096:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                os.ftruncate(file.fileno(), file.seek(0, os.SEEK_END))
                step //= 2


def free(folder: Path) -> None:
    """Give back what `fill` took."""
    (_mounted(folder) / _FILLING).unlink(missing_ok=True)


def is_full(folder: Path) -> bool:
    """Whether `fill` took the disk's blocks."""
    return (folder / "disk" / _FILLING).exists()


def _mounted(folder: Path) -> Path:
    disk = folder / "disk"
    if not disk.is_mount():
        raise CoordctlError(f"the disk of {folder.name} is not mounted: the machine is off",
                            mend=f"coordctl lab fault start {folder.name}")
    return disk


# A link is there whole or not at all, and apt renames a package to its name when it is complete and
# checked: neither side sees half a package, and no lock is shared.

def collect_packages(pool: Path, folder: Path) -> None:
    """Link what the machine has downloaded into the pool of all labs."""
    _link(folder / "archives", pool)


def offer_packages(pool: Path, folder: Path) -> None:
    """Link the pool's packages into the machine's own cache: its apt need not download them."""
    _link(pool, folder / "archives")


def _link(source: Path, target: Path) -> None:
    for place in (source, target):
        place.mkdir(exist_ok=True)
    for package in source.glob("*.deb"):
        if not (target / package.name).exists():
            try:
                os.link(package, target / package.name)
            except (FileExistsError, FileNotFoundError):
                continue  # another lab did it, or the machine's apt cleaned up


def remove(folder: Path) -> None:
    """Unmount the disk and remove the machine's folder."""
    unmount(folder)
    shutil.rmtree(folder, ignore_errors=False)
