"""A task from its row to its end: what the pool of this process and a Celery worker both run."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Final

from coordd.settings import Settings
from coordd.work import mail, webhook
from coordd.work.allow import Allowlist
from coordd.work.model import ERROR_LENGTH_MAX, REST_MAX_S, Hook, Occurrence, TaskId, wait_s
from coordd.work.store import WorkStore
from coordd.work.webhook import CallError

RESTING_DELAY_S: Final = 1.0
BUSY_S: Final = 5.0
"""How much longer than its call may take a task is left to who has begun it."""
BUSY_LOOK_S: Final = 0.5
log = logging.getLogger("coordd.work")


class Calls:
    """Runs tasks. Raises SettingsError for a file that will not do."""

    def __init__(self, settings: Settings, store: WorkStore) -> None:
        self._store = store
        self._tries = settings.hook_tries
        self._retry_s = settings.hook_retry_s
        self._timeout_s = settings.hook_timeout_s
        self._allow = Allowlist(settings.webhook_allow)
        self._mailer = mail.mailer_of(settings)

    async def run(self, id_: TaskId) -> bool:
        """Do the task unless it is done already; whether it has succeeded, so that `done` may be
        told of it. Every other end is in the store already. Raises StoreError.
        """
        task = await self._store.begin(id_, self._timeout_s + BUSY_S)
        while task is not None and task.busy:
            # It came twice; or whoever had begun it has died, and it is ours in a moment.
            await asyncio.sleep(BUSY_LOOK_S)
            task = await self._store.begin(id_, self._timeout_s + BUSY_S)
        if task is None:
            return False
        hook = task.hook
        if task.tries >= self._tries:
            await self._store.failed(id_, "no worker has finished it", seen=hook.failures,
                                     wait_s=None, rest_s=0)
            return False
        if hook.rests:
            await self._store.put_back([id_], RESTING_DELAY_S)
            return False
        try:
            await self._call(hook, task.occurrence)
        except Exception as error:  # noqa: BLE001 - whatever it is, the task is tried again
            tries = task.tries + 1
            dead = tries >= self._tries
            text = _told(error)
            log.log(logging.WARNING if dead else logging.INFO, "hook %s: try %d of %d failed%s: %s",
                    hook.id, tries, self._tries, ", the event is a dead letter" if dead else "",
                    text)
            await self._store.failed(
                id_, text, seen=hook.failures,
                wait_s=None if dead else wait_s(tries, self._retry_s),
                rest_s=wait_s(hook.failures + 1, self._retry_s, REST_MAX_S))
            return False
        return True

    async def _call(self, hook: Hook, found: Occurrence) -> None:
        if hook.kind == "email":
            await asyncio.to_thread(mail.send, self._mailer, hook, found, self._timeout_s)
        elif hook.kind == "slack":
            await webhook.post_slack(hook, found, self._allow, self._timeout_s)
        else:
            await webhook.post_event(hook, found, self._allow, self._timeout_s)


def _told(error: Exception) -> str:
    """What the row and the log tell. Other errors' texts may hold a URL."""
    if isinstance(error, CallError):
        return str(error)[:ERROR_LENGTH_MAX]
    log.error("a defect: a hook's call raised %s\n%s", type(error).__name__,
              "".join(traceback.format_tb(error.__traceback__)))
    return f"a defect of coordd: {type(error).__name__}"
