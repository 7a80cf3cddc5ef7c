"""The engines behind the store port, by the name that the settings give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from coordd.settings import Settings
from coordd.store import Store

Fatal = Callable[[BaseException], None]
"""Called once when a store can no longer keep its promises: the process must end at once."""


def _files(settings: Settings, on_fatal: Fatal) -> Store:
    from coordd.engines.files import FilesOptions, FilesStore

    return FilesStore(settings.data, FilesOptions(
        segment_bytes=settings.segment_bytes, pending_max=settings.pending_max,
        pending_bytes_max=settings.pending_bytes_max, on_fatal=on_fatal))


ENGINES: Final[dict[str, Callable[[Settings, Fatal], Store]]] = {"files": _files}
"""An engine's module is imported only where the settings name it."""


def open_engine(settings: Settings, on_fatal: Fatal) -> Store:
    """The store that the settings name, behind its cache, not opened yet.

    Raises SettingsError for a file of the cache's that will not do.
    """
    store = ENGINES[settings.engine](settings, on_fatal)
    if settings.cache == "none":
        return store
    from coordd.cache import CachedStore
    from coordd.cache.address import connections
    from coordd.cache.link import Link

    return CachedStore(store, Link(connections(settings)))
