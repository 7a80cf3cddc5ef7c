"""Secrets and certificates that a site's topology asks for, made where they are not there."""

from __future__ import annotations

import secrets
from typing import Final

from coordctl import pki
from coordctl.durable import write_file
from coordctl.errors import CoordctlError
from coordctl.site import Site
from coordctl.topology import Topology
from coordctl.vault import CA_FILE, SECRETS_FILE

PASSWORDS: Final = {
    "redis": {"vault_redis_password": "cache password"},
    "postgres": {"vault_postgres_password": "database password",
                 "vault_postgres_superuser_password": "database superuser's password",
                 "vault_postgres_replication_password": "replication password",
                 "vault_postgres_pooler_password": "pooler's password",
                 "vault_postgres_rest_password": "password of Patroni's API"},
    "pgbouncer": {"vault_pgbouncer_stats_password": "pooler's statistics password"},
    "rabbitmq": {"vault_rabbitmq_password": "work queue's password",
                 "vault_rabbitmq_cookie": "work queue's cookie"},
    "exporters": {"vault_redis_monitor_password": "password of the cache's exporter"},
}
"""Role → its secrets and what they are called."""
DATABASE_NAME: Final = "postgres"
"""The host name that the certificate of every database has: its clients reach it by way of others,
at addresses that are not its own.
"""
TLS_BETWEEN: Final = ("etcd", "postgres", "pgbackrest", "pgbouncer", "haproxy", "rabbitmq",
                      "prometheus")
"""The roles that speak TLS with other machines."""


def prepare(site: Site, topology: Topology) -> list[str]:
    """Make what is missing; what was made, in words. Raises CoordctlError, OSError.

    A site that was made before secrets were encrypted keeps its operator's token.
    """
    held = site.vault.read(SECRETS_FILE)
    wanted = dict(held)
    made = []
    if "vault_admin_token" not in wanted:
        plain = site.folder / "admin.token"
        wanted["vault_admin_token"] = (plain.read_text(encoding="utf-8").strip() if plain.exists()
                                       else f"coord_admin_{secrets.token_urlsafe(32)}")
        made.append("operator's token")
    for role, names in PASSWORDS.items():
        for name, what in names.items():
            if topology.bearers(role) and name not in wanted:
                wanted[name] = secrets.token_urlsafe(32)
                made.append(what)
    if site.file.smtp is not None and site.file.smtp.password is not None:
        wanted["vault_smtp_password"] = _password(site, site.file.smtp.password)
    if topology.bearers("nginx"):
        made += _certificate(site, topology, wanted)
    made += _machines_certificates(site, topology, wanted)
    if wanted != held:
        site.vault.write(SECRETS_FILE, wanted)
    return made


def renew(site: Site, topology: Topology) -> list[str]:
    """New certificates for all machines and for agents, of the same authority; one that site.yml
    names stays. What was made, in words. Raises CoordctlError, OSError.
    """
    site.vault.write(SECRETS_FILE, {
        name: value for name, value in site.vault.read(SECRETS_FILE).items()
        if not name.startswith(("vault_certificate_", "vault_key_", "vault_tls_"))})
    return prepare(site, topology)


def names_of(site: Site, topology: Topology) -> list[str]:
    """The names under which agents may reach the site: its domain first."""
    names = [site.file.domain] if site.file.domain else []
    return names + [site.address(machine) for machine in topology.bearers("nginx")]


def _certificate(site: Site, topology: Topology, wanted: dict[str, str]) -> list[str]:
    if site.file.tls is not None:
        wanted["vault_tls_certificate"] = _given(site, "certificate", site.file.tls.certificate)
        wanted["vault_tls_key"] = _given(site, "key", site.file.tls.key)
        return []
    authority, made = _authority(site)
    names = names_of(site, topology)
    if not pki.is_good(wanted.get("vault_tls_certificate", ""), authority.certificate, names):
        pair = pki.new_server(authority, names)
        wanted["vault_tls_certificate"], wanted["vault_tls_key"] = pair
        made.append(f"certificate for {', '.join(names)}")
    return made


def _machines_certificates(site: Site, topology: Topology, wanted: dict[str, str]) -> list[str]:
    """One a machine, for what its roles serve to other machines and ask of them."""
    machines = [machine for machine, roles in topology.roles.items() if {*roles} & {*TLS_BETWEEN}]
    if not machines:
        return []
    authority, made = _authority(site)
    wanted["vault_ca"] = authority.certificate
    for machine in machines:
        names = list(dict.fromkeys((machine, site.address(machine), "localhost", "127.0.0.1")))
        if "postgres" in topology.roles[machine]:
            names.append(DATABASE_NAME)
        certificate, key = certificate_of(machine)
        if not pki.is_good(wanted.get(certificate, ""), authority.certificate, names):
            wanted[certificate], wanted[key] = pki.new_server(authority, names, client=True)
            made.append(f"certificate of {machine}")
    return made


def certificate_of(machine: str) -> tuple[str, str]:
    """The names of a machine's certificate and of its key among the secrets."""
    name = machine.replace("-", "_")
    return f"vault_certificate_{name}", f"vault_key_{name}"


def _authority(site: Site) -> tuple[pki.Pair, list[str]]:
    """The site's own, made if there is none, and what was made."""
    made = []
    fields = site.vault.read(CA_FILE)
    if not fields:
        fields = pki.new_authority(site.file.name)._asdict()
        site.vault.write(CA_FILE, fields)
        made.append("certificate authority")
    authority = pki.Pair(**fields)
    shown = site.folder / "ca.crt"
    if not shown.exists() or shown.read_text(encoding="ascii") != authority.certificate:
        write_file(shown, authority.certificate)
    return authority, made


def _password(site: Site, name: str) -> str:
    text = _told(site, "smtp.password", name, "utf-8", "no text").strip()
    if not text:
        raise CoordctlError(f"{site.folder / 'site.yml'}: smtp.password is {name!r}, which is "
                            "empty", mend=f"ls -l {site.folder / name}")
    return text


def _given(site: Site, key: str, name: str) -> str:
    text = _told(site, f"tls.{key}", name, "ascii", "not PEM")
    if "-----BEGIN" not in text:
        raise CoordctlError(f"{site.folder / 'site.yml'}: tls.{key} is {name!r}, which is not PEM",
                            mend=f"head -1 {site.folder / name}")
    return text


def _told(site: Site, key: str, name: str, encoding: str, otherwise: str) -> str:
    """The text of a file that site.yml names under `key`; `otherwise`: what one in another encoding
    is. Raises CoordctlError.
    """
    file = site.folder / name
    try:
        return file.read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise CoordctlError(f"{site.folder / 'site.yml'}: {key} is {name!r}, which can't be "
                            f"read ({getattr(error, 'strerror', None) or f'it is {otherwise}'})",
                            mend=f"ls -l {file}") from None
