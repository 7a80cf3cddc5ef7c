"""A site's folder: where it is, what it holds, what is wrong with it."""

from __future__ import annotations

import fcntl
import shlex
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from coordctl import provision, stage
from coordctl.ansible.run import Playbooks
from coordctl.cli import cli
from coordctl.durable import write_file
from coordctl.errors import CoordctlError
from coordctl.remote import ssh_arguments
from coordctl.site import Site, existing, locate, locked, make
from coordctl.site_file import Machine, set_choice, set_machines, set_scalar
from coordctl.state import Generation


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
    site = make(folder, port=8123)
    assert yaml.safe_load((folder / "site.yml").read_text(encoding="utf-8")) == {
        "name": "site", "level": "individual", "host": "127.0.0.1", "port": 8123}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert site.id == existing(folder).id
    assert site.url == "http://127.0.0.1:8123"


def test_a_new_site_of_other_machines(folder: Path) -> None:
    machines = {"m1": Machine(address="192.0.2.7"),
                "m2": Machine(address="2001:db8::1", port=2222, user="admin", key="lab/key")}
    site = make(folder, level="organization", name="home", machines=machines)
    assert site.file.machines == machines
    assert "port: 8000" not in (folder / "site.yml").read_text(encoding="utf-8")
    with pytest.raises(CoordctlError, match="organization needs 6 machines and the site has 2"):
        site.topology()


def test_the_address_of_a_site(folder: Path) -> None:
    site = make(folder, level="team", machines={"m1": Machine(address="2001:db8::1")})
    assert site.url == "https://[2001:db8::1]"
    site.change(lambda text: f"{text}domain: messages.example.org\n")
    assert site.url == "https://messages.example.org"


