"""From the settings to the parameters of a connection to Postgres."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from coordd import settings
from coordd.engines.postgres.address import parameters_of
from coordd.settings import SettingsError

URL = "postgresql://192.0.2.7:6432/coordd"


def parameters(tmp_path: Path, url: str, **more: str) -> dict[str, object]:
    file = tmp_path / "coordd.toml"
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in {
        "engine": "postgres", "postgres_url": URL, **more}.items()), encoding="utf-8")
    return parameters_of(settings.load(file, {}), url)


def test_another_name_is_checked_at_the_same_address(tmp_path: Path) -> None:
    found = make_conninfo(**parameters(tmp_path, URL, postgres_tls_name="postgres"))  # type: ignore[arg-type]
    assert {"host=postgres", "hostaddr=192.0.2.7", "port=6432"} <= set(found.split())
    plain = make_conninfo(**parameters(tmp_path, URL))  # type: ignore[arg-type]
    assert "host=192.0.2.7" in plain.split()
    assert "hostaddr" not in plain


def test_another_name_needs_an_address(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"postgres_tls_name .* 'db1'"):
        parameters(tmp_path, "postgresql://db1:6432/coordd", postgres_tls_name="postgres")
