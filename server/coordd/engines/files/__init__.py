"""The files engine: append-only segments that a person can read with `less`."""

from coordd.engines.files.store import FilesOptions, FilesStore

__all__ = ["FilesOptions", "FilesStore"]
