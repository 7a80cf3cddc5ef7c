"""The load scripts that people have, run for real against a coordd of their own.

k6 is no Python package and not in Debian: nothing here runs its script. What it says is compared
with what the others send, and that a server answers it as its checks ask is shown with the same
request from Python.
"""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from support import server

LOAD = Path(__file__).parents[2] / "bench" / "load"
READ_TASKS = ("import locustfile; print(locustfile.Agent.host, "
              "sorted(task.__name__ for task in locustfile.Agent.tasks))")
MESSAGE_KEYS = {"from_agent", "to_agent", "subject", "body"}


@pytest.fixture
def running(tmp_path):
    with server.start(tmp_path / "data") as started:
        yield started


def get(running, path):
    with urllib.request.urlopen(f"{running.url}{path}", timeout=30) as answer:
        return json.load(answer)


def send(running, message):
    request = urllib.request.Request(
        f"{running.url}/api/v1/messages", json.dumps(message).encode(),
        {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, json.load(answer)


@pytest.mark.timeout(300)
def test_locust_headless_has_no_failures(running):
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", LOAD / "locustfile.py", "--headless", "--users", "8",
         "--spawn-rate", "8", "--run-time", "5s", "--stop-timeout", "60", "--json",
         "--skip-log-setup", "--host", f"http://localhost:{running.port}"],
        capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = {(one["method"], one["name"]): one for one in json.loads(done.stdout)}
    assert set(found) == {("POST", "/api/v1/messages"), ("GET", "/api/v1/inbox/code")}
    assert [one["num_failures"] for one in found.values()] == [0, 0]
    sent = found["POST", "/api/v1/messages"]["num_requests"]
    assert sent > 0
    assert get(running, "/api/v1/stats")["messages"] == sent
    page = get(running, "/api/v1/inbox/chat?limit=1")
    assert page["last_seq"] == sent
    assert page["messages"][0]["from_agent"] == "code"


def test_locust_reads_three_times_as_often_as_it_sends():
    # A process of its own: locust replaces the standard library's sockets when it is imported.
    done = subprocess.run(
        [sys.executable, "-c", READ_TASKS],
        cwd=LOAD, capture_output=True, text=True, timeout=100)
    assert done.stdout.split(maxsplit=1) == [
        "http://localhost:8000", "['read', 'read', 'read', 'send']\n"], done.stderr


@pytest.mark.timeout(300)
def test_apache_bench_has_no_failures(running):
    assert shutil.which("ab"), (
        "ab isn't installed, and this test runs it for real: apt-get install apache2-utils")
    for number in range(120):
        send(running, {"from_agent": "chat", "to_agent": "code", "subject": f"Number {number}",
                       "body": "All tests are green on the main branch."})
    done = subprocess.run([LOAD / "ab.sh", f"http://localhost:{running.port}"],
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    figures = dict(re.findall(r"^([A-Z][\w -]+):\s+(\d+)", done.stdout, re.MULTILINE))
    assert figures["Complete requests"] == "10000", done.stdout
    assert figures["Failed requests"] == "0", done.stdout
    assert "Non-2xx responses" not in figures, done.stdout
    assert figures["Concurrency Level"] == "100"
    assert done.stderr.count("apr_") == 0


def test_apache_bench_without_an_address_asks_the_usual_one():
    command = (LOAD / "ab.sh").read_text(encoding="utf-8").splitlines()[-1]
    assert command == 'exec ab -n 10000 -c 100 "${1:-http://localhost:8000}/api/v1/inbox/code"'


def test_k6_says_what_the_others_do(running):
    script = (LOAD / "k6.js").read_text(encoding="utf-8")
    assert "vus: 100" in script
    assert '"http://localhost:8000"' in script
    assert "http.post(`${url}/api/v1/messages`" in script
    assert "r.status === 200" in script
    assert "r.timings.duration < 100" in script
    message = dict(re.findall(r'^  (\w+): "([^"]*)",$', script, re.MULTILINE))
    assert set(message) == MESSAGE_KEYS
    status, receipt = send(running, message)
    assert status == 200
    assert receipt["seq"] == 1
