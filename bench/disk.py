"""The disk's own limits: what an append with fdatasync costs without any server."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

from bench.workloads import message

MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on: the longest mount point above it."""
    best, found = "", "unknown"
    with Path("/proc/mounts").open(encoding="utf-8") as mounts:
        for line in mounts:
            _, point, kind, *_ = line.split()
            inside = f"{folder.resolve()}/".startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, found = point, kind
    return found


def appends_per_s(folder: Path, group: int, seconds: float) -> float:
    """Messages a second that a bare loop appends to a file, one fdatasync for each `group`.

    The bytes are those of a stored message: its JSON with id, times and state, about 500.
    """
    rng = random.Random(0)
    stored = {"id": "0199b0a0-0000-7000-8000-000000000000", "seq": 123456, "priority": "normal",
              "thread_id": "0199b0a0-0000-7000-8000-000000000000", "in_reply_to": None,
              "created_at": "2026-01-01T00:00:00.000000Z", "expires_at": None}
    records = [b"".join(json.dumps(stored | message(rng)).encode() + b"\n" for _ in range(group))
               for _ in range(64)]
    path = folder / "appends"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
    try:
        began = time.perf_counter()
        rounds = 0
        while (elapsed := time.perf_counter() - began) < seconds:
            os.write(descriptor, records[rounds % 64])
            os.fdatasync(descriptor)
            rounds += 1
        return rounds * group / elapsed
    finally:
        os.close(descriptor)
        path.unlink()


def read_all_s(folder: Path) -> float:
    """Seconds to read every file of `folder` once: the least that a full recovery costs."""
    began = time.perf_counter()
    buffer = bytearray(1 << 20)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    return time.perf_counter() - began
