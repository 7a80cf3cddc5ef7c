"""A site: the folder of one installation, and the files that coordctl keeps in it.

They are:
    site.yml      name, level, host, port: the operator's
    coordd.toml   the server's settings, written from site.yml at every start
    admin.token   the operator's token, mode 0600
    data/         the messages
    coordd.log    what the server says; coordctl.log: what coordctl did
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coordctl.durable import sync_folder, write_file
from coordctl.errors import CoordctlError
from coordctl.output import note

SITE_FILE: Final = "site.yml"
LOCK_WAIT_S: Final = 120.0

_OWN: Final = re.compile(r"\.lock|\.site\.yml\.tmp")


class SiteFile(BaseModel):
    """What site.yml says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$")]
    level: Literal["individual"] = "individual"
    # No token is asked for at this level: who reaches the server may read and write all of it.
    host: Annotated[str, Field(pattern=r"^(127(\.[0-9]{1,3}){3}|::1|localhost)$")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, strict=True)] = 8000


class Site:
    """A folder that holds a site.yml; `folder` is absolute. Raises CoordctlError for a bad one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.file = _read(self.folder / SITE_FILE)

    @property
    def data(self) -> Path:
        """The folder of the messages."""
        return self.folder / "data"

    @property
    def settings(self) -> Path:
        """The server's settings file."""
        return self.folder / "coordd.toml"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "coordd.log"

    @property
    def url(self) -> str:
        """The address at which this machine reaches the server."""
        host = f"[{self.file.host}]" if ":" in self.file.host else self.file.host
        return f"http://{host}:{self.file.port}"

    def token(self) -> str:
        """The operator's token. Raises CoordctlError where there is none yet."""
        try:
            return (self.folder / "admin.token").read_text(encoding="utf-8").strip()
        except OSError as error:
            raise CoordctlError(f"{self.folder / 'admin.token'}: {error.strerror}",
                                mend="coordctl up") from None

    def prepare(self) -> None:
        """Make what a start needs and is not there yet; write the server's settings anew."""
        token = self.folder / "admin.token"
        if not token.exists():
            write_file(token, f"coord_admin_{secrets.token_urlsafe(32)}\n", mode=0o600)
        self.data.mkdir(mode=0o700, exist_ok=True)
        settings = {"host": self.file.host, "port": self.file.port, "data": str(self.data),
                    "engine": "files", "auth": "open", "admin_token_file": str(token)}
        # A JSON text is a TOML text, but for DEL, which JSON leaves as it is.
        lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
                 for key, value in settings.items())
        write_file(self.settings, "# Written by coordctl from site.yml at every start.\n"
                   + "\n".join(lines) + "\n")
        sync_folder(self.folder)

    def set_port(self, port: int) -> None:
        """Write another port into site.yml; the rest of the file stays as it is."""
        file = self.folder / SITE_FILE
        text = file.read_text(encoding="utf-8")
        changed, count = re.subn(r"(?m)^port\s*:.*$", f"port: {port}", text)
        write_file(file, changed if count else f"{text.rstrip()}\nport: {port}\n")
        self.file = _read(file)


def locate(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The site's folder, there or not: --site, the current folder, $COORDCTL_SITE, the default."""
    if given is not None:
        return given.absolute()
    here = Path.cwd()
    if (here / SITE_FILE).exists():
        return here
    if named := environ.get("COORDCTL_SITE"):
        return Path(named).expanduser().absolute()
    base = environ.get("XDG_DATA_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return home / "coordctl" / "default"


def existing(folder: Path) -> Site:
    """The site in `folder`. Raises CoordctlError where there is none."""
    if not (folder / SITE_FILE).exists():
        raise CoordctlError(f"there is no site at {folder}", mend="coordctl up")
    return Site(folder)


def make(folder: Path, port: int | None) -> Site:
    """A new site at level individual in `folder`, which must hold no other files."""
    strangers = [entry.name for entry in folder.iterdir() if not _OWN.fullmatch(entry.name)]
    if strangers:
        raise CoordctlError(f"{folder} holds no site.yml but other files ({strangers[0]} …): "
                            "a site needs a folder of its own",
                            mend="coordctl up --site NEW_FOLDER")
    folder.chmod(0o700)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", folder.name).lstrip("._-")[:50] or "site"
    fields = {"name": name, "level": "individual", "host": "127.0.0.1", "port": port or 8000}
    write_file(folder / SITE_FILE, yaml.safe_dump(fields, sort_keys=False))
    sync_folder(folder.parent)
    return Site(folder)


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Be the only coordctl that changes the site. Waits for another one and says for whom."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
                if time.monotonic() > deadline:
                    raise CoordctlError(f"the site {folder} is busy: {holder}",
                                        mend="coordctl status") from None
                if not told:
                    note(f"Waiting for {holder or 'another coordctl'} on this site …")
                    told = True
                time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        os.pwrite(descriptor, f"`coordctl {command}` (pid {os.getpid()}, since {since})\n".encode(),
                  0)
        yield
    finally:
        os.close(descriptor)


def _read(file: Path) -> SiteFile:
    mend = f"edit {file}"
    try:
        fields: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CoordctlError(f"{file} can't be read: {error.strerror}", mend=f"ls -l {file}"
                            ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CoordctlError(f"{file} is no YAML: {' '.join(str(error).split())}", mend=mend
                            ) from None
    if not isinstance(fields, dict):
        raise CoordctlError(f"{file} holds no keys such as 'name: home'", mend=mend)
    try:
        return SiteFile.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            what = f"{key} is no key of a site: {', '.join(SiteFile.model_fields)} are"
        elif first["type"] == "missing":
            what = f"{key} is missing"
        else:
            what = f"{key} is {first['input']!r}: {_wanted(key)}"
        raise CoordctlError(f"{file}: {what}", mend=mend) from None


def _wanted(key: str) -> str:
    return {"name": "1-50 of letters, digits, '.', '_', '-' will do",
            "level": "'individual' will do",
            "host": "an address of this machine alone, such as 127.0.0.1, will do",
            "port": "a whole number from 1 to 65535 will do"}[key]
