"""A site's secrets: made once on the controller, kept encrypted, handed to Ansible as they are.

    site/secrets.yml   an ansible-vault file of all secrets that machines need
    site/ca.yml        the key of the site's own certificate authority, which no machine needs
    the key of both    a file of mode 0600 in the operator's configuration, outside of the site

Ansible gets the files' names and the key's file name: no secret is ever in an argv, an
environment or a rendered file.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from coordctl import folders
from coordctl.durable import sync_folder, write_file
from coordctl.errors import CoordctlError

SECRETS_FILE: Final = "secrets.yml"
CA_FILE: Final = "ca.yml"


def key_file(site_id: str) -> Path:
    """Where the key of a site's secrets is."""
    return folders.config() / "keys" / f"{site_id}.key"


class Vault:
    """The encrypted files of the site in `folder`, whose id is `site_id`."""

    def __init__(self, folder: Path, site_id: str) -> None:
        self._folder = folder
        self.key = key_file(site_id)

    def read(self, name: str) -> dict[str, str]:
        """What a file holds, {} where there is none. Raises CoordctlError."""
        file = self._folder / name
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return {}
        from ansible.errors import AnsibleError

        try:
            plain = self._lib(make=False).decrypt(data)
            fields: Any = yaml.safe_load(plain)
        except (AnsibleError, yaml.YAMLError):
            raise CoordctlError(f"{file} can't be decrypted with the key {self.key}",
                                mend=f"put the key of this site back: {self.key}") from None
        return {str(name): str(value) for name, value in fields.items()}

    def write(self, name: str, fields: Mapping[str, str]) -> None:
        """Encrypt `fields` into a file; unchanged where it holds them already."""
        if self.read(name) == dict(fields):
            return
        plain = yaml.safe_dump(dict(fields), sort_keys=True)
        data: bytes = self._lib(make=True).encrypt(plain)
        write_file(self._folder / name, data.decode("ascii"), mode=0o600)

    def _lib(self, *, make: bool) -> Any:
        from ansible.parsing.vault import VaultLib, VaultSecret

        return VaultLib([("default", VaultSecret(self._key(make=make)))])

    def _key(self, *, make: bool) -> bytes:
        if not self.key.exists():
            if not make or (self._folder / SECRETS_FILE).exists():
                raise CoordctlError(f"the key of this site's secrets is not there: {self.key}",
                                    mend=f"copy it from where the site was made to {self.key}")
            self.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(self.key, f"{secrets.token_urlsafe(48)}\n", mode=0o600)
            sync_folder(self.key.parent.parent)
        try:
            mode = self.key.stat().st_mode
            text = self.key.read_bytes().strip()
        except OSError as error:
            raise CoordctlError(f"{self.key} can't be read: {error.strerror}",
                                mend=f"ls -l {self.key}") from None
        if mode & 0o077:
            raise CoordctlError(f"{self.key} can be read by others", mend=f"chmod 600 {self.key}")
        if not text:
            raise CoordctlError(f"{self.key} is empty", mend="put the key of this site back")
        return text
