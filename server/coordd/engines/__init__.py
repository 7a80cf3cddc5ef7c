"""The engines behind the store port, by the name that the settings give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from coordd.archive import open_archive
from coordd.hub import Hub
from coordd.push import Push, RedisPush
from coordd.settings import Settings
from coordd.store import Store

Fatal = Callable[[BaseException], None]
"""Called once when a store can no longer keep its promises: the process must end at once."""


def _files(settings: Settings, on_fatal: Fatal, server: str) -> Store:  # noqa: ARG001 - one form
    from coordd.engines.files import FilesOptions, FilesStore

    assert settings.data is not None
    return FilesStore(settings.data, FilesOptions(
        segment_bytes=settings.segment_bytes, pending_max=settings.pending_max,
        pending_bytes_max=settings.pending_bytes_max, on_fatal=on_fatal))


def _postgres(settings: Settings, on_fatal: Fatal, server: str) -> Store:  # noqa: ARG001 - one form
    from coordd.engines.postgres import PostgresOptions, PostgresStore
    from coordd.engines.postgres.address import parameters_of
    from coordd.engines.postgres.upkeep import Policy

    assert settings.postgres_url is not None
    notifies = settings.cache == "none" and settings.postgres_direct_url is not None
    return PostgresStore(PostgresOptions(
        parameters=parameters_of(settings, settings.postgres_url),
        replicas=tuple(parameters_of(settings, url) for url in settings.postgres_replica_urls),
        standby=(parameters_of(settings, settings.postgres_standby_url)
                 if settings.postgres_standby_url is not None else None),
        pool_size=settings.postgres_pool, wait_s=settings.postgres_wait_s,
        pending_max=settings.pending_max, pending_bytes_max=settings.pending_bytes_max,
        notice_of=server if notifies else None,
        policy=Policy(settings.retention_days, settings.events_months),
        archive=open_archive(settings), archive_find=settings.archive_find))


ENGINES: Final[dict[str, Callable[[Settings, Fatal, str], Store]]] = {
    "files": _files, "postgres": _postgres}
"""An engine's module is imported only where the settings name it."""


def open_engine(settings: Settings, on_fatal: Fatal, server: str) -> Store:
    """The store that the settings name, behind its cache, not opened yet. `server` is this
    process' name among those that share the store.

    Raises SettingsError for a file of secrets or certificates that will not do.
    """
    store = ENGINES[settings.engine](settings, on_fatal, server)
    if settings.cache == "none":
        return store
    from coordd.cache import CachedStore
    from coordd.cache.address import connections
    from coordd.cache.link import Link

    return CachedStore(store, Link(connections(settings)))


def open_push(settings: Settings, store: Store, hub: Hub, server: str) -> Push | None:
    """What tells the hub of other servers' commits; None where there are none."""
    if not store.shared:
        return None
    if settings.cache == "redis":
        from coordd.cache import CachedStore
        from coordd.cache.address import connections

        assert isinstance(store, CachedStore)
        channel = RedisPush(connections(settings), store.call, server,
                            lambda: store.generation)
        store.on_commit(channel.stored)
        return Push(hub, channel, server)
    if settings.postgres_direct_url is not None:
        from coordd.engines.postgres.address import parameters_of
        from coordd.engines.postgres.listen import PostgresPush

        source = PostgresPush(parameters_of(settings, settings.postgres_direct_url))
        return Push(hub, source, server)
    return None
