"""Which server to talk to and with which token: what is told, the environment, a file.

The file is `$XDG_CONFIG_HOME/coord/config.toml` (`~/.config/coord/config.toml`):

    url = "https://messages.example.org"
    token = "coord_…"
    ca = "/etc/coord/ca.pem"
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from coord.errors import BadCall

if TYPE_CHECKING:
    from collections.abc import Mapping

URL_DEFAULT = "http://127.0.0.1:8000"
KEYS = ("url", "token", "ca")


class Server(NamedTuple):
    """A server's address and the token for it. `warnings` are lines for the person.

    `ca` is a file with the authority that its certificate must be signed by, None: the system's.
    """

    url: str
    token: str | None
    warnings: tuple[str, ...] = ()
    ca: str | None = None

    def __repr__(self) -> str:
        return f"Server(url={self.url!r}, token={'…' if self.token else None}, ca={self.ca!r})"


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the config file is looked for."""
    folder = environ.get("XDG_CONFIG_HOME", "")
    base = Path(folder) if folder.startswith("/") else Path.home() / ".config"
    return base / "coord" / "config.toml"


def find_server(url: str | None = None, token: str | None = None,
                environ: Mapping[str, str] = os.environ, *, ca: str | None = None) -> Server:
    """The server to use: what is told goes before $COORD_URL, $COORD_TOKEN and $COORD_CA, these
    before the file, and that before the default.

    The file's token is for the file's server only, so that another address never gets to see it;
    and so is its authority.
    Raises BadCall for a file that can't be used.
    """
    path = config_path(environ)
    url = url or environ.get("COORD_URL") or None
    token = token or environ.get("COORD_TOKEN") or None
    ca = ca or environ.get("COORD_CA") or None
    warnings: tuple[str, ...] = ()
    if url is None or token is None or (ca is None and url.startswith("https:")):
        told, warnings = _read(path)
        home = told.get("url", URL_DEFAULT)
        url = url or home
        at_home = url.rstrip("/") == home.rstrip("/")
        if ca is None and at_home:
            ca = told.get("ca")
        if token is None and "token" in told:
            if at_home:
                token = told["token"]
            else:
                warnings = (*warnings, (f"The token in {path} is for {home} and is not sent to "
                                       f"{url}; put one for it in $COORD_TOKEN."))
    if token is not None and not (token.isascii() and token.isprintable()):
        raise BadCall("The token has characters that no token has; copy it again.")
    if token is not None and _is_readable_on_the_way(url):
        warnings = (*warnings, f"The token goes to {url} unencrypted: use https.")
    return Server(url, token, warnings, ca)


def _is_readable_on_the_way(url: str) -> bool:
    host = url.removeprefix("http://")
    return host != url and not host.startswith(("127.", "localhost", "[::1]"))


def _read(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    try:
        text = path.read_bytes()
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return {}, ()
    except OSError as error:
        raise BadCall(f"{path} can't be read ({error.strerror}): mend its rights or remove it."
                      ) from None
    import tomllib

    try:
        told: dict[str, Any] = tomllib.loads(text.decode())
    except ValueError as error:
        # The parser names the place; the line itself may hold the token.
        raise BadCall(f"{path} is not TOML: {error}") from None
    for key, value in told.items():
        if key not in KEYS:
            raise BadCall(f"{path}: there is no key {key!r}; it takes url, token and ca.")
        if not isinstance(value, str) or not value:
            raise BadCall(f"{path}: {key} must be a text in quotes.")
    if "token" in told and mode & (stat.S_IRGRP | stat.S_IROTH):
        return told, (f"Others can read the token in {path}: chmod 600 {path}",)
    return told, ()
