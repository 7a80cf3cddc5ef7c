"""A site's folder: where it is, what it holds, what is wrong with it."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest
import yaml

from coordctl.durable import write_file
from coordctl.errors import CoordctlError
from coordctl.site import Site, existing, locate, locked, make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "site"
    made.mkdir()
    return made


def test_where_the_site_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, named, given = tmp_path / "here", tmp_path / "named", tmp_path / "given"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(None, {}) == tmp_path / ".local/share/coordctl/default"
    assert locate(None, {"XDG_DATA_HOME": "relative"}) == tmp_path / ".local/share/coordctl/default"
    data_home = {"XDG_DATA_HOME": str(tmp_path / "data")}
    assert locate(None, data_home) == tmp_path / "data/coordctl/default"
    environ = data_home | {"COORDCTL_SITE": str(named)}
    assert locate(None, environ) == named
    (here / "site.yml").touch()
    assert locate(None, environ) == here
    assert locate(given, environ) == given
    assert locate(Path("given"), environ) == here / "given"


def test_a_new_site(folder: Path) -> None:
    site = make(folder, 8123)
    site.prepare()
    assert yaml.safe_load((folder / "site.yml").read_text(encoding="utf-8")) == {
        "name": "site", "level": "individual", "host": "127.0.0.1", "port": 8123}
    settings = tomllib.loads((folder / "coordd.toml").read_text(encoding="utf-8"))
    assert settings == {
        "host": "127.0.0.1", "port": 8123, "data": str(folder / "data"), "engine": "files",
        "auth": "open", "admin_token_file": str(folder / "admin.token")}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    token = site.token()
    site.prepare()
    assert existing(folder).token() == token


def test_a_path_with_odd_characters_is_written_as_toml(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" \\ é\x7f𝄞'
    folder.mkdir()
    make(folder, None).prepare()
    settings = tomllib.loads((folder / "coordd.toml").read_text(encoding="utf-8"))
    assert settings["data"] == str(folder / "data")


def test_another_port_leaves_the_rest_of_the_file(folder: Path) -> None:
    file = folder / "site.yml"
    file.write_text("# mine\nname: home  # at home\nport: 8000  # was free\n", encoding="utf-8")
    site = Site(folder)
    site.set_port(8001)
    assert file.read_text(encoding="utf-8") == "# mine\nname: home  # at home\nport: 8001\n"
    assert Site(folder).url == "http://127.0.0.1:8001"
    file.write_text("name: home", encoding="utf-8")
    Site(folder).set_port(8002)
    assert Site(folder).file.port == 8002


@pytest.mark.parametrize(("text", "said"), [
    ("", "holds no keys"),
    ("[1, 2]", "holds no keys"),
    ("name: [", "is no YAML"),
    ("level: individual", "name is missing"),
    ("name: a b", "name is 'a b': 1-50 of letters"),
    ("name: home\nport: 0", "port is 0: a whole number from 1 to 65535"),
    ("name: home\nport: '80'", "port is '80'"),
    ("name: home\nhost: 0.0.0.0", "host is '0.0.0.0': an address of this machine alone"),
    ("name: home\nlevel: galaxy", "level is 'galaxy': 'individual' will do"),
    ("name: home\nprot: 1", "prot is no key of a site: name, level, host, port are"),
])
def test_what_is_wrong_with_a_site_file(folder: Path, text: str, said: str) -> None:
    (folder / "site.yml").write_text(text, encoding="utf-8")
    with pytest.raises(CoordctlError) as raised:
        Site(folder)
    assert said in str(raised.value)
    assert str(folder / "site.yml") in str(raised.value)
    assert raised.value.mend


def test_an_ipv6_address_is_written_in_brackets(folder: Path) -> None:
    (folder / "site.yml").write_text("name: home\nhost: '::1'\n", encoding="utf-8")
    assert Site(folder).url == "http://[::1]:8000"


def test_a_site_whose_making_was_cut_short_is_made(folder: Path) -> None:
    (folder / ".lock").touch()
    (folder / ".site.yml.tmp").write_text("na", encoding="utf-8")
    assert make(folder, None).file.port == 8000


def test_the_lock_is_let_go(folder: Path) -> None:
    for _ in range(2):
        with locked(folder, "up"):
            assert "`coordctl up` (pid " in (folder / ".lock").read_text(encoding="utf-8")


def test_a_file_is_whole_or_as_before(folder: Path) -> None:
    file = folder / "x"
    write_file(file, "one", mode=0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(UnicodeEncodeError):
        write_file(file, "\udc80")
    assert file.read_text(encoding="utf-8") == "one"
    write_file(file, "two")
    assert file.read_text(encoding="utf-8") == "two"
    assert [entry.name for entry in folder.iterdir()] == ["x"]
