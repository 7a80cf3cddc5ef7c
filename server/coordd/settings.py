"""What the operator may set: a TOML file, and `COORDD_<KEY>` in the environment above it.

docs/settings.md describes each key; a test compares it with the fields below.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from coordd.work.allow import is_entry

ENV_PREFIX: Final = "COORDD_"
CREDENTIALS: Final = Path("/run/credentials")


class SettingsError(Exception):
    """A setting is wrong. The text is one line: the key, the value and what would do."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, checked. Sizes are in bytes."""

    data: Path | None = None
    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    engine: Literal["files", "postgres"] = "files"
    auth: Literal["open", "token"] = "open"
    admin_token_file: Path | None = None
    rate_per_s: Annotated[float, Meta(ge=0, le=1e9)] = 0
    rate_burst: Annotated[int, Meta(ge=1, le=10**9)] = 100
    pending_max: Annotated[int, Meta(ge=1, le=10**7)] = 10_000
    pending_bytes_max: Annotated[int, Meta(ge=1 << 20, le=1 << 34)] = 64 << 20
    drain_s: Annotated[float, Meta(ge=0, le=60)] = 0
    segment_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 40)] = 64 << 20
    postgres_url: str | None = None
    postgres_direct_url: str | None = None
    postgres_standby_url: str | None = None
    postgres_replica_urls: tuple[str, ...] = ()
    postgres_user: str = "coordd"
    postgres_password_file: Path | None = None
    postgres_ca_file: Path | None = None
    postgres_tls_name: Annotated[str, Meta(min_length=1)] | None = None
    postgres_pool: Annotated[int, Meta(ge=1, le=1000)] = 8
    postgres_wait_s: Annotated[float, Meta(ge=0.1, le=60)] = 5
    retention_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    events_months: Annotated[int, Meta(ge=0, le=1200)] = 0
    archive_url: str | None = None
    archive_find: bool = False
    archive_s3_endpoint: str | None = None
    archive_s3_credentials_file: Path | None = None
    cache: Literal["none", "redis"] = "none"
    redis_url: str | None = None
    redis_user: str = "coordd"
    redis_password_file: Path | None = None
    redis_ca_file: Path | None = None
    queue: Literal["in-process", "rabbitmq"] = "in-process"
    queue_url: str | None = None
    queue_user: str = "coordd"
    queue_password_file: Path | None = None
    queue_ca_file: Path | None = None
    hook_tries: Annotated[int, Meta(ge=1, le=100)] = 8
    hook_retry_s: Annotated[float, Meta(ge=0.05, le=3600)] = 2
    hook_timeout_s: Annotated[float, Meta(ge=0.1, le=60)] = 10
    webhook_allow: tuple[str, ...] = ()
    smtp_host: Annotated[str, Meta(min_length=1)] | None = None
    smtp_port: Annotated[int, Meta(ge=1, le=65535)] = 587
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: Annotated[str, Meta(min_length=1)] | None = None
    smtp_password_file: Path | None = None
    smtp_ca_file: Path | None = None
    smtp_from: Annotated[str, Meta(min_length=3, pattern=r"^[^@\s<>]+@[^@\s<>]+$")] | None = None
    provenance: bool = True
    log_level: Literal["debug", "info", "warning", "error"] = "info"


KEYS: Final = Settings.__struct_fields__

_POSTGRES_URL: Final = ("postgresql://HOST:PORT/DATABASE, without user and password: these are "
                        "postgres_user and postgres_password_file")
_NEEDED: Final = (("engine", "files", "data"), ("engine", "postgres", "postgres_url"),
                  ("cache", "redis", "redis_url"), ("queue", "rabbitmq", "queue_url"))
