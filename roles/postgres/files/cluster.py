"""cluster.py settle|restart|wait: brings this member of the cluster to what is described.

`settle` has a description on stdin (JSON: dynamic, database, user, pooler, monitor, wait_s,
passwords). It waits until the member leads or follows, has Patroni read what it has not read, and
brings the configuration that all members share to what is described. On the leader it looks after
the roles, their passwords and the database. What it prints, as JSON:
    changed   what was not as it is described
    restart   why this member has to be restarted; [] where it has not
    leads     whether it leads

`restart` restarts Patroni and Postgres here; a leader hands over first. `wait` waits until the
member leads or follows. All can be run again.
"""

from __future__ import annotations

import base64
import calendar
import grp
import hashlib
import hmac
import json
import os
import pwd
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import yaml
from patroni.version import __version__ as installed_patroni
from psycopg2.sql import SQL, Identifier, Literal

CONFIG = Path("/etc/patroni/coordctl.yml")
UNIT = "patroni.service"
DROP_IN = Path("/etc/systemd/system/patroni.service.d/coordctl.conf")
RUN = Path(__file__).with_name("run.py")
SOCKETS = "/var/run/postgresql"
RESTART_LIMIT_S = 180.0
SEEN_LIMIT_S = 60.0
ROUNDS = 2
# A replica may not have less of these than the leader.
LEADER_FIRST = {"max_connections", "max_locks_per_transaction", "max_prepared_transactions",
                "max_wal_senders", "max_worker_processes"}

# What a pooler may ask: how to tell a role's password, of those that have no right but their own.
# What the owner may: whether a replica waits for more, or has more to replay.
ACCESS = """
CREATE SCHEMA IF NOT EXISTS pooler;
REVOKE ALL ON SCHEMA pooler FROM PUBLIC;
CREATE OR REPLACE FUNCTION pooler.user_lookup(name text)
RETURNS TABLE (uname text, phash text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT rolname::text, rolpassword FROM pg_authid
    WHERE rolname = name AND rolname <> {pooler_name} AND rolcanlogin
      AND NOT (rolsuper OR rolreplication OR rolcreaterole OR rolbypassrls)
$$;
REVOKE ALL ON FUNCTION pooler.user_lookup(text) FROM PUBLIC;
GRANT USAGE ON SCHEMA pooler TO {pooler};
GRANT EXECUTE ON FUNCTION pooler.user_lookup(text) TO {pooler};
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {pooler};
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER ROLE {user} SET search_path = public;
GRANT pg_read_all_stats TO {user};
"""


class Patroni:
    """The Patroni of this machine, asked as its own configuration says."""

    def __init__(self) -> None:
        fields: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        self.name: str = fields["name"]
        self.binaries = fields["postgresql"]["bin_dir"]
        rest = fields["restapi"]
        self._url = f"https://{rest['connect_address']}"
        self._tls = ssl.create_default_context(cafile=rest["cafile"])
        self._tls.load_cert_chain(rest["certfile"])
        user = rest["authentication"]
        self._who = base64.b64encode(f"{user['username']}:{user['password']}".encode()).decode()

    def ask(self, path: str, method: str = "GET", body: Any = None, *, url: str = "",
            limit_s: float = RESTART_LIMIT_S) -> Any:
        """What it answers, or the one at `url`; JSON is decoded. Raises OSError."""
        request = urllib.request.Request(
            f"{url or self._url}{path}", method=method,
            headers={"Authorization": f"Basic {self._who}"},
            data=None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=limit_s,
                                        context=self._tls) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            raise OSError(f"{method} {path}: {error.code} {error.read().decode()}") from None
        return json.loads(text) if text.startswith(("{", "[")) else text

    def members(self) -> list[dict[str, Any]]:
        """All members as etcd has them. Raises OSError."""
        members: list[dict[str, Any]] = self.ask("/cluster")["members"]
        return members

    def unsettled(self) -> str:
        """What this member still waits for; empty when it leads or follows. Raises OSError."""
        members = self.members()
        own = next((each for each in members if each["name"] == self.name), None)
        if own is None:
            return "Patroni has not told etcd of it yet"
        if not any(each["role"] == "leader" and each["state"] == "running" for each in members):
            return "nobody leads"
        if own["state"] != ("running" if own["role"] == "leader" else "streaming"):
            return f"its Postgres is {own['state']!r}"
        following = [each for each in members if each["state"] == "streaming"]
        if (self.ask("/config").get("synchronous_mode") and following
                and not any(each["role"] == "sync_standby" for each in following)):
            return "no commit waits for a second machine yet"
        return ""

    def settle(self, limit_s: float) -> None:
        """Wait until this member leads or follows."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                waits_for = self.unsettled()
            except OSError as error:
                waits_for = str(error)
            if not waits_for:
                return
            if time.monotonic() > deadline:
                sys.exit(f"{self.name} neither leads nor follows after {limit_s:.0f} s: "
                         f"{waits_for}; journalctl -u patroni says more")
            time.sleep(0.5)

    def leads(self) -> bool:
        """Whether it takes writes. Raises OSError."""
        return any(each["name"] == self.name and each["role"] == "leader"
                   for each in self.members())


def since(field: str) -> float:
    """When the unit's state changed, in seconds of the clock."""
    shown = subprocess.run(["systemctl", "show", "-P", field, "--timestamp=us+utc", UNIT],
                           capture_output=True, text=True, check=True).stdout.split()
    moment = f"{shown[1]}T{shown[2]}"
    whole, _, micros = moment.partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + int(micros or 0) / 1e6


