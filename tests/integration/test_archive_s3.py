"""The archive in a bucket of a real S3-speaking server, and found there by a real coordd."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import httpx
import pytest

from conformance.reads import send
from coordd.archive import Archive, ArchiveError, open_archive
from coordd.engines.postgres import PostgresOptions, PostgresStore
from coordd.settings import Settings, SettingsError
from support.database import DatabaseMachine
from support.postgres import Databases
from support.s3 import BUCKET, REGION, S3Server
from support.server import start

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def s3(database_machine: DatabaseMachine) -> S3Server:
    return S3Server(database_machine)


def credentials(folder: Path, key: str, secret: str) -> Path:
    file = folder / "credentials"
    file.touch(0o600)
    file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
                    f"region = {REGION}\n", encoding="utf-8")
    return file


def target(s3: S3Server, file: Path, prefix: str = "/some/prefix") -> Archive:
    found = open_archive(Settings(
        engine="postgres", postgres_url="postgresql://h/d", archive_url=f"s3://{BUCKET}{prefix}",
        archive_s3_endpoint=s3.endpoint, archive_s3_credentials_file=file))
    assert found is not None
    return found


async def test_a_file_is_put_whole_and_got_back(s3: S3Server, tmp_path: Path) -> None:
    archive = target(s3, credentials(tmp_path, *s3.keys))
    for size in (0, 5000, 30 << 20):  # the last one in parts
        file = tmp_path / "file"
        file.write_bytes(bytes(range(256)) * (size // 256))
        await archive.put(f"messages/2026/01/02/{size}.gz", file)
        assert await archive.get(f"messages/2026/01/02/{size}.gz") == file.read_bytes()
    assert await archive.get("messages/2026/01/02/none.gz") is None
    below = target(s3, credentials(tmp_path, *s3.keys), "")
    assert await below.get("some/prefix/messages/2026/01/02/5000.gz") is not None


async def test_a_wrong_key_is_an_error_that_does_not_show_it(s3: S3Server, tmp_path: Path) -> None:
    archive = target(s3, credentials(tmp_path, s3.keys[0], "hush"))
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with pytest.raises(ArchiveError, match="403") as caught:
        await archive.put("file", file)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ArchiveError, match="403"):
        await archive.get("file")


async def test_an_endpoint_where_nobody_is(s3: S3Server, tmp_path: Path) -> None:
    archive = open_archive(Settings(
        engine="postgres", postgres_url="postgresql://h/d", archive_url="s3://bucket",
        archive_s3_endpoint="http://127.0.0.1:1",
        archive_s3_credentials_file=credentials(tmp_path, *s3.keys)))
    assert archive is not None
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with pytest.raises(ArchiveError, match="s3://bucket/file"):
        await archive.put("file", file)


async def test_who_was_party_to_it_finds_it_through_a_server(
        s3: S3Server, databases: Databases, tmp_path: Path) -> None:
    name = databases.new()
    keys = credentials(tmp_path, *s3.keys)
    store = PostgresStore(PostgresOptions(
        parameters=databases.pooled(name), pool_size=2, archive=target(s3, keys, "/server")))
    await store.open()
    receipt = await send(store, ["bob", "carol"], body="out of the bucket")
    await store.mark(receipt.id, "bob", "acked")
    for agent in ("bob", "carol"):
        await store.mark(receipt.id, agent, "deleted")
    await store.keep_up()
    [(file,)] = await store._database.fetch("SELECT name FROM coordd.archives")
    await store.close()
    content = await target(s3, keys, "/server").get(file)
    assert content is not None
    assert json.loads(gzip.decompress(content))["body"] == "out of the bucket"
    admin = tmp_path / "admin"
    admin.touch(0o600)
    admin.write_text("coord_admin_" + "t" * 32)
    try:
        with start(tmp_path / "data", engine="postgres", auth="token", admin_token_file=admin,
                   postgres_url=databases.machine.pooled_url(name),
                   postgres_password_file=databases.machine.password_file,
                   archive_url=f"s3://{BUCKET}/server", archive_s3_endpoint=s3.endpoint,
                   archive_s3_credentials_file=keys, archive_find=True) as server:
            async with httpx.AsyncClient(base_url=f"{server.url}/api/v1") as api:
                bearer = {"Authorization": "Bearer coord_admin_" + "t" * 32}
                answers = {}
                for agent in ("alice", "bob", "eve"):
                    made = await api.post("/admin/tokens", json={"agent": agent}, headers=bearer)
                    token = {"Authorization": f"Bearer {made.json()['token']}"}
                    answers[agent] = await api.get(f"/messages/{receipt.id}", headers=token)
                    again = await api.delete(f"/messages/{receipt.id}", headers=token)
                    assert again.status_code == (204 if agent == "bob" else 404)
                assert answers["bob"].json() | {"acked_at": ""} == {
                    "id": receipt.id, "seq": 1, "from_agent": "alice", "to_agent": "bob",
                    "subject": "subject", "body": "out of the bucket", "priority": "normal",
                    "thread_id": receipt.id, "in_reply_to": None, "expires_at": None,
                    "created_at": receipt.created_at, "state": "acknowledged", "read_at": None,
                    "acked_at": "", "archived": True}
                assert answers["alice"].status_code == 422  # bob's or carol's?
                assert answers["eve"].status_code == 404
                metrics = await api.get(f"{server.url}/metrics")
                assert "coordd_archive_up 1.0" in metrics.text
                assert "coordd_archived_messages_total 0.0" in metrics.text
            for secret in s3.keys:
                assert secret not in server.log()
    finally:
        databases.drop(name)


@pytest.mark.parametrize(("text", "mode", "words"), [
    ("[default]\naws_access_key_id = k\naws_secret_access_key = hush\n", 0o640, ["chmod 600"]),
    ("[default]\naws_access_key_id = k\n", 0o600, ["aws_secret_access_key"]),
    ("[default]\naws_access_key_id = k\naws_secret_access_key = hush\nregoin = x\n", 0o600,
     ["region"]),
    ("[other]\naws_access_key_id = k\naws_secret_access_key = hush\n", 0o600, ["[default]"]),
    ("hush", 0o600, ["is no file of credentials"]),
    (None, 0o600, ["cannot be read (No such file"]),
])
def test_a_file_of_credentials_that_will_not_do(
        tmp_path: Path, text: str | None, mode: int, words: list[str]) -> None:
    file = tmp_path / "credentials"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(SettingsError) as caught:
        open_archive(Settings(engine="postgres", archive_url="s3://bucket",
                              archive_s3_credentials_file=file))
    message = str(caught.value)
    assert message.startswith(f'archive_s3_credentials_file = "{file}": ')
    assert "hush" not in message
    assert "\n" not in message
    for word in words:
        assert word in message
