"""Where Redis is and who we are to it: from the settings to connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)

from coordd.credentials import check_certificates, read_password
from coordd.settings import Settings


def connections(settings: Settings) -> Callable[[], AbstractConnection]:
    """What makes a new connection. Raises SettingsError for a file that will not do."""
    assert settings.redis_url is not None  # noqa: S101 - the settings were checked
    url = urlsplit(settings.redis_url)
    # Redis' old protocol: AUTH and SELECT, no HELLO and no CLIENT, so that the user needs few
    # rights. Time is limited by the link, a pipeline at a time; nothing is tried again.
    wanted: dict[str, Any] = {
        "protocol": 2, "driver_info": None, "socket_timeout": None,
        "socket_connect_timeout": None, "socket_read_size": 1 << 18}
    if settings.redis_password_file is not None:
        wanted |= {"username": settings.redis_user or None,
                   "password": read_password("redis_password_file",
                                             settings.redis_password_file)}
    if url.scheme == "unix":
        return lambda: UnixDomainSocketConnection(path=unquote(url.path), **wanted)
    wanted |= {"host": url.hostname, "port": url.port or 6379, "db": int(url.path.strip("/") or 0)}
    if url.scheme == "redis":
        return lambda: Connection(**wanted)
    if settings.redis_ca_file is not None:
        check_certificates("redis_ca_file", settings.redis_ca_file)
        wanted["ssl_ca_certs"] = str(settings.redis_ca_file)
    return lambda: SSLConnection(**wanted)