def read_anew(patroni: Patroni) -> list[str]:
    """Have Patroni read its configuration and certificate if they are younger than its last
    reading; what was younger.
    """
    fields = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["restapi"]
    files = [CONFIG, Path(fields["certfile"]), Path(fields["cafile"])]
    read = since("StateChangeTimestamp")
    unread = [file.name for file in files if file.stat().st_mtime > read]
    if unread:
        subprocess.run(["systemctl", "reload", UNIT], check=True)
        seen_by_all(patroni)
    return unread


def seen_by_all(patroni: Patroni) -> None:
    """Wait until every member that answers has read what all share, and made of it what there is
    to be made: it has begun a second round, as the time that it tells of etcd's last answer shows.
    """
    deadline = time.monotonic() + SEEN_LIMIT_S
    for member in patroni.members():
        times: set[Any] = set()
        while len(times) < ROUNDS + 1:
            try:
                times.add(patroni.ask("", url=member["api_url"], limit_s=5)["dcs_last_seen"])
            except OSError:
                break
            if time.monotonic() > deadline:
                sys.exit(f"{member['name']}: Patroni has made no round for {SEEN_LIMIT_S:.0f} s; "
                         "journalctl -u patroni there says more")
            time.sleep(0.2)


def share(patroni: Patroni, dynamic: dict[str, Any]) -> list[str]:
    """Bring the configuration of all members to `dynamic`; the keys that differed."""
    held = patroni.ask("/config")
    if held == dynamic:
        return []
    patroni.ask("/config", "PUT", dynamic)
    seen_by_all(patroni)
    parts = [("", held, dynamic), ("parameters.", held.get("postgresql", {}).get("parameters", {}),
                                   dynamic["postgresql"]["parameters"])]
    return sorted({f"{prefix}{key}" for prefix, old, new in parts for key in old.keys() | new.keys()
                   if old.get(key) != new.get(key) and not (prefix == "" and key == "postgresql")})


