"""rotate.py: sends messages without a pause while logrotate's own unit rotates the events log.

Ends with 1 and a line if an event is missing or doubled in the logs, before or after a restart.
"""

import gzip
import json
import re
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

SERVER = "http://127.0.0.1:8000"
LOG = Path("/var/lib/coordd/events.log")
STATE = Path("/var/lib/logrotate/status")
ROTATIONS = 3
sent = []
failed = []
over = threading.Event()


def expect(found, wanted, what):
    if found != wanted:
        sys.exit(f"{what}: {found!r}, wanted {wanted!r}")


def send_one():
    body = json.dumps({"from_agent": "ann", "to_agent": "ben", "subject": "s", "body": "b"})
    request = urllib.request.Request(f"{SERVER}/api/v1/messages", body.encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        sent.append(json.load(answer)["id"])


def send():
    try:
        while not over.is_set():
            send_one()
    except (OSError, ValueError) as error:
        failed.append(repr(error))


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expect(done.returncode, 0, f"{' '.join(command)}: {done.stdout}{done.stderr}")


def logs():
    return sorted(LOG.parent.glob("events.log*"))


def logged():
    """Ids of all SENT lines, with their number."""
    ids = Counter()
    for path in logs():
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt") as file:
            for line in file:
                fields = line.split("|")
                if fields[1] == "SENT":
                    ids[fields[2]] += 1
    return ids


def wait_for(condition, what, limit_s=20):
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {limit_s} s; {[p.name for p in logs()]}")
        time.sleep(0.02)


def start_logrotate():
    run("systemctl", "reset-failed", "logrotate.service")  # it counts starts, five are the limit
    run("systemctl", "start", "logrotate.service")


def rotate():
    """As on the next day: the last rotation was long ago, and the timer's unit runs."""
    start_logrotate()  # makes an entry where there is none
    text, times = re.subn(rf'(?m)^("{LOG}") .*$', r"\1 2020-1-1-0:0:0", STATE.read_text())
    expect(times, 1, "entries of the log in logrotate's state")
    STATE.write_text(text)
    before = len(logs())
    start_logrotate()
    expect(len(logs()), before + 1, "logs after a rotation")


def rotate_while_sending():
    for _ in range(ROTATIONS):
        enough = len(sent) + 20
        wait_for(lambda enough=enough: len(sent) > enough or failed, "messages before a rotation")
        rotate()
        wait_for(lambda: LOG.stat().st_size > 0, "lines in the new log")


present = logged()
senders = [threading.Thread(target=send, daemon=True) for _ in range(3)]
for sender in senders:
    sender.start()
try:
    rotate_while_sending()
finally:
    over.set()
for sender in senders:
    sender.join(20)
expect(failed, [], "failed sends")

wait_for(lambda: sum(logged().values()) >= len(sent) + sum(present.values()), "all events")
expect(logged() - present, Counter(sent), f"events of {len(sent)} messages")
names = {path.name for path in logs()}
for name in ("events.log", "events.log.1", "events.log.2.gz", "events.log.3.gz"):
    expect(name in names, True, f"{name} among {sorted(names)}")
for path in logs():
    expect(path.owner(), "coordd", f"the owner of {path.name}")
    expect(stat.S_IMODE(path.stat().st_mode) & 0o027, 0, f"others' rights to {path.name}")

run("systemctl", "restart", "coordd.service")
send_one()
wait_for(lambda: sent[-1] in logged(), "an event after a restart")
expect(logged() - present, Counter(sent), "events after a restart")
print(f"{len(sent)} messages sent during {ROTATIONS} rotations, each logged once")
