"""Where gone messages and old events are archived: a folder, or a bucket of an S3-compatible store.

A target has two calls: `put`, after which the file is there whole and durable, and `get`. A file
that is put again replaces the one of its name.
"""

from __future__ import annotations

import asyncio
import configparser
import os
import shutil
import stat
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from coordd.settings import Settings, SettingsError, is_credential

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

PUT_LIMIT_S: Final = 600.0
"""Of a large file to a slow store."""
GET_LIMIT_S: Final = 20.0
_REGION: Final = "us-east-1"
_KEYS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "region")
T = TypeVar("T")


class ArchiveError(Exception):
    """The target can't be reached, has no room or refuses. The text is one line."""


class Archive(Protocol):
    """A target. `name` below is a file's path in it, with `/`."""

    async def put(self, name: str, file: Path) -> None:
        """Store a copy of `file`, whole and durable. Raises ArchiveError."""

    async def get(self, name: str) -> bytes | None:
        """A file's bytes, None where there is none. Raises ArchiveError."""


class FolderArchive:
    """A folder of this computer or one that is mounted. It has to be there: an empty mount point
    is not taken for it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, name: str, file: Path) -> None:
        """See `Archive`."""
        try:
            await asyncio.to_thread(self._put, name, file)
        except OSError as error:
            raise ArchiveError(f"{self._folder / name}: {error.strerror}") from error

    def _put(self, name: str, file: Path) -> None:
        target = self._folder / name
        self._make_folder(target.parent)
        # Two servers may write the same file.
        descriptor, name = tempfile.mkstemp(".tmp", f".{target.name}.", target.parent)
        beside = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as out, file.open("rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)
                out.flush()
                os.fsync(out.fileno())
            beside.rename(target)
            _sync(target.parent)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise

    def _make_folder(self, folder: Path) -> None:
        """Make the folders down to it, durably."""
        missing = []
        while folder != self._folder and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
            _sync(each.parent)

    async def get(self, name: str) -> bytes | None:
        """See `Archive`."""
        try:
            return await asyncio.to_thread((self._folder / name).read_bytes)
        except FileNotFoundError:
            if self._folder.is_dir():
                return None
            raise ArchiveError(f"{self._folder} is not there") from None
        except OSError as error:
            raise ArchiveError(f"{self._folder / name}: {error.strerror}") from error


class S3Archive:
    """A bucket, or what is below a prefix in it."""

    def __init__(self, store: S3Store, url: str) -> None:
        self._store = store
        self._url = url

    async def put(self, name: str, file: Path) -> None:
        """See `Archive`."""
        import obstore

        await self._tried(name, obstore.put_async(self._store, name, file), PUT_LIMIT_S)

    async def get(self, name: str) -> bytes | None:
        """See `Archive`."""
        try:
            return await self._tried(name, self._get(name), GET_LIMIT_S)
        except FileNotFoundError:
            return None

    async def _get(self, name: str) -> bytes:
        import obstore

        return bytes(await (await obstore.get_async(self._store, name)).bytes_async())

    async def _tried(self, name: str, call: Coroutine[Any, Any, T], limit_s: float) -> T:
        from obstore.exceptions import BaseError

        try:
            async with asyncio.timeout(limit_s):
                return await call
        except TimeoutError:
            raise ArchiveError(f"{self._url}/{name}: no answer in {limit_s:.0f} s") from None
        except FileNotFoundError:
            raise
        except (BaseError, OSError, ValueError) as error:
            raise ArchiveError(f"{self._url}/{name}: {_line(error)}") from error


def open_archive(settings: Settings) -> Archive | None:
    """The target that the settings name; nothing is asked of it yet. Raises SettingsError."""
    if settings.archive_url is None:
        return None
    url = urlsplit(settings.archive_url)
    if url.scheme == "file":
        return FolderArchive(Path(unquote(url.path)))
    from obstore.store import S3Store

    config: S3Config = {"region": _REGION}
    if settings.archive_s3_credentials_file is not None:
        config = _credentials("archive_s3_credentials_file", settings.archive_s3_credentials_file)
    if settings.archive_s3_endpoint is not None:
        config["endpoint"] = settings.archive_s3_endpoint
    store = S3Store(
        url.hostname, prefix=url.path.strip("/") or None, config=config,
        client_options={"allow_http": True, "timeout": "60s", "connect_timeout": "5s"},
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=15)})
    return S3Archive(store, settings.archive_url)


def _credentials(key: str, file: Path) -> S3Config:
    """What the file says, in the form of AWS' own: `[default]`, then `name = value`."""
    def refused(reason: str) -> SettingsError:
        return SettingsError(f"{key} = \"{file}\": {reason}")

    parser = configparser.ConfigParser(interpolation=None)
    try:
        text = file.read_text(encoding="utf-8")
        mode = file.stat().st_mode
        parser.read_string(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise refused(f"cannot be read ({reason})") from None
    except configparser.Error:
        # Its text may show a line of the file.
        raise refused("is no file of credentials: write [default] and below it name = value"
                      ) from None
    if stat.S_IMODE(mode) & 0o077 and not is_credential(file):
        raise refused(f"others may read it: chmod 600 {file}")
    found = dict(parser["default"]) if parser.has_section("default") else {}
    if not {"aws_access_key_id", "aws_secret_access_key"} <= found.keys() <= set(_KEYS):
        raise refused("[default] has aws_access_key_id and aws_secret_access_key and, where needed,"
                      " aws_session_token and region")
    config: S3Config = {"region": found.get("region", _REGION),
                        "access_key_id": found["aws_access_key_id"],
                        "secret_access_key": found["aws_secret_access_key"]}
    if "aws_session_token" in found:
        config["session_token"] = found["aws_session_token"]
    return config


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(error: BaseException) -> str:
    """What obstore says, without its own insides and the pages of the store."""
    return " ".join(str(error).partition("Debug source:")[0].split())[:300]
