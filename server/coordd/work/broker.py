"""RabbitMQ as the queue: Celery's configuration, for those who publish and for workers.

A quorum queue, so that what is confirmed is on a majority of the nodes' disks. A message names a
task and holds nothing else; what is to be done stands in the store.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

from celery import Celery
from kombu import Connection, Exchange, Producer, Queue

from coordd.credentials import check_certificates, read_password
from coordd.settings import Settings
from coordd.work.dispatcher import QueueError
from coordd.work.model import TaskId

QUEUE: Final = "coordd.work"
CALL: Final = "coordd.work.call"
FOLD: Final = "coordd.work.fold"
CONNECT_S: Final = 4.0
CONFIRM_S: Final = 5.0
FOLD_EXPIRES_S: Final = 10
WORKERS: Final = 8
"""Calls under way in one worker process."""

T = TypeVar("T")


def queue() -> Queue:
    """Where tasks are put."""
    return Queue(QUEUE, Exchange(QUEUE, type="direct", durable=True), routing_key=QUEUE,
                 durable=True, queue_arguments={"x-queue-type": "quorum"})


def make_app(settings: Settings) -> Celery:
    """The app, without tasks. Raises SettingsError for a file that will not do."""
    app = Celery("coordd.work", set_as_current=False)
    app.conf.update(
        broker_url=_url(settings), broker_use_ssl=_tls(settings),
        broker_connection_timeout=CONNECT_S, broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"confirm_publish": True},
        task_queues=[queue()], task_default_queue=QUEUE, task_default_exchange=QUEUE,
        task_default_routing_key=QUEUE, task_create_missing_queues=False,
        task_acks_late=True, task_reject_on_worker_lost=True, task_ignore_result=True,
        task_serializer="json", accept_content=["json"], result_backend=None,
        worker_prefetch_multiplier=1, worker_pool="threads", worker_concurrency=WORKERS,
        worker_enable_remote_control=False, worker_send_task_events=False,
        worker_hijack_root_logger=False, worker_cancel_long_running_tasks_on_connection_loss=False)
    return app


def _url(settings: Settings) -> str:
    assert settings.queue_url is not None  # noqa: S101 - the settings were checked
    url = urlsplit(settings.queue_url)
    user = quote(settings.queue_user, safe="")
    if settings.queue_password_file is not None:
        password = read_password("queue_password_file", settings.queue_password_file)
        user += ":" + quote(password, safe="")
    port = url.port or (5671 if url.scheme == "amqps" else 5672)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{'pyamqp' if url.scheme == 'amqp' else 'amqps'}://{user}@{host}:{port}//"


def _tls(settings: Settings) -> dict[str, Any] | None:
    assert settings.queue_url is not None  # noqa: S101 - the settings were checked
    url = urlsplit(settings.queue_url)
    if url.scheme != "amqps":
        return None
    found: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": url.hostname}
    if settings.queue_ca_file is not None:
        check_certificates("queue_ca_file", settings.queue_ca_file)
        found["ca_certs"] = str(settings.queue_ca_file)
    return found


class RabbitQueue:
    """See `coordd.work.dispatcher.Queue`. One connection, in a thread of its own."""

    outside = True
    room = 500

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)
        url = urlsplit(settings.queue_url or "")
        self._place = f"RabbitMQ at {url.hostname}:{url.port or 5671}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="queue")
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        # A worker may take as long as a call, and as long again for what waits in its hands.
        self.lease_s = 60.0 + 2 * settings.hook_timeout_s

    async def open(self) -> None:
        """It is reached when there is something to do."""

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._hang_up)
        self._thread.shutdown(wait=False)

    async def put(self, tasks: Sequence[TaskId]) -> None:
        def publish(producer: Producer) -> None:
            for task in tasks:
                self._send(producer, CALL, list(task), task_id=".".join(task))

        await self._do(publish)

    async def put_fold(self) -> None:
        await self._do(lambda producer: self._send(producer, FOLD, [], expires=FOLD_EXPIRES_S))

    async def depth(self) -> int:
        def count(producer: Producer) -> int:
            return int(producer.channel.queue_declare(QUEUE, passive=True).message_count)

        return await self._do(count)

    def _send(self, producer: Producer, name: str, arguments: list[str], **options: Any) -> None:
        self._app.send_task(name, arguments, producer=producer, exchange=QUEUE, routing_key=QUEUE,
                            retry=False, confirm_timeout=CONFIRM_S, **options)

    async def _do(self, work: Callable[[Producer], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._tried, work)

    def _tried(self, work: Callable[[Producer], T]) -> T:
        """A connection that was kept may have ended meanwhile: once more, with a new one."""
        kept = self._producer is not None
        try:
            return work(self._reached())
        except Exception as error:
            self._hang_up()
            if kept and not isinstance(error.__cause__ or error, TimeoutError):
                return self._tried(work)
            raise QueueError(f"{self._place}: {type(error).__name__}: "
                             f"{' '.join(str(error).split())}") from error

    def _reached(self) -> Producer:
        if self._producer is None:
            self._connection = self._app.connection_for_write()
            self._connection.connect()
            channel = self._connection.channel()
            queue()(channel).declare()
            self._producer = Producer(channel)
        return self._producer

    def _hang_up(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with suppress(Exception):
                connection.collect()  # no farewell, which a server that hangs would not answer
