"""A site: the folder of one installation, and the files that coordctl keeps in it.

They are:
    site.yml      name, level, machines, choices: the operator's
    id            names the key of the site's secrets, which is kept outside of the folder
    secrets.yml   the secrets, encrypted; ca.yml the authority's, ca.crt its certificate
    inventory/    what Ansible is given, rendered from all of this
    state/        what stands, a file a generation
    runs/         what each run said; coordctl.log: a line of each
    known_hosts   the machines' SSH keys, from when they were first seen
For a site on this machine also:
    data/         the messages
    coordd.toml   the server's settings; coordd.log: what it says
    admin.token   the operator's token, mode 0600
"""

from __future__ import annotations

import fcntl
import getpass
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

from coordctl import folders
from coordctl.durable import sync_folder, write_file
from coordctl.errors import CoordctlError
from coordctl.output import note
from coordctl.profile import Profile
from coordctl.site_file import (
    Machine,
    new_text,
    profile_of,
    read_site_file,
    rewrite,
    set_machines,
    set_scalar,
)
from coordctl.state import State
from coordctl.topology import LOCAL, Topology, place
from coordctl.vault import Vault

SITE_FILE: Final = "site.yml"
LOCK_WAIT_S: Final = 120.0

_OWN: Final = re.compile(r"\.lock|\.{1,2}site\.yml(\.new)?(\.tmp)?|id|\.id\.tmp")


