from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from coordd.settings import KEYS, Settings, SettingsError, load

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def _file(folder: Path, text: str) -> Path:
    file = folder / "coordd.toml"
    file.write_text(text, encoding="utf-8")
    return file


def _documented() -> dict[str, str]:
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", DOCS.read_text(encoding="utf-8"),
                           re.MULTILINE))


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    assert set(_documented()) == set(KEYS)


def test_the_documented_defaults_are_the_defaults() -> None:
    settings = Settings(data=Path("x"))
    for key, text in _documented().items():
        if text != "none":
            shown = text.strip("`")
            assert shown == json.dumps(getattr(settings, key)), key
        elif key != "data":
            assert getattr(settings, key) is None, key


def test_a_file_and_the_environment_above_it(tmp_path: Path) -> None:
    file = _file(tmp_path, 'data = "d"\nport = 9000\nrate_per_s = 2.5\n')
    settings = load(file, {"COORDD_PORT": "9001", "COORDD_AUTH": "token", "PATH": "/bin"})
    assert (settings.port, settings.auth, settings.rate_per_s) == (9001, "token", 2.5)
    assert settings.data == Path("d")


def test_the_environment_alone_will_do() -> None:
    assert load(None, {"COORDD_DATA": "/srv/coordd"}).data == Path("/srv/coordd")


def test_postgres_needs_no_folder() -> None:
    settings = load(None, {
        "COORDD_ENGINE": "postgres", "COORDD_POSTGRES_URL": "postgresql://h:6432/d",
        "COORDD_POSTGRES_REPLICA_URLS": "postgresql://r1/d,postgresql://r2/d",
        "COORDD_ARCHIVE_FIND": "true", "COORDD_ARCHIVE_URL": "file:///srv/a%20b"})
    assert settings.data is None
    assert settings.postgres_replica_urls == ("postgresql://r1/d", "postgresql://r2/d")
    assert settings.archive_find


def test_replicas_are_a_list_in_the_file(tmp_path: Path) -> None:
    file = _file(tmp_path, 'data = "d"\npostgres_replica_urls = ["postgresql://r1/d"]')
    assert load(file, {}).postgres_replica_urls == ("postgresql://r1/d",)