def test_a_path_with_odd_characters_is_written_as_yaml(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" \\ é\x7f𝄞'
    folder.mkdir()
    site = make(folder)
    text = stage.rendered(site)["group_vars/coordd.yml"]
    assert yaml.safe_load(text)["coordd_settings"]["data"] == str(folder / "data")


def test_a_path_that_ansible_would_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "{{ x }}"
    folder.mkdir()
    with pytest.raises(CoordctlError, match="braces"):
        stage.rendered(make(folder))


def test_other_machines_leave_the_rest_of_the_file(folder: Path) -> None:
    file = folder / "site.yml"
    file.write_text("# mine\nname: home  # at home\nlevel: team\nmachines:\n  # old\n"
                    "  m1: {address: 192.0.2.1}\n\nstack: {cache_nodes: 1}\n", encoding="utf-8")
    site = Site(folder)
    site.set_machines({"m2": Machine(address="192.0.2.2")})
    assert list(Site(folder).file.machines) == ["m2"]
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# mine\nname: home  # at home\nlevel: team\n")
    assert "stack: {cache_nodes: 1}\n" in text
    site.set_machines({})
    assert Site(folder).file.machines == {}


def test_a_change_that_would_be_wrong_is_not_written(folder: Path) -> None:
    site = make(folder)
    before = (folder / "site.yml").read_text(encoding="utf-8")
    with pytest.raises(CoordctlError, match="port is 0"):
        site.set_port(0)
    assert (folder / "site.yml").read_text(encoding="utf-8") == before
    assert sorted(entry.name for entry in folder.iterdir()) == ["site.yml"]


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
    ("name: home\nlevel: galaxy", "level is 'galaxy': individual, team, organization or"),
    ("name: home\nprot: 1", "prot is no key: did you mean port?"),
    ("name: home\nqqq: 1", "qqq is no key: name, level, host, port"),
    ("name: home\nname: away", "'name' stands twice"),
    ("name: home\nlevel: team\nstack: {stor: files}", "stack.stor is no key: did you mean store"),
    ("name: home\nlevel: team\nstack: {message_servers: 2}", "message_servers is 2: the files"),
    ("name: home\nlevel: team\nsizes: {backups_kept: 0}", "sizes.backups_kept is 0: a whole"),
    ("name: home\nmachines: {m1: {adress: a}}", "machines.m1.adress is no key: did you mean addr"),
    ("name: home\nmachines: {m1: {}}", "machines.m1.address is missing: an IP address or a host"),
    ("name: home\nmachines: {m1: {address: '-x'}}", "machines.m1.address is '-x': an IP address"),
    ("name: home\nmachines: {m1: {address: '1:2'}}", "machines.m1.address is '1:2': an IP"),
    ("name: home\nmachines: {M1: {address: a}}", "machines.M1 is 'M1'"),
    ("name: home\nmachines: {a: {address: x}, b: {address: x}}", "a machine stands once"),
    ("name: home\ncompact: 7", "compact is 7: true or false will do"),
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


@pytest.mark.parametrize("left", [
    ".site.yml.tmp", ".site.yml.new", "..site.yml.new.tmp", "id", ".id.tmp"])
def test_a_site_whose_making_was_cut_short_is_made(folder: Path, left: str) -> None:
    (folder / ".lock").touch()
    (folder / left).write_text("na", encoding="utf-8")
    assert make(folder).file.port == 8000


def test_a_value_is_written_as_it_is_and_comments_stay(folder: Path) -> None:
    assert set_scalar("name: a\n", "name", r"x\d") == "name: x\\d\n"
    text = "machines:\n  m1: {address: a}\n\n# mine\ncompact: true\n"
    assert "# mine\ncompact: true\n" in set_machines(text, {})


@pytest.mark.parametrize(("text", "wanted"), [
    ("name: a\n", "name: a\nstack:\n  message_servers: 3\n"),
    ("stack: {cache: redis}  # mine\nname: a\n",
     "stack: {cache: redis, message_servers: 3}  # mine\nname: a\n"),
    ("stack:\n  # two were slow\n  message_servers: 2\n\nname: a\n",
     "stack:\n  # two were slow\n  message_servers: 3\n\nname: a\n"),
    ("stack:\n    cache: redis\nname: a\n",
     "stack:\n    message_servers: 3\n    cache: redis\nname: a\n"),
    ("stack:\n", "stack:\n  message_servers: 3\n"),
    ("stack: # none yet\nname: a\n", "stack: # none yet\n  message_servers: 3\nname: a\n"),
])
def test_a_choice_is_written_where_the_others_are(text: str, wanted: str) -> None:
    assert set_choice(text, "message_servers", 3) == wanted
    assert yaml.safe_load(wanted)["stack"]["message_servers"] == 3


def test_the_same_known_hosts_for_ssh_and_ansible(tmp_path: Path) -> None:
    """A folder's name with a space, a quote of the shell and a percent sign."""
    folder = tmp_path / "My site's 100%"
    folder.mkdir()
    site = make(folder, level="team", machines={"m1": Machine(address="192.0.2.7")})
    shown = subprocess.run(["ssh", "-G", *ssh_arguments(site, "m1")[1:]], text=True,
                           capture_output=True, check=True, timeout=20).stdout
    by_us = next(line for line in shown.splitlines() if line.startswith("userknownhostsfile"))
    playbooks = Playbooks([], folder, site.known_hosts, folder / "log", [], folder / "key")
    options = shlex.split(playbooks.environment(3)["ANSIBLE_SSH_COMMON_ARGS"])
    shown = subprocess.run(["ssh", "-G", *options, "root@192.0.2.7"], text=True,
                           capture_output=True, check=True, timeout=20).stdout
    assert by_us in shown.splitlines()
    assert by_us.count(str(tmp_path)) == 1


@pytest.mark.parametrize(("text", "place"), [
    ("m1=192.0.2.7", {"address": "192.0.2.7"}),
    ("m1=admin@host:2222", {"address": "host", "user": "admin", "port": 2222}),
    ("m1=fd00::1", {"address": "fd00::1"}),
    ("m1=2001:db8::1:5", {"address": "2001:db8::1:5"}),
    ("m1=root@[fd00::1]:22", {"address": "fd00::1", "user": "root", "port": 22}),
])
def test_a_machine_on_the_command_line(tmp_path: Path, text: str, place: dict[str, object]
                                       ) -> None:
    done = CliRunner().invoke(cli, ["--site", str(tmp_path / "s"), "init", "--level", "team",
                                    "--machine", text], env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert done.exit_code == 0, done.output
    assert f"Next:  coordctl --site {tmp_path / 's'} plan" in done.output
    assert Site(tmp_path / "s").file.machines["m1"] == Machine(**place)  # type: ignore[arg-type]


def test_another_machine_for_a_store_of_files_is_refused(folder: Path) -> None:
    site = make(folder, level="team", machines={"m1": Machine(address="192.0.2.7")})
    site.state.begin(Generation(level="team", seats={"all-1": "m1"}, complete=True, run="r", at="",
                                machines={"m1": "192.0.2.7"}))
    provision.check_messages(site, site.profile(), site.topology())
    for machines in ({"m2": Machine(address="192.0.2.8")}, {"m1": Machine(address="192.0.2.8")}):
        site.set_machines(machines)
        with pytest.raises(CoordctlError, match=r"the messages are on m1 \(192\.0\.2\.7\)"):
            provision.check_messages(site, site.profile(), site.topology())


def test_a_local_site_may_name_machines_for_a_later_level(folder: Path) -> None:
    site = make(folder)
    site.change(lambda text: f"{text}machines: {{m1: {{address: 192.0.2.7}}}}\n")
    assert site.is_local
    assert site.url == "http://127.0.0.1:8000"
    files = stage.rendered(site, "team")
    assert "192.0.2.7" in files["hosts.yml"]
    assert 'site_url: "https://192.0.2.7"' in files["group_vars/all.yml"]
    assert "ansible_connection" in stage.rendered(site)["hosts.yml"]


def test_the_lock_is_let_go(folder: Path) -> None:
    for _ in range(2):
        with locked(folder, "up"):
            assert "`coordctl up` (" in (folder / ".lock").read_text(encoding="utf-8")


def test_who_waits_is_told_for_whom_and_never_for_nobody(
        folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / ".lock").open("w+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)

        def wait() -> None:
            with locked(folder, "up"):
                pass

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.4)
        assert capsys.readouterr().err == ""
        holder.write("`coordctl plan` (ada)\n")
        holder.flush()
        told = ""
        while "Waiting" not in told and waiting.is_alive():
            time.sleep(0.05)
            told += capsys.readouterr().err
        assert "Waiting for `coordctl plan` (ada) on this site" in told
        fcntl.flock(holder, fcntl.LOCK_UN)
        waiting.join(timeout=10)
    assert not waiting.is_alive()
    assert (folder / ".lock").read_bytes() == b""


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
