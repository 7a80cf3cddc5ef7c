"""Tells who started the server that it serves: systemd's protocol (sd_notify(3), `Type=notify`).

Without `$NOTIFY_SOCKET` nobody asks, and nothing is told.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger("coordd")


def notify(state: str) -> None:
    """Send a state such as `READY=1`. One that can't be told is logged: serving goes on."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            sock.sendall(state.encode())
    except OSError as error:
        log.warning("%s could not be told to $NOTIFY_SOCKET: %s", state, error.strerror)
