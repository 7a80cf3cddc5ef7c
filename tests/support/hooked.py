"""A coordd with an operator's client and hooks, for tests of the work behind sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import httpx

from .receiver import Receiver, await_
from .server import Server, start

TOKEN = "coord_admin_" + "w" * 32
QUICK: dict[str, object] = {"webhook_allow": ["127.0.0.0/8"], "hook_retry_s": 0.05,
                            "hook_timeout_s": 2}


class Hooked:
    """As a context manager the server is stopped and the client closed at the end."""

    def __init__(self, data: Path, **settings: object) -> None:
        data.parent.mkdir(parents=True, exist_ok=True)
        self.token = data.parent / f"{data.name}.token"
        self.token.write_text(TOKEN)
        self.token.chmod(0o600)
        self.data = data
        self.settings = {**QUICK, **settings}
        self.server: Server
        self.http: httpx.Client
        self.start()

    def start(self) -> None:
        self.server = start(self.data, admin_token_file=self.token, **self.settings)
        self.http = httpx.Client(base_url=f"{self.server.url}/api/v1", timeout=30,
                                 headers={"Authorization": f"Bearer {TOKEN}"})

    def kill(self) -> None:
        self.http.close()
        self.server.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.server.stop()

    def hook(self, target: str | Receiver, kind: str = "webhook", **choice: object
             ) -> dict[str, Any]:
        """A new one: `{id, secret}`."""
        url = target.url() if isinstance(target, Receiver) else target
        answer = self.http.post("/admin/hooks", json={"kind": kind, "target": url, **choice})
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def send(self, *subjects: str, to: str | list[str] = "chat", priority: str = "normal"
             ) -> list[str]:
        """The ids of messages, sent at once."""
        answer = self.http.post("/messages/batch", json=[
            {"from_agent": "code", "to_agent": to, "subject": subject, "body": "there",
             "priority": priority} for subject in subjects])
        assert answer.status_code == 200, answer.text
        return [receipt["id"] for receipt in answer.json()["receipts"]]

    def work(self) -> dict[str, Any]:
        told: dict[str, Any] = self.http.get("/admin/work").json()
        return told

    def dead(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = self.http.get("/admin/work/dead").json()["dead"]
        return told

    def await_idle(self, limit_s: float = 30.0) -> dict[str, Any]:
        """Wait until all is dispatched and no task waits."""
        def idle() -> dict[str, Any] | None:
            work = self.work()
            return work if not (work["lag"] or work["waiting"] or work["queued"]) else None

        found: dict[str, Any] = await_(idle, f"it does not come to rest: {self.work()}", limit_s)
        return found
