"""The values of an inventory: flat and final, computed from profile, site file and topology.

    values_of() ─▶ {file of the inventory: (template, its values)} ─▶ render

No secret is among them: a value that is one names the variable of the encrypted file.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from coordctl.credentials import (
    DATABASE_NAME,
    PASSWORDS,
    TLS_BETWEEN,
    certificate_of,
)
from coordctl.profile import Profile
from coordctl.site_file import SiteFile
from coordctl.topology import LOCAL, Topology
from coordctl.values_monitoring import exporters, prometheus, watched

COORDD_PORT: Final = 8000
REDIS_PORT: Final = 6379
POSTGRES_PORT: Final = 5432
POOLED_PORT: Final = 6432
REPLICAS_PORT: Final = 6433
STANDBY_PORT: Final = 6434
PATRONI_PORT: Final = 8008
PGBACKREST_PORT: Final = 8432
ETCD_PORT: Final = 2379
QUEUE_PORT: Final = 5671
QUEUE_MONITOR_PORT: Final = 15692
WORKER_CALLS: Final = 8
"""Calls of hooks that one worker has under way."""
DRAIN_S: Final = 5
"""Longer than nginx keeps an idle connection to a message server."""
HTTPS_PORT: Final = 443
DATABASE: Final = "coordd"
"""The database's name, and that of the role that owns it."""
DATA: Final = "/var/lib/coordd"
GET: Final = "/usr/local/lib/coordctl-pgbackrest/get"
"""Role pgbackrest's: a piece of the database's log of writes from the archive."""
REOPEN: Final = "systemctl kill -s HUP --kill-whom=main coordd.service"

Values = dict[str, Any]


class Controller(NamedTuple):
    """What the computer that coordctl runs on has to do with it. `service_manager`: how a server
    on this computer is kept running (systemd-user, supervised). `unit`: the name of its unit there,
    one a site.
    """

    folder: Path
    url: str
    service_manager: str = "supervised"
    unit: str = "coordd"


def values_of(told: SiteFile, profile: Profile, topology: Topology, controller: Controller
              ) -> dict[str, tuple[str, Values]]:
    """For each file of the inventory its template and the template's values."""
    files: dict[str, tuple[str, Values]] = {
        "hosts.yml": ("hosts.yml.j2", _hosts(told, topology, controller)),
        "group_vars/all.yml": ("group_vars/all.yml.j2", {
            "site_name": told.name, "site_level": profile.name, "site_url": controller.url}),
    }
    group_values: dict[str, Callable[[SiteFile, Profile, Topology, Controller], Values]] = {
        "machine": _machine, "etcd": _etcd, "postgres": _postgres, "pgbackrest": _pgbackrest,
        "pgbouncer": _pgbouncer, "haproxy": _haproxy, "coordd": _coordd, "redis": _redis,
        "rabbitmq": _rabbitmq, "nginx": _nginx, "logrotate": _logrotate, "backup": _backup,
        "worker": _worker,
        "exporters": lambda _, __, where, ___: exporters(where) | _tls("exporters"),
        "prometheus": lambda file, level, where, _: (
            prometheus(file, level, where) | _tls("prometheus")),
    }
    for role, values in group_values.items():
        if topology.bearers(role):
            template = f"group_vars/{role}.yml"
            files[template] = (f"{template}.j2", values(told, profile, topology, controller))
    for machine in topology.bearers("machine"):
        files[f"host_vars/{machine}.yml"] = ("host_vars/machine.yml.j2", {
            "machine_ssh_port": told.machines[machine].port,
            **_certificate(topology, machine), "machine_watched": watched(topology, machine),
            "machine_firewall_rules": [
                {"port": rule.port, "name": rule.role,
                 "from": [_address(told, source) for source in rule.sources]}
                for rule in topology.rules(machine)]})
    return files


def _address(told: SiteFile, machine: str) -> str:
    return "127.0.0.1" if machine == LOCAL else told.machines[machine].address


