"""Secrets and certificates that a site's topology asks for, made where they are not there."""

from __future__ import annotations

import secrets

from coordctl import pki
from coordctl.durable import write_file
from coordctl.errors import CoordctlError
from coordctl.site import Site
from coordctl.topology import Topology
from coordctl.vault import CA_FILE, SECRETS_FILE


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
    if topology.bearers("redis") and "vault_redis_password" not in wanted:
        wanted["vault_redis_password"] = secrets.token_urlsafe(32)
        made.append("cache password")
    if topology.bearers("nginx"):
        made += _certificate(site, topology, wanted)
    if wanted != held:
        site.vault.write(SECRETS_FILE, wanted)
    return made


def names_of(site: Site, topology: Topology) -> list[str]:
    """The names under which agents may reach the site: its domain first."""
    names = [site.file.domain] if site.file.domain else []
    return names + [site.address(machine) for machine in topology.bearers("nginx")]


def _certificate(site: Site, topology: Topology, wanted: dict[str, str]) -> list[str]:
    if site.file.tls is not None:
        wanted["vault_tls_certificate"] = _given(site, "certificate", site.file.tls.certificate)
        wanted["vault_tls_key"] = _given(site, "key", site.file.tls.key)
        return []
    made = []
    fields = site.vault.read(CA_FILE)
    if not fields:
        authority = pki.new_authority(site.file.name)
        fields = authority._asdict()
        site.vault.write(CA_FILE, fields)
        made.append("certificate authority")
    authority = pki.Pair(**fields)
    shown = site.folder / "ca.crt"
    if not shown.exists() or shown.read_text(encoding="ascii") != authority.certificate:
        write_file(shown, authority.certificate)
    names = names_of(site, topology)
    if not pki.is_good(wanted.get("vault_tls_certificate", ""), authority.certificate, names):
        pair = pki.new_server(authority, names)
        wanted["vault_tls_certificate"], wanted["vault_tls_key"] = pair
        made.append(f"certificate for {', '.join(names)}")
    return made


def _given(site: Site, key: str, name: str) -> str:
    file = site.folder / name
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CoordctlError(f"{site.folder / 'site.yml'}: tls.{key} is {name!r}, which can't be "
                            f"read ({getattr(error, 'strerror', None) or 'it is not PEM'})",
                            mend=f"ls -l {file}") from None
    if "-----BEGIN" not in text:
        raise CoordctlError(f"{site.folder / 'site.yml'}: tls.{key} is {name!r}, which is not PEM",
                            mend=f"head -1 {file}")
    return text
