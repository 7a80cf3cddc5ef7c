"""What one machine can tell of itself, for `coordctl status`: runs there, over SSH.

    python3 look.py '{"units": […], "coordd": URL, "patroni": URL, …}'  ─▶  a JSON object

The standard library alone, Python 3.11 and newer. All is asked side by side; what does not answer
in ANSWER_S seconds is told to be away.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ANSWER_S = 2.5
BACKUPS = Path("/var/backups/coordd")
KEPT = ("coordd_send_duration_seconds_bucket", "coordd_messages_", "coordd_cache_",
        "coordd_http_requests_total")


def fetch(url: str) -> tuple[int, str]:
    """Status and text. The machine asks itself, whoever's certificate that is. Raises OSError."""
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                         urllib.request.HTTPSHandler(context=trusting))
    try:
        with opener.open(url, timeout=ANSWER_S) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")


def said(*words: str, user: str | None = None) -> str:
    """What a command prints. Raises OSError, subprocess.SubprocessError."""
    done = subprocess.run(  # noqa: S603  constant words, no shell
        words, user=user, group=user, extra_groups=[] if user else None, check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * ANSWER_S, cwd="/")
    return done.stdout


def units(names: list[str]) -> dict[str, str]:
    """Each unit's state."""
    states = said("systemctl", "is-active", *names).split("\n") if names else []
    return dict(zip(names, states, strict=False))


def disk(_: object) -> dict[str, Any]:
    """The fullest of the disks with data, and memory, in bytes."""
    fullest = {"free": 0, "total": 0}
    for folder in ("/", "/var/lib/coordd", "/var/lib/postgresql", "/var/lib/etcd", "/var/backups",
                   "/var/lib/prometheus", "/var/lib/rabbitmq"):
        if not Path(folder).is_dir():
            continue
        found = os.statvfs(folder)
        free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        if total and (not fullest["total"] or free / total < fullest["free"] / fullest["total"]):
            fullest = {"free": free, "total": total}
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    memory = {name: int(rest.split()[0]) * 1024 for name, _, rest in
              (line.partition(":") for line in lines)}
    return fullest | {"memory_free": memory["MemAvailable"], "memory_total": memory["MemTotal"]}


def metrics(url: str) -> dict[str, float]:
    """A message server's metrics; its requests by the first digit of their status."""
    found: dict[str, float] = {}
    for line in fetch(f"{url}/metrics")[1].splitlines():
        name, _, value = line.rpartition(" ")
        if not name.startswith(KEPT) or 'route="/ready"' in name:
            continue
        if name.startswith("coordd_http_requests_total"):
            name = "requests_" + name.partition('status="')[2][:1] + "xx"
        found[name] = found.get(name, 0.0) + float(value)
    return found


def coordd(told: dict[str, Any]) -> dict[str, Any]:
    """A message server: ready or why not, and its metrics twice, `sample_s` apart."""
    status, text = fetch(f"{told['url']}/ready")
    why = "" if status == 200 else json.loads(text).get("detail", f"answers {status}")
    first, began = metrics(told["url"]), time.monotonic()
    time.sleep(told["sample_s"])
    later = metrics(told["url"])
    return {"why": why, "first": first, "later": later, "span_s": time.monotonic() - began}


def patroni(url: str) -> dict[str, Any]:
    """Patroni's own word on this machine's Postgres."""
    answer: dict[str, Any] = json.loads(fetch(f"{url}/patroni")[1])
    return answer


def prometheus(url: str) -> list[dict[str, Any]]:
    """The alerts that are pending or fire."""
    alerts: list[dict[str, Any]] = json.loads(fetch(f"{url}/api/v1/alerts")[1])["data"]["alerts"]
    return alerts


def backup(_: object) -> dict[str, Any] | None:
    """The newest good one, None for none. Only what was proved has a manifest."""
    if shutil.which("pgbackrest"):
        done = [each for stanza in json.loads(said("pgbackrest", "info", "--output=json",
                                                   user="postgres"))
                for each in stanza["backup"]]
        newest = max(done, key=lambda each: each["timestamp"]["stop"], default=None)
        return newest and {"kind": f"pgbackrest {newest['type']}",
                           "at": newest["timestamp"]["stop"],
                           "size": newest["info"]["repository"].get("delta", 0)}
    manifests = sorted(BACKUPS.glob("*.json"), key=lambda file: file.stat().st_mtime)
    if not manifests:
        return None
    data = manifests[-1].with_suffix(".jsonl.gz")
    return {"kind": "files", "at": int(manifests[-1].stat().st_mtime),
            "size": data.stat().st_size if data.exists() else 0}


PARTS: dict[str, Callable[[Any], Any]] = {
    "units": units, "disk": disk, "coordd": coordd, "patroni": patroni, "prometheus": prometheus,
    "backup": backup}


def part(name: str, told: object) -> dict[str, Any]:
    """`{"is": …}`, or `{"error": …}` where it could not be asked."""
    try:
        return {"is": PARTS[name](told)}
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
        return {"error": str(getattr(error, "reason", error)) or type(error).__name__}


def main() -> None:
    """Look at all that is asked for."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    with ThreadPoolExecutor() as pool:
        parts = pool.map(part, asked, asked.values())
        json.dump(dict(zip(asked, parts, strict=True)), sys.stdout)


if __name__ == "__main__":
    main()