def _hosts(told: SiteFile, topology: Topology, controller: Controller) -> Values:
    machines = []
    for name in topology.roles:
        if name == LOCAL:
            values: Values = {"ansible_connection": "local",
                              "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        else:
            machine = told.machines[name]
            values = {"ansible_host": machine.address, "ansible_port": machine.port,
                      "ansible_user": machine.user,
                      "ansible_python_interpreter": "/usr/bin/python3"}
            if machine.key is not None:
                key = Path(machine.key).expanduser()
                values["ansible_ssh_private_key_file"] = str(controller.folder / key)
            if machine.user != "root":
                values["ansible_become"] = True
        machines.append({"name": name, "vars": values})
    roles = dict.fromkeys(role for borne in topology.roles.values() for role in borne)
    return {"machines": machines, "groups": {role: topology.bearers(role) for role in roles}}


def _certificate(topology: Topology, machine: str) -> Values:
    """The machine's own certificate, where it serves other machines by TLS or asks them."""
    if not {*topology.roles[machine]} & {*TLS_BETWEEN}:
        return {"machine_certificate": "", "machine_certificate_key": ""}
    certificate, key = certificate_of(machine)
    return {"machine_certificate": f"{{{{ {certificate} }}}}",
            "machine_certificate_key": f"{{{{ {key} }}}}"}


def _tls(role: str) -> Values:
    return {f"{role}_tls_certificate": "{{ machine_certificate }}",
            f"{role}_tls_key": "{{ machine_certificate_key }}", f"{role}_ca": "{{ vault_ca }}"}


def _members(told: SiteFile, topology: Topology, role: str) -> list[Values]:
    return [{"name": machine, "address": _address(told, machine)}
            for machine in topology.bearers(role)]


def _machine(*_: object) -> Values:
    return {"machine_unattended_upgrades": True, "machine_journald_max_use": "1G",
            "machine_firewall": True}


def _etcd(told: SiteFile, _: Profile, topology: Topology, __: Controller) -> Values:
    return {"etcd_name": "{{ inventory_hostname }}", "etcd_address": "{{ ansible_host }}",
            "etcd_cluster": told.name, "etcd_members": _members(told, topology, "etcd"),
            **_tls("etcd")}


def _postgres(told: SiteFile, profile: Profile, topology: Topology, _: Controller) -> Values:
    memory_mb = next(tier.memory_mb for tier in profile.placement if "postgres" in tier.roles)
    return {
        "postgres_name": "{{ inventory_hostname }}", "postgres_address": "{{ ansible_host }}",
        "postgres_port": POSTGRES_PORT, "postgres_rest_port": PATRONI_PORT,
        "postgres_scope": told.name,
        "postgres_etcd": [f"{_address(told, machine)}:{ETCD_PORT}"
                          for machine in topology.bearers("etcd")],
        "postgres_members": _members(told, topology, "postgres"),
        "postgres_clients": [_address(told, machine) for machine in topology.bearers("coordd")],
        "postgres_database": DATABASE, "postgres_user": DATABASE,
        "postgres_shared_buffers_mb": memory_mb // 4, "postgres_max_connections": 200,
        "postgres_synchronous": profile.stack.store_nodes > 1, **_archive(told, topology),
        **{name.removeprefix("vault_"): f"{{{{ {name} }}}}" for name in PASSWORDS["postgres"]},
        **_tls("postgres")}


def _archive(told: SiteFile, topology: Topology) -> Values:
    """How Postgres sends its log of writes to the repository, and asks for it. The role that brings
    both programs is set up after Postgres: until then nothing is sent, and nothing found.
    """
    if not topology.bearers("pgbackrest"):
        return {"postgres_archive_command": "", "postgres_restore_command": ""}
    push = f"pgbackrest --stanza={told.name} archive-push %p"
    return {
        "postgres_archive_command":
            f"if [ -e /etc/pgbackrest/pgbackrest.conf ]; then {push}; else false; fi",
        "postgres_restore_command":
            f"if [ -e {GET} ]; then {GET} {told.name} %f %p; else false; fi"}


def keeps_backups(topology: Topology) -> str:
    """The machine of the database's backups. One that is lost takes what it keeps with it: they are
    where no database is, as long as there is such a machine.
    """
    bearers, databases = topology.bearers("pgbackrest"), topology.bearers("postgres")
    return next((machine for machine in bearers if machine not in databases), bearers[0])


def _pgbackrest(told: SiteFile, profile: Profile, topology: Topology, _: Controller) -> Values:
    keeps = keeps_backups(topology)
    return {"pgbackrest_name": "{{ inventory_hostname }}",
            "pgbackrest_address": "{{ ansible_host }}", "pgbackrest_port": PGBACKREST_PORT,
            "pgbackrest_repository": {"name": keeps, "address": _address(told, keeps)},
            "pgbackrest_members": _members(told, topology, "postgres"),
            "pgbackrest_stanza": told.name, "pgbackrest_dir": "/var/backups/pgbackrest",
            "pgbackrest_keep_days": profile.sizes.backups_kept, **_tls("pgbackrest")}


def _pgbouncer(_: SiteFile, profile: Profile, __: Topology, ___: Controller) -> Values:
    tls = _tls("pgbouncer")
    del tls["pgbouncer_ca"]
    return {"pgbouncer_bind": ["{{ ansible_host }}"], "pgbouncer_port": POOLED_PORT,
            "pgbouncer_database": DATABASE, "pgbouncer_user": DATABASE,
            "pgbouncer_auth_password": "{{ vault_postgres_pooler_password }}",
            "pgbouncer_stats_password": "{{ vault_pgbouncer_stats_password }}",
            "pgbouncer_pool_size": 12 * profile.stack.message_servers, **tls}


def _haproxy(told: SiteFile, _: Profile, topology: Topology, __: Controller) -> Values:
    return {"haproxy_members": _members(told, topology, "postgres"),
            "haproxy_write_port": POOLED_PORT, "haproxy_read_port": REPLICAS_PORT,
            "haproxy_standby_port": STANDBY_PORT, "haproxy_direct_port": POSTGRES_PORT,
            "haproxy_pool_port": POOLED_PORT,
            "haproxy_postgres_port": POSTGRES_PORT, "haproxy_check_port": PATRONI_PORT,
            **_tls("haproxy")}


def _database(told: SiteFile, profile: Profile, topology: Topology) -> Values:
    """A message server's way to the database: the balancer on its own machine finds the leader."""
    balanced = bool(topology.bearers("haproxy"))
    # Database and pooler listen on their machine's address alone: the balancer has the loopback's.
    way = "127.0.0.1" if balanced else _address(told, topology.bearers("postgres")[0])

    def url(port: int) -> str:
        return f"postgresql://{way}:{port}/{DATABASE}"

    pooled = profile.stack.pooling == "pgbouncer"
    return {"postgres_url": url(POOLED_PORT if pooled else POSTGRES_PORT),
            "postgres_direct_url": url(POSTGRES_PORT),
            **({"postgres_standby_url": url(STANDBY_PORT),
                "postgres_replica_urls": [url(REPLICAS_PORT)]} if balanced else {}),
            "postgres_user": DATABASE, "postgres_tls_name": DATABASE_NAME}


def _coordd(told: SiteFile, profile: Profile, topology: Topology, controller: Controller) -> Values:
    local = LOCAL in topology.roles
    # Behind a balancer on the same machine nothing else needs to reach it; else the firewall of
    # the machine says who may.
    beside = set(topology.bearers("nginx")) == set(topology.bearers("coordd"))
    host = told.host if local else "127.0.0.1" if beside else "0.0.0.0"  # noqa: S104
    port = told.port if local else COORDD_PORT
    data = str(controller.folder / "data") if local else DATA
    settings: Values = {
        "host": host, "port": port, "data": data, "engine": profile.stack.store,
        "auth": "token" if profile.stack.access == "tokens" else "open",
        "rate_per_s": profile.sizes.rate_per_s, "rate_burst": profile.sizes.rate_burst,
        "pending_max": profile.sizes.pending_messages}
    if profile.stack.message_servers > 1:
        settings["drain_s"] = DRAIN_S
    if caches := topology.bearers("redis"):
        settings |= {"cache": "redis", "redis_user": "coordd",
                     "redis_url": f"redis://{_near(told, topology, caches[0])}:{REDIS_PORT}/0"}
    database = bool(topology.bearers("postgres"))
    if database:
        settings |= _database(told, profile, topology)
    settings |= _hooks(told)
    if queues := topology.bearers("rabbitmq"):
        settings |= {"queue": "rabbitmq", "queue_user": "coordd",
                     "queue_url": f"amqps://{_near(told, topology, queues[0])}:{QUEUE_PORT}/"}
    ready = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host  # noqa: S104
    return {
        "coordd_service_manager": controller.service_manager if local else "systemd",
        "coordd_unit": controller.unit if local else "coordd",
        "coordd_python": "{{ ansible_playbook_python }}" if local else "",
        "coordd_config_dir": str(controller.folder) if local else "/etc/coordd",
        "coordd_data_dir": data, "coordd_ready_url": f"http://{ready}:{port}/ready",
        "coordd_settings": settings,
        "coordd_admin_token": "{{ vault_admin_token }}",
        "coordd_redis_password": "{{ vault_redis_password }}" if caches else "",
        "coordd_postgres_password": "{{ vault_postgres_password }}" if database else "",
        "coordd_postgres_ca": "{{ vault_ca }}" if database else "",
        "coordd_queue_password": "{{ vault_rabbitmq_password }}" if queues else "",
        "coordd_queue_ca": "{{ vault_ca }}" if queues else "",
        "coordd_smtp_password": "{{ vault_smtp_password }}"
                                if told.smtp and told.smtp.password else ""}


def _hooks(told: SiteFile) -> Values:
    """Whom a message server may tell of events."""
    settings: Values = {}
    if told.hooks.allow:
        settings["webhook_allow"] = list(told.hooks.allow)
    if told.hooks.tries is not None:
        settings["hook_tries"] = told.hooks.tries
    if told.smtp is not None:
        settings |= {"smtp_host": told.smtp.host, "smtp_port": told.smtp.port,
                     "smtp_tls": told.smtp.tls, "smtp_from": told.smtp.sender}
        if told.smtp.user is not None:
            settings["smtp_user"] = told.smtp.user
    return settings


def _worker(told: SiteFile, *_: object) -> Values:
    secrets = ["postgres-password", "queue-password"]
    if told.smtp and told.smtp.password:
        secrets.append("smtp-password")
    return {"worker_credentials": secrets, "worker_concurrency": WORKER_CALLS}


def _near(told: SiteFile, topology: Topology, machine: str) -> str:
    """The address of `machine` as the message servers see it."""
    return "127.0.0.1" if topology.bearers("coordd") == [machine] else _address(told, machine)


def _redis(_: SiteFile, profile: Profile, topology: Topology, __: Controller) -> Values:
    beside = set(topology.bearers("redis")) == set(topology.bearers("coordd"))
    return {"redis_bind": ["127.0.0.1"] if beside else ["127.0.0.1", "{{ ansible_host }}"],
            "redis_port": REDIS_PORT, "redis_user": "coordd",
            "redis_maxmemory_mb": profile.sizes.cache_memory_mb,
            "redis_maxmemory_policy": "allkeys-lru",
            "redis_password": "{{ vault_redis_password }}",
            "redis_monitor_password": ("{{ vault_redis_monitor_password }}"
                                       if topology.bearers("exporters") else "")}


def _rabbitmq(told: SiteFile, _: Profile, topology: Topology, __: Controller) -> Values:
    return {"rabbitmq_members": _members(told, topology, "rabbitmq"),
            "rabbitmq_name": "{{ inventory_hostname }}", "rabbitmq_address": "{{ ansible_host }}",
            "rabbitmq_port": QUEUE_PORT, "rabbitmq_monitor_port": QUEUE_MONITOR_PORT,
            "rabbitmq_user": "coordd", "rabbitmq_password": "{{ vault_rabbitmq_password }}",
            "rabbitmq_cookie": "{{ vault_rabbitmq_cookie }}", **_tls("rabbitmq")}


def _nginx(told: SiteFile, _: Profile, topology: Topology, __: Controller) -> Values:
    beside = set(topology.bearers("nginx")) == set(topology.bearers("coordd"))
    servers = ["127.0.0.1"] if beside else [
        _address(told, machine) for machine in topology.bearers("coordd")]
    return {"nginx_server_name": told.domain or "_", "nginx_https_port": HTTPS_PORT,
            "nginx_upstreams": [f"{server}:{COORDD_PORT}" for server in servers],
            "nginx_tls_certificate": "{{ vault_tls_certificate }}",
            "nginx_tls_key": "{{ vault_tls_key }}"}


def _logrotate(_: SiteFile, profile: Profile, topology: Topology, controller: Controller) -> Values:
    local = LOCAL in topology.roles
    data = str(controller.folder / "data") if local else DATA
    # A database keeps the events itself; what else has a log comes with a rotation of its own.
    files = profile.stack.store == "files"
    return {"logrotate_coordd_log": f"{data}/events.log" if files else "",
            "logrotate_keep": profile.sizes.events_log_days,
            "logrotate_config_file": (str(controller.folder / "logrotate.conf") if local
                                      else "/etc/logrotate.d/coordd"),
            "logrotate_state_dir": str(controller.folder / "logrotate") if local else "",
            "logrotate_unit": f"{controller.unit if local else 'coordd'}-logrotate",
            "logrotate_user_timer": local and controller.service_manager == "systemd-user",
            "logrotate_reopen_command": _reopen(controller) if local else REOPEN}


def _reopen(controller: Controller) -> str:
    """What tells the server on this computer that its log was moved away."""
    if controller.service_manager == "systemd-user":
        return REOPEN.replace("systemctl", "systemctl --user").replace("coordd", controller.unit)
    return ("{{ ansible_playbook_python }} -P -m coordd.supervise reload --settings "
            + shlex.quote(str(controller.folder / "coordd.toml")))


def _backup(_: SiteFile, profile: Profile, *__: object) -> Values:
    return {"backup_dir": "/var/backups/coordd", "backup_on_calendar": "02:30",
            "backup_keep": profile.sizes.backups_kept}
