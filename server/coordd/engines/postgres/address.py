"""Where Postgres is and who we are to it: from the settings to psycopg's parameters."""

from __future__ import annotations

from typing import Any

from coordd.credentials import check_certificates, read_password
from coordd.engines.postgres.database import conninfo
from coordd.settings import Settings


def parameters_of(settings: Settings, url: str) -> dict[str, Any]:
    """For a connection to `url`. Raises SettingsError for a file that will not do."""
    password = ca_file = None
    if settings.postgres_password_file is not None:
        password = read_password("postgres_password_file", settings.postgres_password_file)
    if settings.postgres_ca_file is not None:
        check_certificates("postgres_ca_file", settings.postgres_ca_file)
        ca_file = str(settings.postgres_ca_file)
    return conninfo(url, settings.postgres_user, password, ca_file)
