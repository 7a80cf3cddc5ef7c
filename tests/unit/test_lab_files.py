"""What the lab reads of this computer and writes into a site, without a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coordctl.errors import CoordctlError
from coordctl.lab import host, image, network, site_file

DEBIAN = 'ID=debian\nVERSION_CODENAME="bookworm"\n'


def apt(tmp_path: Path, *, release: str = DEBIAN, **files: str) -> tuple[Path, Path]:
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text(release, encoding="utf-8")
    for name, text in files.items():
        place = "apt" if name == "list" else "apt/sources.list.d"
        file = "sources.list" if name == "list" else name.replace("_", ".")
        (tmp_path / place / file).write_text(text, encoding="utf-8")
    return tmp_path / "apt", tmp_path / "os-release"


def test_the_images_sources_are_this_computers_own(tmp_path: Path) -> None:
    got = image.sources(*apt(tmp_path, debian_sources=(
        "# A comment\nTypes: deb deb-src\nURIs: http://mirror.test/debian\n"
        "# and another\nSuites: bookworm bookworm-updates\nComponents: main contrib\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        "Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\n"
        "Components: main\n")))
    assert got == ["deb http://mirror.test/debian trixie main",
                   "deb http://mirror.test/debian trixie-updates main",
                   "deb http://mirror.test/security trixie-security main"]


def test_the_old_form_of_sources_is_read_too(tmp_path: Path) -> None:
    got = image.sources(*apt(tmp_path, list=(
        "# deb http://gone.test/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
        "http://mirror.test/debian bookworm main # ours\n"
        "deb-src http://mirror.test/debian bookworm main\n"
        "deb http://mirror.test/security/ bookworm-security main\n")))
    assert got == ["deb http://mirror.test/debian trixie main",
                   "deb http://mirror.test/security/ trixie-security main"]


def test_a_list_of_mirrors_gives_its_first(tmp_path: Path) -> None:
    mirrors = tmp_path / "mirrors.list"
    mirrors.write_text("http://first.test/debian\nhttp://second.test/debian\n", encoding="utf-8")
    got = image.sources(*apt(tmp_path, list=f"deb mirror+file:{mirrors} bookworm main\n"))
    assert got == ["deb http://first.test/debian trixie main"]


@pytest.mark.parametrize("line", [
    "deb http://vendor.test/apt bookworm stable",
    "deb http://vendor.test/apt bookworm-tools main",
    "deb http://vendor.test/apt vendor-bookworm main",
    "deb [signed-by=/usr/share/keyrings/vendor.gpg] http://vendor.test/apt bookworm main",
    "deb http://mirror.test/debian bookworm-updates main",  # without the suite itself
])
def test_what_is_not_debians_archive_is_left_out(tmp_path: Path, line: str) -> None:
    assert image.sources(*apt(tmp_path, list=f"{line}\n")) == []


def test_another_system_has_no_sources_for_debian(tmp_path: Path) -> None:
    release = "ID=ubuntu\nVERSION_CODENAME=noble\n"
    assert image.sources(*apt(tmp_path, release=release,
                              list="deb http://mirror.test/ubuntu noble main\n")) == []


def test_a_new_site_is_written_and_an_old_one_keeps_the_rest(tmp_path: Path) -> None:
    site_file.write_site(tmp_path, "lab-1", {"m1": "10.213.0.11"}, "team")
    file = tmp_path / "site.yml"
    m1 = {"address": "10.213.0.11", "key": "lab/id_ed25519"}
    assert yaml.safe_load(file.read_text("utf-8")) == {
        "name": "lab-1", "level": "team", "machines": {"m1": m1}}

    file.write_text("name: shop # ours\nlevel: individual\nport: 81\n", encoding="utf-8")
    site_file.write_site(tmp_path, "lab-1", {"m1": "10.213.0.11"}, "team")
    assert yaml.safe_load(file.read_text("utf-8")) == {
        "name": "shop", "level": "individual", "port": 81, "machines": {"m1": m1}}

    site_file.write_site(tmp_path, "lab-1", {"m2": "10.213.0.12"}, "team")
    assert list(yaml.safe_load(file.read_text("utf-8"))["machines"]) == ["m2"]
    site_file.write_site(tmp_path, "lab-1", {"m1": "10.213.0.11"}, "team")

    assert "# ours" in file.read_text("utf-8")


def test_a_machines_new_host_key_replaces_its_old_one_only(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("10.213.0.1 ssh-ed25519 A\n10.213.0.11 ssh-ed25519 B\n", encoding="utf-8")
    site_file.know_hosts(tmp_path, {"10.213.0.11": "ssh-ed25519 C"})
    assert file.read_text("utf-8") == "10.213.0.1 ssh-ed25519 A\n10.213.0.11 ssh-ed25519 C\n"


def test_a_key_is_made_whole_over_the_rest_of_an_interrupted_run(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    for rest in ("id_ed25519-new", "id_ed25519-new.pub", "id_ed25519.pub"):
        (tmp_path / "lab" / rest).write_text("half", encoding="utf-8")
    public = site_file.ensure_key(tmp_path)
    assert public.startswith("ssh-ed25519 ")
    assert site_file.ensure_key(tmp_path) == public
    assert {file.name for file in (tmp_path / "lab").iterdir()} == {"id_ed25519", "id_ed25519.pub"}


def test_the_lab_needs_root_and_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(CoordctlError) as refused:
        host.require_root("up")
    assert refused.value.mend == 'sudo env "PATH=$PATH" coordctl lab up'


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(host, "_PLACES", ())
    assert host.missing_packages() == sorted(set(host.NEEDED.values()))


def test_a_machines_hardware_address_follows_from_its_address() -> None:
    assert network.mac("10.213.0.11") == "02:00:0a:d5:00:0b"
