"""talk.py WHAT ADDRESS,ADDRESS …: a client of the database, on a machine that may log in.

leader           prints the name of the member that leads
doors            who may come in, and who is refused
follows NAME     waits until another member than NAME leads
write            writes rows one by one until /root/stop is there, whatever happens meanwhile;
                 prints the longest time between two commits, and fails where it is too long
kept             every row that was acknowledged is in every member
whole            waits until all members are there, one leads, and a commit waits for another one
waits            a commit waits for a standby that does not answer, but not for ever
password OLD     the database takes $PASSWORD and no longer OLD

The owner's password is in $PASSWORD. Ends with 1 and a line where something is not as promised.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psycopg2

WHAT, MEMBERS, *WORDS = sys.argv[1:]
ADDRESSES = MEMBERS.split(",")
PASSWORD = os.environ["PASSWORD"]
ACKNOWLEDGED, STOP = Path("/root/acknowledged"), Path("/root/stop")
LIMIT_S = 60.0
SETTLED_S = 90.0
WRITING_S = 280.0


def connect(**fields: Any) -> Any:
    """To the leader, unless `host` says another one."""
    given = {"host": MEMBERS, "dbname": "coordd", "user": "coordd", "password": PASSWORD,
             "sslmode": "verify-full", "sslrootcert": "/root/ca.pem", "connect_timeout": 2,
             "tcp_user_timeout": 2000, "target_session_attrs": "read-write", **fields}
    link = psycopg2.connect(**given)
    link.autocommit = True
    return link


def ask(link: Any, text: str, *values: Any) -> Any:
    with link.cursor() as cursor:
        cursor.execute(text, values)
        return cursor.fetchall() if cursor.description else None


def rest(address: str, path: str, method: str = "GET", *, shown: bool = False,
         user: str = "") -> tuple[int, str]:
    tls = ssl.create_default_context(cafile="/root/ca.pem")
    if shown:
        tls.load_cert_chain("/etc/etcd/coordctl.pem")
    request = urllib.request.Request(f"https://{address}:8008{path}", method=method)
    if user:
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=3, context=tls) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def cluster() -> list[dict[str, Any]]:
    for address in ADDRESSES:
        try:
            return list(json.loads(rest(address, "/cluster")[1])["members"])
        except OSError:
            continue
    return []


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        sys.exit(f"{what}: {found!r}, wanted {wanted!r}")


def refused(what: str, why: str, **fields: Any) -> None:
    try:
        connect(**fields)
    except psycopg2.OperationalError as error:
        if why not in str(error):
            sys.exit(f"{what}: refused with {error}, wanted {why!r}")
    else:
        sys.exit(f"{what}: was let in")


def leader() -> None:
    print(next(each["name"] for each in cluster() if each["role"] == "leader"))


def doors() -> None:
    link = connect()
    ask(link, "CREATE TABLE IF NOT EXISTS notes (id bigint PRIMARY KEY, at timestamptz)")
    expect(ask(link, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), [(True,)], "TLS")
    expect(ask(link, "SHOW data_checksums"), [("on",)], "checksums")
    plain = {"host": ADDRESSES[0], "target_session_attrs": "any"}
    refused("a wrong password", "password authentication failed", **plain, password="wrong")
    refused("no TLS", "no encryption", **plain, sslmode="disable")
    for user in ("postgres", "replicator", "coordd_pooler", "prometheus"):
        refused(user, "no pg_hba.conf entry", **plain, user=user)
    refused("another database", "no pg_hba.conf entry", **plain, dbname="postgres")
    address = ADDRESSES[0]
    expect(rest(address, "/restart", "POST")[0], 403, "an order without certificate")
    expect(rest(address, "/restart", "POST", shown=True)[0], 401, "an order without password")
    expect(rest(address, "/restart", "POST", shown=True, user="patroni:wrong")[0], 401,
           "an order with a wrong password")


def write() -> None:
    link, number, last, longest = None, 0, time.monotonic(), 0.0
    begin = time.monotonic()
    passwords, hosts = [PASSWORD, *WORDS], ADDRESSES[:]
    STOP.unlink(missing_ok=True)
    with ACKNOWLEDGED.open("a", encoding="ascii") as file:
        number = max(map(int, ACKNOWLEDGED.read_text(encoding="ascii").split()), default=0)
        number += 1000
        while not STOP.exists() and time.monotonic() - begin < WRITING_S:
            number += 1  # a number whose outcome is unknown is never used again
            try:
                link = link or connect(password=passwords[0], host=hosts[0])
                ask(link, "INSERT INTO notes VALUES (%s, now())", number)
            except psycopg2.Error as error:
                if "password authentication" in str(error):
                    passwords.append(passwords.pop(0))
                link = None
                hosts.append(hosts.pop(0))
                time.sleep(0.1)
                continue
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            file.write(f"{number}\n")
            file.flush()
            time.sleep(0.005)
    longest = max(longest, time.monotonic() - last)
    print(f"longest time without a commit: {longest:.1f} s")
    if longest > LIMIT_S:
        sys.exit(1)


def follows() -> None:
    begin = time.monotonic()
    while not any(each["role"] == "leader" and each["name"] != WORDS[0] for each in cluster()):
        if time.monotonic() - begin > SETTLED_S:
            sys.exit(f"nobody has followed {WORDS[0]}")
        time.sleep(0.2)


def kept() -> None:
    acknowledged = {*map(int, ACKNOWLEDGED.read_text(encoding="ascii").split())}
    for address in ADDRESSES:
        link = connect(host=address, target_session_attrs="any")
        deadline = time.monotonic() + LIMIT_S  # a replica shows a row later than it has it
        while missing := acknowledged - {row[0] for row in ask(link, "SELECT id FROM notes")}:
            if time.monotonic() > deadline:
                sys.exit(f"acknowledged and not on {address}: {sorted(missing)[:5]} …")
            time.sleep(0.5)
    print(f"{len(acknowledged)} rows were acknowledged and are on {len(ADDRESSES)} machines")


def whole() -> None:
    begin = time.monotonic()
    while True:
        found = [(each["role"], each["state"]) for each in cluster()]
        if sorted(found) == [("leader", "running"), ("sync_standby", "streaming")]:
            break
        if time.monotonic() - begin > SETTLED_S:
            sys.exit(f"{found} after {SETTLED_S} s")
        time.sleep(0.5)
    print(f"whole after {time.monotonic() - begin:.1f} s")


def waits() -> None:
    link = connect(tcp_user_timeout=60000)
    begin = time.monotonic()
    ask(link, "INSERT INTO notes VALUES (0, now()) ON CONFLICT (id) DO UPDATE SET at = now()")
    print(f"a commit waited {time.monotonic() - begin:.1f} s")
    expect(ask(link, "SHOW synchronous_standby_names"), [("",)],
           "what a commit must still wait for, when one has come back without it")


def password() -> None:
    connect()
    refused("the old password", "password authentication failed", password=WORDS[0])
    expect(ask(connect(), "SHOW max_connections"), [("210",)], "a parameter that takes a restart")


{"leader": leader, "doors": doors, "follows": follows, "write": write, "kept": kept,
 "whole": whole, "waits": waits, "password": password}[WHAT]()