"""(key, its value, the key that has to be there then)."""
_OF_POSTGRES: Final = ("retention_days", "events_months", "archive_url")
"""What the files engine does not do."""
_WANTED: Final = {
    "data": "the folder of the messages, such as \"/var/lib/coordd\"",
    "host": "an address to listen on, such as \"127.0.0.1\"",
    "port": "a whole number from 0 to 65535",
    "engine": "\"files\" or \"postgres\"",
    "auth": "\"open\" or \"token\"",
    "admin_token_file": "the path of a file that holds coord_admin_<secret>",
    "rate_per_s": "a number of requests a second, 0 for no limit",
    "rate_burst": "a whole number from 1 to 1000000000",
    "pending_max": "a whole number of messages from 1 to 10000000",
    "pending_bytes_max": "a whole number of bytes from 1048576 (1 MiB) to 17179869184 (16 GiB)",
    "drain_s": "a number of seconds from 0 to 60",
    "segment_bytes": "a whole number of bytes from 65536 (64 KiB) to 1099511627776 (1 TiB)",
    "postgres_url": _POSTGRES_URL,
    "postgres_direct_url": _POSTGRES_URL,
    "postgres_standby_url": _POSTGRES_URL,
    "postgres_replica_urls": f"a list of {_POSTGRES_URL}",
    "postgres_user": "a role's name",
    "postgres_password_file": "the path of a file that holds postgres_user's password",
    "postgres_ca_file": "the path of the certificates that Postgres' certificate is checked by",
    "postgres_tls_name": "the host name of the certificate, with numeric addresses in the URLs",
    "postgres_pool": "a whole number of connections from 1 to 1000",
    "postgres_wait_s": "a number of seconds from 0.1 to 60",
    "retention_days": "a whole number of days from 1 to 36500, 0 to keep all messages",
    "events_months": "a whole number of months from 1 to 1200, 0 to keep all events",
    "archive_url": "file:///FOLDER or s3://BUCKET/PREFIX",
    "archive_find": "true or false",
    "archive_s3_endpoint": "https://HOST:PORT or http://HOST:PORT",
    "archive_s3_credentials_file": ("the path of a file with [default], aws_access_key_id and "
                                    "aws_secret_access_key"),
    "cache": "\"none\" or \"redis\"",
    "redis_url": ("redis://HOST:PORT/0, rediss://HOST:PORT/0 (TLS) or unix:///PATH, without user "
                  "and password: these are redis_user and redis_password_file"),
    "redis_user": "a user's name, \"\" for Redis' default user",
    "redis_password_file": "the path of a file that holds redis_user's password",
    "redis_ca_file": "the path of the certificates that Redis' certificate is checked by",
    "queue": "\"in-process\" or \"rabbitmq\"",
    "queue_url": ("amqps://HOST:PORT/ (TLS) or amqp://HOST:PORT/, without user and password: these "
                  "are queue_user and queue_password_file"),
    "queue_user": "a user's name",
    "queue_password_file": "the path of a file that holds queue_user's password",
    "queue_ca_file": "the path of the certificates that RabbitMQ's certificate is checked by",
    "hook_tries": "a whole number from 1 to 100",
    "hook_retry_s": "a number of seconds from 0.05 to 3600",
    "hook_timeout_s": "a number of seconds from 0.1 to 60",
    "webhook_allow": ("a list of host names and of networks, such as [\"hooks.example.org\", "
                      "\"10.1.0.0/16\"]"),
    "smtp_host": "a host's name or address",
    "smtp_port": "a whole number from 1 to 65535",
    "smtp_tls": "\"starttls\", \"tls\" or \"none\"",
    "smtp_user": "a user's name",
    "smtp_password_file": "the path of a file that holds smtp_user's password",
    "smtp_ca_file": "the path of the certificates that the mail server's certificate is checked by",
    "smtp_from": "an address such as \"coordd@example.org\"",
    "provenance": "true or false",
    "log_level": "\"debug\", \"info\", \"warning\" or \"error\"",
}


def is_credential(file: Path) -> bool:
    """Whether systemd gives the file to a unit (LoadCredential=) and guards it from all others.

    It does so by an access control list, which the mode shows as rights of a group.
    """
    return CREDENTIALS in file.parents