@pytest.mark.parametrize(("text", "words"), [
    ('data = "d"\nprot = 1', ["prot", "did you mean port?"]),
    ('data = "d"\nzzzzzz = 1', ["zzzzzz", "known are", "pending_max"]),
    ('data = "d"\nport = 70000', ["port = 70000", "0 to 65535"]),
    ('data = "d"\nport = "80"', ['port = "80"', "whole number"]),
    ('data = "d"\nport = true', ["port = True", "whole number"]),
    ('data = "d"\nengine = "oracle"', ['engine = "oracle"', '"files"']),
    ('data = "d"\nrate_per_s = -1', ["rate_per_s = -1", "0 for no limit"]),
    ('data = "d"\nrate_per_s = nan', ["rate_per_s = nan"]),
    ('data = "d"\nlog_level = "loud"', ['log_level = "loud"', '"warning"']),
    ('data = ""', ['data = ""']),
    ("data = 5", ["data = 5"]),
    ("port = 8000", ["data is missing"]),
    ("data =", ["is no TOML"]),
    ('data = "d"\ncache = "redis"', ['cache = "redis"', "redis_url is missing"]),
    ('data = "d"\ncache = "memcached"', ['cache = "memcached"', '"redis"']),
    ('data = "d"\nredis_url = 6379', ["redis_url will not do", "redis://HOST:PORT/0"]),
    ('engine = "postgres"', ['engine = "postgres"', "postgres_url is missing"]),
    ('data = "d"\npostgres_url = 5432', ["postgres_url will not do", "postgresql://HOST:PORT"]),
    ('data = "d"\npostgres_direct_url = "h"', ["postgres_direct_url will not do"]),
    ('data = "d"\npostgres_replica_urls = ["postgresql://r/d", "r"]',
     ["postgres_replica_urls will not do", "a list of"]),
    ('data = "d"\npostgres_user = 5', ["postgres_user = 5", "a role's name"]),
    ('data = "d"\npostgres_password_file = ""', ['postgres_password_file = ""']),
    ('data = "d"\npostgres_ca_file = 1', ["postgres_ca_file = 1", "certificates"]),
    ('data = "d"\npostgres_tls_name = ""', ['postgres_tls_name = ""', "host name"]),
    ('data = "d"\npostgres_pool = 0', ["postgres_pool = 0", "1 to 1000"]),
    ('data = "d"\npostgres_wait_s = 0', ["postgres_wait_s = 0", "0.1 to 60"]),
    ('data = "d"\nretention_days = 30', ["retention_days = 30", 'engine = "postgres"']),
    ('data = "d"\nevents_months = 1', ["events_months = 1", 'engine = "postgres"']),
    ('data = "d"\narchive_url = "file:///a"', ['archive_url = "file:///a"', "postgres"]),
    ('engine = "postgres"\nretention_days = -1', ["retention_days = -1", "0 to keep"]),
    ('engine = "postgres"\nevents_months = 0.5', ["events_months = 0.5", "0 to keep"]),
    ('engine = "postgres"\narchive_find = 1', ["archive_find = 1", "true or false"]),
    ('engine = "postgres"\narchive_s3_endpoint = "s3.example"', ["archive_s3_endpoint will not"]),
    ('engine = "postgres"\narchive_s3_credentials_file = ""', ["[default]"]),
])
def test_a_wrong_setting_is_one_line_with_key_value_and_mend(
        tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(_file(tmp_path, text), {})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("url", [
    "redis://127.0.0.1", "redis://127.0.0.1:6379", "redis://127.0.0.1:6379/", "redis://[::1]:1/15",
    "rediss://cache.example:6380/0", "unix:///run/redis/redis.sock"])
def test_a_redis_is_named_by_a_url(url: str) -> None:
    assert load(None, {"COORDD_DATA": "d", "COORDD_REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize("url", [
    "redis://:hush@127.0.0.1", "redis://coordd:hush@127.0.0.1:6379/0", "unix://hush@/run/redis",
    "redis://127.0.0.1/0?password=hush", "redis://127.0.0.1/hush", "redis://127.0.0.1:hush",
    "redis://127.0.0.1/0#hush", "hush", "http://hush", "redis://", "unix://", "redis:// hush", ""])
def test_a_redis_url_without_a_password_and_what_is_wrong_is_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL will not do") as caught:
        load(None, {"COORDD_DATA": "d", "COORDD_REDIS_URL": url})
    assert "hush" not in str(caught.value)
    assert "redis_password_file" in str(caught.value)


@pytest.mark.parametrize("url", [
    "postgresql://127.0.0.1/d", "postgresql://db.example:6432/coordd", "postgres://[::1]:1/a-b_c"])
@pytest.mark.parametrize("key", ["postgres_url", "postgres_direct_url", "postgres_standby_url"])
def test_a_database_is_named_by_a_url(key: str, url: str) -> None:
    found = load(None, {"COORDD_DATA": "d", f"COORDD_{key.upper()}": url})
    assert getattr(found, key) == url


@pytest.mark.parametrize("url", [
    "postgresql://coordd:hush@127.0.0.1/d", "postgresql://hush@h/d", "postgresql://h/d?user=hush",
    "postgresql://h/d#hush", "postgresql://h", "postgresql://h/", "postgresql://h/hush/d", "hush",
    "postgresql:///hush", "http://h/hush", "postgresql://h:hush/d", "postgresql://h:0/d", ""])
@pytest.mark.parametrize("key", ["postgres_url", "postgres_direct_url", "postgres_replica_urls"])
def test_a_database_url_without_a_password_and_what_is_wrong_is_not_shown(key: str, url: str
                                                                          ) -> None:
    with pytest.raises(SettingsError, match=f"{key.upper()} will not do") as caught:
        load(None, {"COORDD_DATA": "d", f"COORDD_{key.upper()}": url})
    assert "hush" not in str(caught.value)
    assert "postgres_password_file" in str(caught.value)


@pytest.mark.parametrize("url", [
    "file:///srv/archive", "s3://bucket", "s3://my.bucket-1/", "s3://bucket/some/prefix"])
def test_an_archive_is_named_by_a_url(url: str) -> None:
    assert load(None, {"COORDD_ENGINE": "postgres", "COORDD_POSTGRES_URL": "postgresql://h/d",
                       "COORDD_ARCHIVE_URL": url}).archive_url == url


@pytest.mark.parametrize("url", [
    "/srv/archive", "file://srv/archive", "file:///", "file:///a/../hush", "s3://", "s3://B/hush",
    "s3://key:hush@bucket/p", "s3://bucket?key=hush", "s3://bucket:1/hush", "https://hush/a", ""])
def test_an_archive_url_without_a_secret(url: str) -> None:
    with pytest.raises(SettingsError, match="ARCHIVE_URL will not do") as caught:
        load(None, {"COORDD_ENGINE": "postgres", "COORDD_ARCHIVE_URL": url})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(("variable", "value", "words"), [
    ("COORDD_PROT", "1", ["COORDD_PROT", "COORDD_PORT"]),
    ("COORDD_PORT", "http", ['COORDD_PORT = "http"', "whole number"]),
    ("COORDD_PENDING_MAX", "0", ["COORDD_PENDING_MAX", "1 to 10000000"]),
])
def test_a_wrong_variable_is_named(variable: str, value: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {"COORDD_DATA": "d", variable: value})
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read \(No such file"):
        load(tmp_path / "none.toml", {})
