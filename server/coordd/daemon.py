"""The parts of one server, put together: store, rules, API."""

from __future__ import annotations

from collections.abc import Iterable

from coordd.api.admin import Admin
from coordd.api.audit import Audit
from coordd.api.lists import Lists
from coordd.api.messages import Messages
from coordd.api.registry import Registry
from coordd.api.system import Readiness, System
from coordd.api.work import WorkCalls
from coordd.auth import Auth
from coordd.engines import open_push
from coordd.http.application import Application
from coordd.hub import Hub
from coordd.mailbox import Mailbox
from coordd.metrics import Exporter, Metrics
from coordd.service import Sending
from coordd.settings import Settings
from coordd.store import Store
from coordd.work.opening import Work


class Daemon:
    """One server without its socket. Raises SettingsError for a secret's file that will not do."""

    def __init__(self, settings: Settings, store: Store, server: str) -> None:
        self.store = store
        self.hub = Hub()
        self._push = open_push(settings, store, self.hub, server)
        self.auth = Auth(settings, store)
        self.work = Work(settings, store, server)
        metrics = Metrics()
        mailbox = Mailbox(store, self.hub)
        self._system = system = System(Readiness(store))
        routes = (
            *Messages(self.auth, Sending(store, metrics), mailbox).routes(),
            *Lists(self.auth, store, mailbox).routes(),
            *Registry(self.auth, store).routes(),
            *Audit(self.auth, store, mailbox).routes(),
            *system.routes(),
            *Admin(self.auth, store).routes(),
            *WorkCalls(self.auth, self.work, settings).routes())
        self.application = Application(routes, metrics)
        system.all_routes = routes
        system.exporter = Exporter(metrics, (*routes, self.application.router.unmatched),
                                   self._gauges, self._counters)

    def _gauges(self) -> Iterable[tuple[str, str, float]]:
        yield "coordd_ready", "Whether a message could be stored just now.", self._system.is_ready
        yield "coordd_streams", "Event streams that are open.", self.hub.streams
        yield "coordd_inbox_waiters", "Long-polls and streams that wait.", self.hub.subscriptions
        waiting = getattr(self.store, "waiting", None)
        if waiting is not None:
            yield "coordd_messages_waiting", "Messages that wait for their commit.", waiting
        if self._push is not None:
            yield "coordd_push_connected", "Whether pushes come.", self._push.connected
        for store in self._stores():
            yield from getattr(store, "gauges", tuple)()
        yield from self.work.gauges()

    def _counters(self) -> Iterable[tuple[str, str, float]]:
        if self._push is not None:
            yield "coordd_pushes_heard", "Pushes of other servers.", self._push.heard
        for store in self._stores():
            yield from getattr(store, "counters", tuple)()
        yield from self.work.counters()

    def _stores(self) -> Iterable[object]:
        """The store, and the one behind it."""
        yield self.store
        inner = getattr(self.store, "inner", None)
        if inner is not None:
            yield inner

    async def open(self) -> None:
        """Open the store and what reads from it. Raises as `Store.open` does."""
        await self.store.open()
        self.store.on_commit(self.hub.notify)
        if self._push is not None:
            await self._push.open()
        await self.auth.open()
        await self.work.open()

    async def close(self) -> None:
        """Let go of the store."""
        self.hub.close()
        await self.work.close()
        await self.auth.close()
        if self._push is not None:
            await self._push.close()
        await self.store.close()
