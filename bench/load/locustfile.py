"""Locust against level individual: `locust -f bench/load/locustfile.py`, no token.

One send to three reads of an inbox. Another address: `--host`.
"""

from locust import HttpUser, between, task


class Agent(HttpUser):
    """An agent that sends to another and looks into its inbox."""

    host = "http://localhost:8000"
    wait_time = between(0.01, 0.1)

    @task(1)
    def send(self) -> None:
        """One message."""
        self.client.post("/api/v1/messages", json={
            "from_agent": "code", "to_agent": "chat",
            "subject": "Build finished", "body": "All tests are green on the main branch.",
        })

    @task(3)
    def read(self) -> None:
        """The newest hundred."""
        self.client.get("/api/v1/inbox/code")