def verifier(password: str, salt: bytes, rounds: int) -> str:
    """What Postgres keeps of a password (RFC 5802, RFC 7677)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client = hmac.digest(salted, b"Client Key", "sha256")
    stored = hashlib.sha256(client).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    told = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${rounds}:{told[0]}${told[1]}:{told[2]}"


def is_password(kept: str | None, password: str) -> bool:
    """Whether that is the password that Postgres keeps."""
    found = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$.*", kept or "")
    return found is not None and hmac.compare_digest(
        str(kept), verifier(password, base64.b64decode(found[2]), int(found[1])))


def connect(database: str) -> psycopg2.extensions.connection:
    """As the superuser by the socket; a commit waits for this machine alone."""
    link = psycopg2.connect(host=SOCKETS, dbname=database, user="postgres",
                            options="-c synchronous_commit=local")
    link.autocommit = True
    return link


def look_after(told: dict[str, Any]) -> list[str]:
    """Roles, passwords and the database; what was not as described. Raises psycopg2.Error."""
    changed = []
    user, pooler, monitor = told["user"], told["pooler"], told["monitor"]
    link = connect("postgres")
    with link.cursor() as cursor:
        cursor.execute("SELECT rolname, rolpassword FROM pg_authid")
        kept = dict(cursor.fetchall())
        for name, password in told["passwords"]:
            if not is_password(kept.get(name), password):
                cursor.execute(SQL("{} ROLE {} LOGIN PASSWORD {}").format(
                    SQL("ALTER" if name in kept else "CREATE"), Identifier(name),
                    Literal(verifier(password, os.urandom(16), 4096))))
                changed.append(f"password of {name}" if name in kept else f"role {name}")
        if monitor and monitor not in kept:
            cursor.execute(SQL("CREATE ROLE {} LOGIN IN ROLE pg_monitor").format(
                Identifier(monitor)))
            changed.append(f"role {monitor}")
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", (told["database"],))
        if cursor.rowcount == 0:
            cursor.execute(SQL("CREATE DATABASE {} OWNER {}").format(
                Identifier(told["database"]), Identifier(user)))
            changed.append(f"database {told['database']}")
    link.close()

    link = connect(told["database"])
    with link.cursor() as cursor:
        access = SQL(ACCESS).format(pooler=Identifier(pooler), pooler_name=Literal(pooler),
                                    user=Identifier(user), database=Identifier(told["database"]))
        text = access.as_string(link)
        mark = f"coordctl {hashlib.sha256(text.encode()).hexdigest()[:16]}"
        cursor.execute("SELECT obj_description(to_regprocedure('pooler.user_lookup(text)'))")
        if cursor.fetchone() != (mark,):
            cursor.execute(f"BEGIN; {text}; COMMENT ON FUNCTION pooler.user_lookup(text) IS "
                           f"'{mark}'; COMMIT")
            changed.append("what its users may ask")
    link.close()
    return changed


def as_postgres(told: dict[str, Any]) -> list[str]:
    """`look_after`, as the user whom the socket takes for the superuser."""
    who = pwd.getpwnam("postgres")
    os.setegid(grp.getgrnam("postgres").gr_gid)
    os.seteuid(who.pw_uid)
    try:
        return look_after(told)
    finally:
        os.seteuid(0)
        os.setegid(0)


def restart_reasons(patroni: Patroni) -> list[str]:
    """Why this member has to be restarted. Raises OSError."""
    found = patroni.ask("/patroni")
    reasons = ["a parameter that takes a restart"] if found.get("pending_restart") else []
    said = subprocess.run([f"{patroni.binaries}/postgres", "--version"], capture_output=True,
                          text=True, check=True).stdout
    major, minor = re.findall(r"\d+", said)[:2]
    if found["server_version"] != int(major) * 10000 + int(minor):
        reasons.append(f"Postgres {major}.{minor} is installed")
    if found["patroni"]["version"] != installed_patroni:
        reasons.append(f"Patroni {installed_patroni} is installed")
    began = since("ActiveEnterTimestamp")
    return reasons + [f"{file.name} is new" for file in (RUN, DROP_IN)
                      if file.stat().st_mtime > began]


def takes_less(patroni: Patroni) -> bool:
    """Whether the leader has to be restarted before its replicas, in its place. Raises OSError."""
    why = patroni.ask("/patroni").get("pending_restart_reason", {})
    return any(int(change["new_value"]) < int(change["old_value"])
               for name, change in why.items() if name in LEADER_FIRST)


def settle(patroni: Patroni, told: dict[str, Any]) -> None:
    """See the module."""
    limit_s = float(told["wait_s"])
    deadline = time.monotonic() + limit_s
    patroni.settle(limit_s)
    changed = read_anew(patroni)
    changed += share(patroni, told["dynamic"])
    while patroni.leads():
        try:
            changed += as_postgres(told)
            break
        except psycopg2.Error as error:  # it may have ceased to lead
            if time.monotonic() > deadline:
                sys.exit(f"{patroni.name}: {error}")
            time.sleep(1)
    patroni.settle(limit_s)
    print(json.dumps({"changed": changed, "restart": restart_reasons(patroni),
                      "leads": patroni.leads()}))


def restart(patroni: Patroni) -> None:
    """See the module."""
    patroni.settle(RESTART_LIMIT_S)
    if patroni.leads():
        following = [each for each in patroni.members() if each["state"] == "streaming"]
        if takes_less(patroni):
            for url in ("", *(each["api_url"].removesuffix("/patroni") for each in following)):
                patroni.ask("/restart", "POST", {}, url=url)
                patroni.settle(RESTART_LIMIT_S)
            return
        following.sort(key=lambda each: each["role"] != "sync_standby")
        if following:
            patroni.ask("/switchover", "POST",
                        {"leader": patroni.name, "candidate": following[0]["name"]})
            patroni.settle(RESTART_LIMIT_S)
    subprocess.run(["systemctl", "restart", UNIT], check=True)
    patroni.settle(RESTART_LIMIT_S)


if __name__ == "__main__":
    here = Patroni()
    if sys.argv[1] == "settle":
        settle(here, json.load(sys.stdin))
    elif sys.argv[1] == "restart":
        restart(here)
    else:
        here.settle(float(sys.argv[2]))