def load(file: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of `file` (None: only the environment's). Raises SettingsError."""
    values: dict[str, Any] = {}
    source: dict[str, str] = {}
    for key, value in (_read(file) if file else {}).items():
        if key not in KEYS:
            raise SettingsError(f"{file}: {key} is no setting{_nearest(key)}")
        values[key], source[key] = value, f"{file}: {key}"
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        key = variable.removeprefix(ENV_PREFIX).lower()
        if key not in KEYS:
            raise SettingsError(
                f"environment: {variable} is no setting{_nearest(key, ENV_PREFIX, str.upper)}")
        values[key], source[key] = text, f"environment: {variable}"
    checked = {key: _checked(key, value, source[key]) for key, value in values.items()}
    settings = Settings(**checked)
    for key, value, needed in _NEEDED:
        if getattr(settings, key) == value and getattr(settings, needed) is None:
            if key not in source:
                raise SettingsError(
                    f"{file or 'environment'}: {needed} is missing: set {_WANTED[needed]}")
            raise SettingsError(f"{source[key]} = \"{value}\" will not do: {needed} is missing: "
                                f"use {_WANTED[needed]}")
    if settings.queue == "rabbitmq" and settings.engine != "postgres":
        raise SettingsError(f"{source['queue']} = \"rabbitmq\" will not do with engine = "
                            f"\"{settings.engine}\", whose messages no worker can see: use "
                            "engine = \"postgres\"")
    if settings.smtp_host is not None and settings.smtp_from is None:
        raise SettingsError(f"{source['smtp_host']} = {_shown(settings.smtp_host)} will not do: "
                            f"smtp_from is missing: use {_WANTED['smtp_from']}")
    for key in _OF_POSTGRES:
        if getattr(settings, key) and settings.engine == "files":
            raise SettingsError(f"{source[key]} = {_shown(values[key])} will not do: engine = "
                                "\"files\" has none: use engine = \"postgres\"")
    return settings


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{file}: cannot be read ({error.strerror}): give a file with --settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: is no TOML: {error}") from None


def _checked(key: str, value: Any, source: str) -> Any:
    """`value` as the type of `key`. Texts of the environment may stand for numbers."""
    field = _FIELDS[key]
    lax = source.startswith("environment")
    if key.endswith(("_url", "_urls", "_endpoint")):
        if key.endswith("s") and lax:
            value = str(value).split(",")
        is_right = _URLS.get(key, _is_postgres_url)
        urls = value if key.endswith("s") and isinstance(value, list) else [value]
        if not all(isinstance(url, str) and is_right(url) for url in urls):
            # A password may stand in it: it is not shown.
            raise SettingsError(f"{source} will not do: use {_WANTED[key]}")
        return tuple(urls) if key.endswith("s") else value
    if key == "webhook_allow":
        return _hosts(value.split(",") if lax else value, source)
    try:
        if field.type in (Path, Path | None):
            if not isinstance(value, str) or not value or "\0" in value:
                raise SettingsError(f"{source} = {_shown(value)} will not do: use {_WANTED[key]}")
            return Path(value).expanduser()
        return msgspec.convert(value, field.type, strict=not lax)
    except (msgspec.ValidationError, OverflowError, RuntimeError):
        raise SettingsError(
            f"{source} = {_shown(value)} will not do: use {_WANTED[key]}") from None


def _hosts(value: Any, source: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise SettingsError(f"{source} = {_shown(value)} will not do: use "
                            f"{_WANTED['webhook_allow']}")
    for entry in value:
        if not is_entry(entry):
            raise SettingsError(f"{source} holds {_shown(entry)}, which is no host's name and no "
                                f"network: use {_WANTED['webhook_allow']}")
    return tuple(value)


def _is_queue_url(text: str) -> bool:
    """As `_is_redis_url`, of RabbitMQ; its virtual host is `/`."""
    url = _bare_url(text)
    return (url is not None and url.scheme in ("amqp", "amqps") and bool(url.hostname)
            and url.port != 0 and url.path in ("", "/"))


def _is_redis_url(text: str) -> bool:
    """Whether it names a Redis and nothing else, no user and no password."""
    url = _bare_url(text)
    if url is None:
        return False
    if url.scheme == "unix":
        return not url.netloc and url.path.startswith("/") and len(url.path) > 1
    return (url.scheme in ("redis", "rediss") and bool(url.hostname) and url.port != 0
            and re.fullmatch(r"(/\d{0,4})?", url.path) is not None)


def _is_postgres_url(text: str) -> bool:
    """As `_is_redis_url`, of a database."""
    url = _bare_url(text)
    return (url is not None and url.scheme in ("postgresql", "postgres") and bool(url.hostname)
            and url.port != 0 and re.fullmatch(r"/[A-Za-z0-9_-]{1,63}", url.path) is not None)


def _is_archive_url(text: str) -> bool:
    """As `_is_redis_url`, of a folder or a bucket."""
    url = _bare_url(text)
    if url is None or ".." in url.path.split("/"):
        return False
    if url.scheme == "file":
        return not url.netloc and len(url.path) > 1
    return (url.scheme == "s3" and ":" not in url.netloc
            and re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", url.netloc) is not None)


def _is_endpoint(text: str) -> bool:
    """As `_is_redis_url`, of an S3-compatible store."""
    url = _bare_url(text)
    return (url is not None and url.scheme in ("http", "https") and bool(url.hostname)
            and url.port != 0 and url.path in ("", "/"))


def _bare_url(text: str) -> SplitResult | None:
    """The URL, unless it has more parts than an address."""
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        return None
    if "@" in text or "?" in text or "#" in text or not text.isprintable() or " " in text:
        return None
    return url


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    text = text.replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\0")
    return text if len(text) <= 100 else text[:97] + "..."


def _nearest(key: str, prefix: str = "", case: Any = str) -> str:
    near = get_close_matches(key.lower(), KEYS, n=1, cutoff=0.5)
    if near:
        return f": did you mean {prefix}{case(near[0])}?"
    return ": known are " + ", ".join(prefix + case(known) for known in sorted(KEYS))


_FIELDS: Final = {field.name: field for field in msgspec.structs.fields(Settings)}
_URLS: Final = {"redis_url": _is_redis_url, "archive_url": _is_archive_url,
                "archive_s3_endpoint": _is_endpoint, "queue_url": _is_queue_url}
