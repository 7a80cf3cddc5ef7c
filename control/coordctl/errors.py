"""What an operator is told when something can't be done."""

from __future__ import annotations


class CoordctlError(Exception):
    """One sentence that names the thing, its value and what is wrong.

    `mend` is the command to type next (or what else to do); `details` are lines that show more,
    such as the end of a log. Neither may hold a secret.
    """

    def __init__(self, message: str, *, mend: str = "", details: str = "") -> None:
        super().__init__(message)
        self.mend = mend
        self.details = details
