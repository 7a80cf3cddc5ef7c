"""Filters of this role."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable


def rabbitmq_hash(password: str, user: str) -> str:
    """The password as RabbitMQ keeps it (rabbit_password_hashing_sha256): base64 of a salt of 4
    bytes and the SHA-256 of salt and password. The salt follows from both, so that a repeat gives
    the same.
    """
    salt = hashlib.sha256(f"{user}\0{password}".encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Their names."""
        return {"rabbitmq_hash": rabbitmq_hash}