class Site:
    """A folder that holds a site.yml; `folder` is absolute. Raises CoordctlError for a bad one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.file = read_site_file(self.folder / SITE_FILE)
        self.state = State(self.folder)

    def profile(self, level: str | None = None) -> Profile:
        """The profile of the site's level, or of another one, with the site's choices."""
        return profile_of(self.file, self.folder / SITE_FILE, level)

    def topology(self, level: str | None = None) -> Topology:
        """Which machine bears what. Raises CoordctlError where machines are missing."""
        return place(self.profile(level), list(self.file.machines), self.state.seats,
                     compact=self.file.compact, mend=f"edit {self.folder / SITE_FILE}")

    @cached_property
    def is_local(self) -> bool:
        """Whether the site stands on this computer and no other."""
        return self.profile().local

    @property
    def id(self) -> str:
        """What names the site's key; made with the site, or on first use."""
        file = self.folder / "id"
        if not file.exists():
            write_file(file, f"{self.file.name}-{secrets.token_hex(4)}\n")
        return file.read_text(encoding="utf-8").strip()

    @cached_property
    def vault(self) -> Vault:
        """The site's secrets."""
        return Vault(self.folder, self.id)

    @property
    def data(self) -> Path:
        """The folder of the messages of a site on this machine."""
        return self.folder / "data"

    @property
    def settings(self) -> Path:
        """The server's settings file on this machine."""
        return self.folder / "coordd.toml"

    @property
    def log(self) -> Path:
        """The server's log on this machine."""
        return self.folder / "coordd.log"

    @property
    def known_hosts(self) -> Path:
        """The machines' SSH keys."""
        return self.folder / "known_hosts"

    @property
    def authority(self) -> Path | None:
        """The certificate to trust where the site has an authority of its own."""
        file = self.folder / "ca.crt"
        return file if file.exists() and self.file.tls is None else None

    @property
    def url(self) -> str:
        """The address at which the server is reached."""
        return self.url_of(self.topology())

    def url_of(self, topology: Topology) -> str:
        """The address at which a server of that topology is reached."""
        if balancers := topology.bearers("nginx"):
            return f"https://{_bracketed(self.file.domain or self.address(balancers[0]))}"
        return f"http://{_bracketed(self.file.host)}:{self.file.port}"

    def address(self, machine: str) -> str:
        """The address of a machine of the site."""
        return "127.0.0.1" if machine == LOCAL else self.file.machines[machine].address

    def token(self) -> str:
        """The operator's token. Raises CoordctlError where there is none yet."""
        try:
            return (self.folder / "admin.token").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CoordctlError(f"{self.folder / 'admin.token'}: {error.strerror}",
                                mend="coordctl up") from None
        token = self.vault.read("secrets.yml").get("vault_admin_token")
        if token is None:
            raise CoordctlError(f"the site at {self.folder} has no operator's token yet",
                                mend="coordctl up")
        return token

    def set_port(self, port: int) -> None:
        """Write another port into site.yml; the rest of the file stays as it is."""
        self.change(lambda text: set_scalar(text, "port", port))

    def set_machines(self, machines: dict[str, Machine]) -> None:
        """Write other machines into site.yml."""
        self.change(lambda text: set_machines(text, machines))

    def change(self, change: Callable[[str], str]) -> None:
        """Write another text of site.yml. Raises CoordctlError, OSError where it can't be."""
        file = self.folder / SITE_FILE
        rewrite(file, change(file.read_text(encoding="utf-8")))
        self.file = read_site_file(file)
        self.__dict__.pop("is_local", None)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def locate(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The site's folder, there or not: --site, the current folder, $COORDCTL_SITE, the default."""
    if given is not None:
        return given.absolute()
    here = Path.cwd()
    if (here / SITE_FILE).exists():
        return here
    if named := environ.get("COORDCTL_SITE"):
        return Path(named).expanduser().absolute()
    return folders.data(environ) / "default"


def existing(folder: Path) -> Site:
    """The site in `folder`. Raises CoordctlError where there is none."""
    if not (folder / SITE_FILE).exists():
        raise CoordctlError(f"there is no site at {folder}", mend="coordctl up")
    return Site(folder)


def make(folder: Path, *, level: str = "individual", name: str | None = None,
         machines: dict[str, Machine] | None = None, port: int | None = None,
         may_hold: str = r"(?!)") -> Site:
    """A new site in `folder`, which must hold no other files than those named `may_hold`."""
    strangers = [entry.name for entry in folder.iterdir()
                 if not _OWN.fullmatch(entry.name) and not re.fullmatch(may_hold, entry.name)]
    if strangers:
        raise CoordctlError(f"{folder} holds no site.yml but other files ({strangers[0]} …): "
                            "a site needs a folder of its own",
                            mend="coordctl up --site NEW_FOLDER")
    folder.chmod(0o700)
    name = name or re.sub(r"[^A-Za-z0-9._-]", "-", folder.name).lstrip("._-")[:50] or "site"
    rewrite(folder / SITE_FILE, new_text(name, level, machines or {}, port))
    sync_folder(folder.parent)
    return Site(folder)


@contextmanager
def locked(folder: Path, command: str) -> Iterator[int]:
    """Be the only coordctl that changes the site. Waits for another one and says for whom.

    Yields the lock's descriptor: a child that inherits it holds the site too, so that what a
    killed coordctl left running keeps others out until it ends.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _wait(descriptor, folder)
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        os.pwrite(descriptor, f"`coordctl {command}` ({_user()}@{socket.gethostname()}, "
                              f"pid {os.getpid()}, since {since})\n".encode(), 0)
        yield descriptor
        # Who takes the lock next has it a moment before its name stands here.
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _wait(descriptor: int, folder: Path) -> None:
    """Take the lock; for a holder whose name two looks have seen, say so once."""
    deadline = time.monotonic() + LOCK_WAIT_S
    holder, told = "", False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            before, holder = holder, os.pread(descriptor, 400, 0).decode("utf-8", "replace").strip()
            if time.monotonic() > deadline:
                raise CoordctlError(f"the site {folder} is busy: {holder or 'another coordctl'}",
                                    mend="coordctl status") from None
            if holder == before != "" and not told:
                note(f"Waiting for {holder} on this site …")
                told = True
            time.sleep(0.1)
        else:
            os.ftruncate(descriptor, 0)
            return


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
