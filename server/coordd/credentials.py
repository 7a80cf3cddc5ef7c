"""Files of secrets and certificates that the settings name: read, or refused in one line."""

from __future__ import annotations

import ssl
from pathlib import Path

from coordd.settings import SettingsError


def read_password(key: str, file: Path) -> str:
    """The password in `file`, which the setting `key` names. Raises SettingsError."""
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise SettingsError(f"{key} = \"{file}\": cannot be read ({reason})") from None
    if not password:
        raise SettingsError(f"{key} = \"{file}\": holds no password")
    return password


def check_certificates(key: str, file: Path) -> None:
    """Else a wrong file would look like a server that is away. Raises SettingsError."""
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"{key} = \"{file}\": holds no certificates ({reason})") from None
