"""Secrets: made once, encrypted at rest, readable with the site's key alone."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from coordctl import credentials, pki
from coordctl.errors import CoordctlError
from coordctl.site import Site, make
from coordctl.site_file import Machine
from coordctl.vault import CA_FILE, SECRETS_FILE, Vault


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def team(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return make(folder, level="team", machines={"m1": Machine(address="192.0.2.7")})


def test_what_is_written_can_be_read_and_is_not_there_in_clear(tmp_path: Path) -> None:
    vault = Vault(tmp_path, "home-1")
    vault.write(SECRETS_FILE, {"vault_admin_token": "coord_admin_hush"})
    text = (tmp_path / SECRETS_FILE).read_text(encoding="ascii")
    assert text.startswith("$ANSIBLE_VAULT;1.1;AES256")
    assert "hush" not in text
    assert stat.S_IMODE((tmp_path / SECRETS_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(vault.key.stat().st_mode) == 0o600
    assert tmp_path / "config" in vault.key.parents
    assert Vault(tmp_path, "home-1").read(SECRETS_FILE) == {"vault_admin_token": "coord_admin_hush"}


def test_ansible_itself_reads_it(tmp_path: Path) -> None:
    vault = Vault(tmp_path, "home-1")
    vault.write(SECRETS_FILE, {"a": "b: c\n- 'd'"})
    shown = subprocess.run(
        [sys.executable, "-m", "ansible", "vault", "view", "--vault-password-file", str(vault.key),
         str(tmp_path / SECRETS_FILE)], capture_output=True, text=True, check=True, timeout=60)
    assert yaml.safe_load(shown.stdout) == {"a": "b: c\n- 'd'"}


def test_a_repeat_writes_nothing(tmp_path: Path) -> None:
    vault = Vault(tmp_path, "home-1")
    vault.write(SECRETS_FILE, {"a": "b"})
    before = (tmp_path / SECRETS_FILE).read_bytes()
    vault.write(SECRETS_FILE, {"a": "b"})
    assert (tmp_path / SECRETS_FILE).read_bytes() == before


def test_without_the_key_it_says_where_the_key_was(tmp_path: Path) -> None:
    vault = Vault(tmp_path, "home-1")
    vault.write(SECRETS_FILE, {"a": "b"})
    key = vault.key.read_bytes()
    vault.key.write_bytes(b"another\n")
    with pytest.raises(CoordctlError, match="can't be decrypted with the key"):
        vault.read(SECRETS_FILE)
    vault.key.unlink()
    for act in (lambda: vault.read(SECRETS_FILE), lambda: vault.write(SECRETS_FILE, {"a": "c"})):
        with pytest.raises(CoordctlError, match="key of this site's secrets is not there") as told:
            act()
        assert str(vault.key) in told.value.mend
    assert not vault.key.exists()
    vault.key.write_bytes(key)
    vault.key.chmod(0o644)
    with pytest.raises(CoordctlError, match="can be read by others"):
        vault.read(SECRETS_FILE)


def test_credentials_are_made_once(team: Site) -> None:
    made = credentials.prepare(team, team.topology())
    assert made == ["operator's token", "cache password", "certificate authority",
                    "certificate for 192.0.2.7"]
    first = team.vault.read(SECRETS_FILE)
    assert credentials.prepare(team, team.topology()) == []
    assert Site(team.folder).vault.read(SECRETS_FILE) == first
    assert set(first) == {"vault_admin_token", "vault_redis_password", "vault_tls_certificate",
                          "vault_tls_key"}
    assert team.token() == first["vault_admin_token"]
    for file in team.folder.rglob("*"):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            for secret in (first["vault_admin_token"], first["vault_redis_password"],
                           "PRIVATE KEY"):
                assert secret not in text, file


def test_another_name_gets_another_certificate_of_the_same_authority(team: Site) -> None:
    credentials.prepare(team, team.topology())
    authority = team.vault.read(CA_FILE)
    team.change(lambda text: f"{text}domain: messages.example.org\n")
    assert credentials.prepare(team, team.topology()) == [
        "certificate for messages.example.org, 192.0.2.7"]
    assert team.vault.read(CA_FILE) == authority
    held = team.vault.read(SECRETS_FILE)["vault_tls_certificate"]
    assert pki.is_good(held, authority["certificate"], ["messages.example.org", "192.0.2.7"])
    assert not pki.is_good(held, authority["certificate"], ["192.0.2.7"])
    assert not pki.is_good(held, pki.new_authority("x").certificate,
                           ["messages.example.org", "192.0.2.7"])
    assert not pki.is_good("", authority["certificate"], ["192.0.2.7"])


def test_machines_that_serve_each_other_have_a_certificate_each(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    site = make(folder, level="organization", machines={
        f"db-{number}": Machine(address=f"192.0.2.{number}") for number in range(1, 7)})
    topology = site.topology()
    made = credentials.prepare(site, topology)
    assert "database password" in made
    assert credentials.prepare(site, topology) == []
    held = site.vault.read(SECRETS_FILE)
    authority = x509.load_pem_x509_certificate(held["vault_ca"].encode())
    for machine in topology.roles:
        certificate, key = credentials.certificate_of(machine)
        shown = x509.load_pem_x509_certificate(held[certificate].encode())
        shown.verify_directly_issued_by(authority)
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert (credentials.DATABASE_NAME in names.get_values_for_type(x509.DNSName)) == (
            machine in topology.bearers("postgres"))
        usage = shown.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert {*usage} == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        assert "PRIVATE KEY" in held[key]


def test_an_authority_signs_servers_and_no_other_authority() -> None:
    authority = x509.load_pem_x509_certificate(pki.new_authority("home").certificate.encode())
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (limits.ca, limits.path_length) == (True, 0)


def test_given_certificates_are_taken(team: Site) -> None:
    pair = pki.new_server(pki.new_authority("other"), ["192.0.2.7"])
    (team.folder / "given.crt").write_text(pair.certificate, encoding="ascii")
    team.change(lambda text: f"{text}tls: {{certificate: given.crt, key: given.key}}\n")
    with pytest.raises(CoordctlError, match=r"tls.key is 'given.key', which can't be read"):
        credentials.prepare(team, team.topology())
    (team.folder / "given.key").write_text("hello", encoding="ascii")
    with pytest.raises(CoordctlError, match=r"tls.key is 'given.key', which is not PEM"):
        credentials.prepare(team, team.topology())
    (team.folder / "given.key").write_text(pair.key, encoding="ascii")
    assert credentials.prepare(team, team.topology()) == ["operator's token", "cache password"]
    assert team.vault.read(SECRETS_FILE)["vault_tls_key"] == pair.key
    assert team.authority is None


def test_an_earlier_site_keeps_its_token(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    site = make(folder)
    (folder / "admin.token").write_text("coord_admin_old\n", encoding="utf-8")
    credentials.prepare(site, site.topology())
    assert site.vault.read(SECRETS_FILE) == {"vault_admin_token": "coord_admin_old"}
