"""Where Postgres is and who we are to it: from the settings to psycopg's parameters."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from coordd.credentials import check_certificates, read_password
from coordd.engines.postgres.database import conninfo
from coordd.settings import Settings, SettingsError


def parameters_of(settings: Settings, url: str) -> dict[str, Any]:
    """For a connection to `url`. Raises SettingsError for a file that will not do."""
    password = ca_file = None
    if settings.postgres_password_file is not None:
        password = read_password("postgres_password_file", settings.postgres_password_file)
    if settings.postgres_ca_file is not None:
        check_certificates("postgres_ca_file", settings.postgres_ca_file)
        ca_file = str(settings.postgres_ca_file)
    found = conninfo(url, settings.postgres_user, password, ca_file)
    if settings.postgres_tls_name is not None:
        found |= {"host": settings.postgres_tls_name, "hostaddr": _address(url)}
    return found


def _address(url: str) -> str:
    host = urlsplit(url).hostname or ""
    try:
        return str(ip_address(host))
    except ValueError:
        raise SettingsError(
            f"postgres_tls_name goes with numeric addresses; a URL of Postgres has {host!r}: use "
            "postgresql://ADDRESS:PORT/DATABASE") from None
