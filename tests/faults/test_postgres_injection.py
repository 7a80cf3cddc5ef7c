"""Text that looks like SQL is text: through a real server's API, and found again to the byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from faults.clients import Connection
from faults.twoservers import ADMIN, Site, site_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import Databases

pytestmark = pytest.mark.timeout(400)

TEXTS = [
    "' OR 1=1 --", "'; DROP TABLE coordd.messages; --", "\"; DROP SCHEMA coordd CASCADE; --",
    "$1", "$$; SELECT 1; $$", "%s", "%(agent)s", "%", "%%", "\\", "\\'; --", "E'\\x27'", "''",
    "{1,2}", "{\"a\",NULL}", "NULL", "null", "/* */", "ñ\N{SNOWMAN}\N{GRINNING FACE}'\"`",
    "a' UNION SELECT entry FROM coordd.registry --", "); COMMIT; --", "_", "x' || version() || '",
]
HEADERS = {"Authorization": f"Bearer {ADMIN}"}
PLAIN = "wholly-other"


@pytest.fixture(scope="module")
def site(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(databases, tmp_path_factory.mktemp("injection")) as site:
        site.start(1)
        yield site


@pytest.fixture(scope="module")
def connection(site: Site) -> Iterator[Connection]:
    connection = Connection(site.addresses[0])
    yield connection
    connection.close()


def tables(site: Site) -> dict[str, int]:
    """The schema's tables and how many rows each has."""
    with site.machine.connect(site.machine.direct_url(site.database)) as there:
        names = [name for name, in there.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'coordd' ORDER BY tablename")]
        counts = {}
        for name in names:
            row = there.execute(f"SELECT count(*) FROM coordd.{name}").fetchone()
            assert row is not None
            counts[name] = int(row[0])
    return counts


@pytest.fixture(autouse=True)
def _all_is_there(site: Site) -> Iterator[None]:
    """Whatever a test sends, nothing is gone."""
    before = tables(site)
    assert {"messages", "deliveries", "events", "inboxes", "claims", "registry"} <= before.keys()
    yield
    after = tables(site)
    assert after.keys() == before.keys()
    assert all(after[name] >= count for name, count in before.items() if name != "proof")
    for word in ("Traceback", "a defect", "refused a statement"):
        assert word not in site.log()


def sent(connection: Connection, **values: Any) -> Any:
    message = {"from_agent": "alice", "to_agent": "bob", "subject": "s", "body": "b"} | values
    status, answer = connection.ask("POST", "/api/v1/messages", message)
    assert status == 200, answer
    return answer


@pytest.mark.parametrize("text", TEXTS)
def test_it_is_stored_and_found_as_it_is(connection: Connection, text: str) -> None:
    sent(connection, subject=PLAIN, body=PLAIN)
    receipt = sent(connection, subject=text, body=f"{text}\n{text}")
    status, message = connection.ask("GET", f"/api/v1/messages/{receipt['id']}")
    assert status == 200
    assert (message["subject"], message["body"]) == (text, f"{text}\n{text}")
    status, page = connection.ask("GET", "/api/v1/inbox/bob?limit=1")
    assert page["messages"] == [message]
    status, events = connection.ask("GET", "/api/v1/events?order=newest&limit=1")
    assert events["events"][0]["subject"] == text
    status, feed = connection.ask(
        "GET", f"/api/v1/admin/feed?after={events['last_seq'] - 1}", **HEADERS)
    [change] = feed["changes"]
    assert change["message"]["body"] == message["body"]
    status, found = connection.ask("GET", f"/api/v1/search?q={quote(text, safe='')}&limit=1000")
    assert status == 200, found
    assert message in found["messages"]
    words = text.casefold().split()
    for each in found["messages"]:
        whole = f"{each['subject']}\n{each['body']}".casefold()
        assert all(word in whole for word in words)


@pytest.mark.parametrize("text", TEXTS)
def test_it_is_no_name_no_id_and_no_cursor(connection: Connection, text: str) -> None:
    """Refused with 422, but `_` and the like, which are names."""
    wanted = 200 if text in ("_", "NULL", "null") else 422
    part = quote(text, safe="")

    def ask(method: str, path: str, body: object = None) -> int:
        status, answer = connection.ask(method, path, body, **HEADERS)
        assert status == 200 or answer["type"] in ("/problems/invalid", "/problems/not-found"), (
            path, answer)
        return status

    message = {"from_agent": "alice", "to_agent": "bob", "subject": "s", "body": "b"}
    for field in ("from_agent", "to_agent"):
        assert ask("POST", "/api/v1/messages", message | {field: text}) == wanted
    assert ask("POST", "/api/v1/messages", message | {"to_agent": ["bob", text]}) == wanted
    assert ask("POST", "/api/v1/messages/batch", [message, message | {"to_agent": text}]) == wanted
    for field in ("thread_id", "in_reply_to"):
        assert ask("POST", "/api/v1/messages", message | {field: text}) == wanted
    for field in ("priority", "expires_at"):
        assert ask("POST", "/api/v1/messages", message | {field: text}) == 422
    for path in (f"inbox/{part}", f"inbox/{part}?wait=0.01", f"sent/{part}", f"threads/{part}",
                 f"search?q=x&agent={part}", f"events?agent={part}"):
        assert ask("GET", f"/api/v1/{path}") == wanted, path
    assert ask("PUT", f"/api/v1/agents/{part}", {"description": text}) == wanted
    assert ask("PUT", f"/api/v1/groups/{part}", {"members": ["bob"]}) == wanted
    assert ask("PUT", "/api/v1/groups/some", {"members": [text]}) == wanted
    for path in (f"agents/{part}", f"groups/{part}"):
        assert ask("GET", f"/api/v1/{path}") == wanted
    if wanted == 200:  # a name, of nobody's message
        wanted = 404
    assert ask("GET", f"/api/v1/messages/{part}") == wanted
    for act in ("read", "ack"):
        assert ask("POST", f"/api/v1/messages/{part}/{act}?agent=bob") == wanted
    assert ask("DELETE", f"/api/v1/messages/{part}?agent=bob") == wanted
    for path in ("inbox/bob", "sent/alice", "threads/t", "search?q=x", "events"):
        query = "&" if "?" in path else "?"
        assert ask("GET", f"/api/v1/{path}{query}cursor={part}") == 422, path
    for name in ("limit", "after", "order", "min_priority", "unread", "wait"):
        assert ask("GET", f"/api/v1/inbox/bob?{name}={part}") == 422, name
    for name in ("type", "after", "order"):
        assert ask("GET", f"/api/v1/events?{name}={part}") == 422, name
    assert ask("GET", f"/api/v1/admin/feed?after={part}") == 422
    assert ask("POST", "/api/v1/admin/seal", {"epoch": text}) == 422


@pytest.mark.parametrize("text", [text for text in TEXTS if text.isascii() and " " not in text])
def test_it_may_be_a_key(connection: Connection, text: str) -> None:
    message = {"from_agent": "alice", "to_agent": "bob", "subject": text, "body": "keyed"}
    answers = [connection.ask("POST", "/api/v1/messages", message, text) for _ in range(2)]
    assert answers[0][0] == 200
    assert answers[0] == answers[1]
    status, _ = connection.ask("POST", "/api/v1/messages", message | {"body": "other"}, text)
    assert status == 409


@pytest.mark.parametrize("text", TEXTS)
def test_it_may_be_a_description(connection: Connection, text: str) -> None:
    status, _ = connection.ask("PUT", "/api/v1/agents/described", {"description": text})
    assert status == 200
    status, agent = connection.ask("GET", "/api/v1/agents/described")
    assert agent["description"] == text
