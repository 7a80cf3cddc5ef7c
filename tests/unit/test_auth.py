from __future__ import annotations

from pathlib import Path

import pytest

from coordd import auth
from coordd.auth import Limits, read_admin_secret
from coordd.problems import Problem
from coordd.settings import SettingsError


def _write(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


def test_the_admin_secret_is_what_follows_its_keyid(tmp_path: Path) -> None:
    file = _write(tmp_path / "t", "coord_admin_abcdefghijklmnop\n")
    assert read_admin_secret(file) == b"abcdefghijklmnop"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_others_may_read_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    file = _write(tmp_path / "t", "coord_admin_abcdefghijklmnop\n", mode)
    with pytest.raises(SettingsError, match=f"mode {mode:04o}.: chmod 600 ") as caught:
        read_admin_secret(file)
    assert "abcdefgh" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "coord_admin_", "coord_admin_short",
                                  "coord_other_" + "a" * 20, "a" * 30,
                                  "coord_admin_" + "a" * 20 + " x"])
def test_what_is_no_admin_token_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="holds no coord_admin_<secret>") as caught:
        read_admin_secret(_write(tmp_path / "t", text))
    assert "aaaa" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_admin_secret(tmp_path / "none")


class _Time:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_bucket_holds_its_burst_and_fills_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Time()
    monkeypatch.setattr(auth, "time", clock)
    limits = Limits(rate_per_s=2, burst=3)
    for _ in range(3):
        limits.take("a")
    with pytest.raises(Problem) as caught:
        limits.take("a")
    assert (caught.value.kind, caught.value.headers) == ("rate-limited", (("Retry-After", "1"),))
    limits.take("b")
    clock.now += 0.5
    limits.take("a")
    with pytest.raises(Problem):
        limits.take("a")
    clock.now += 3600
    for _ in range(3):
        limits.take("a")
    with pytest.raises(Problem):
        limits.take("a")


def test_retry_after_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Time()
    monkeypatch.setattr(auth, "time", clock)
    limits = Limits(rate_per_s=0.1, burst=1)
    limits.take("a")
    with pytest.raises(Problem) as caught:
        limits.take("a")
    clock.now += int(dict(caught.value.headers)["Retry-After"])
    limits.take("a")


def test_the_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "BUCKETS_MAX", 10)
    limits = Limits(rate_per_s=1, burst=1)
    for i in range(100):
        limits.take(str(i))
    assert len(limits._buckets) <= 10
