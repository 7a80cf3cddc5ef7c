"""facts.py FILE: how this machine's certificates, backups and units are, once a minute.

Writes FILE as Prometheus text, which the machine's exporter shows with its own:

coordctl_certificate_expires_timestamp_seconds{file}  of every certificate that a role wrote
coordctl_backup_newest_timestamp_seconds{kind}        of the newest good backup; 0: there is none
coordctl_unit_failed{unit}                            1, for units that have failed
coordctl_facts_timestamp_seconds                      when all of that was looked at
"""

from __future__ import annotations

import calendar
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

INTERVAL_S = 60.0
LIMIT_S = 20.0
CERTIFICATES = ("nginx/*.pem", "redis/*.pem", "etcd/**/*", "patroni/**/*", "pgbouncer/**/*",
                "haproxy/**/*", "pgbackrest/*.pem", "rabbitmq/**/*", "prometheus/*.pem",
                "coordctl*/*.pem")
BACKUPS = Path("/var/backups/coordd")
Sample = tuple[str, dict[str, str], float]


def said(*words: str, user: str | None = None) -> str:
    """What a command prints. Raises OSError, subprocess.SubprocessError."""
    return subprocess.run(words, user=user, group=user, extra_groups=[] if user else None,
                          check=True, capture_output=True, text=True, timeout=LIMIT_S,
                          stdin=subprocess.DEVNULL, cwd="/").stdout


def certificates() -> Iterator[Sample]:
    """When each expires."""
    for pattern in CERTIFICATES:
        for file in sorted(Path("/etc").glob(pattern)):
            if not file.is_file() or b"BEGIN CERTIFICATE" not in file.read_bytes():
                continue
            end = said("openssl", "x509", "-noout", "-enddate", "-in", str(file)).strip()
            at = time.strptime(end.partition("=")[2], "%b %d %H:%M:%S %Y GMT")
            yield ("coordctl_certificate_expires_timestamp_seconds", {"file": str(file)},
                   calendar.timegm(at))


def backups() -> Iterator[Sample]:
    """When the newest one was done, where this machine makes any."""
    name = "coordctl_backup_newest_timestamp_seconds"
    if BACKUPS.is_dir():
        # Only what was proved by a restore has a manifest.
        yield name, {"kind": "files"}, max(
            (file.stat().st_mtime for file in BACKUPS.glob("*.json")), default=0)
    if shutil.which("pgbackrest"):
        for stanza in json.loads(said("pgbackrest", "info", "--output=json",
                                      "--log-level-file=off", user="postgres")):
            yield name, {"kind": "pgbackrest", "stanza": stanza["name"]}, max(
                (backup["timestamp"]["stop"] for backup in stanza["backup"]), default=0)


def units() -> Iterator[Sample]:
    """Those that have failed."""
    for line in said("systemctl", "list-units", "--failed", "--plain", "--no-legend",
                     "--no-pager").splitlines():
        yield "coordctl_unit_failed", {"unit": line.split()[0]}, 1


def escaped(text: str) -> str:
    """A label's value."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def text(samples: list[Sample]) -> str:
    """The samples as Prometheus reads them: those of one name beside each other."""
    lines = []
    for name in dict.fromkeys(name for name, _, _ in samples):
        lines.append(f"# TYPE {name} gauge")
        for other, labels, value in samples:
            if other == name:
                shown = ",".join(f'{key}="{escaped(label)}"' for key, label in labels.items())
                lines.append(f"{name}{{{shown}}} {value:.0f}")
    return "\n".join(lines) + "\n"


def look(file: Path) -> None:
    """Look at all of it once. What can't be looked at leaves the file's old time as it is."""
    samples: list[Sample] = []
    whole = True
    for part in (certificates, backups, units):
        try:
            samples += part()
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            print(f"{part.__name__}: {error}", flush=True)
            whole = False
    stamp = file.with_suffix(".time")
    if whole:
        stamp.write_text(f"{time.time():.0f}", encoding="ascii")
    looked = float(stamp.read_text(encoding="ascii")) if stamp.exists() else 0
    samples.append(("coordctl_facts_timestamp_seconds", {}, looked))
    beside = file.with_suffix(".new")
    beside.write_text(text(samples), encoding="utf-8")
    beside.chmod(0o644)
    beside.replace(file)


def main(file: Path) -> None:
    """Look over and over."""
    while True:
        look(file)
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
