"""`coord` over TLS: a site's own authority is trusted where it is named, and nowhere else."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from coord import AsyncClient, BadCall, Client
from support.server import start

COORD = str(Path(sys.executable).with_name("coord"))


def make_authority(folder: Path) -> tuple[Path, Path]:
    """(authority, certificate and key of 127.0.0.1) as PEM files."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
             for name in ("authority", "server")]

    def signed(which: int, *extensions: x509.ExtensionType) -> bytes:
        builder = (x509.CertificateBuilder().subject_name(names[which]).issuer_name(names[0])
                   .public_key(keys[which].public_key())
                   .serial_number(x509.random_serial_number())
                   .not_valid_before(now - datetime.timedelta(hours=1))
                   .not_valid_after(now + datetime.timedelta(days=1)))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(keys[0], hashes.SHA256()).public_bytes(Encoding.PEM)

    folder.mkdir()
    ca, server = folder / "ca.pem", folder / "server.pem"
    ca.write_bytes(signed(0, x509.BasicConstraints(ca=True, path_length=0)))
    server.write_bytes(keys[1].private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + signed(
            1, x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])))
    return ca, server


class Site(NamedTuple):
    url: str
    ca: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A coordd behind a TLS end, as nginx is one."""
    folder = tmp_path_factory.mktemp("tls")
    ca, certificate = make_authority(folder / "site")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    loop = asyncio.new_event_loop()
    with start(folder / "data") as server:
        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            except OSError:
                pass
            finally:
                writer.close()

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

        end = loop.run_until_complete(asyncio.start_server(forward, "127.0.0.1", 0, ssl=context))
        port = end.sockets[0].getsockname()[1]
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        yield Site(f"https://127.0.0.1:{port}", str(ca))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        end.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_the_client_trusts_the_authority_that_is_named(site: Site) -> None:
    with Client(site.url, ca=site.ca) as client:
        sent = client.send("code", "chat", "Hi", "there")
        assert client.message(sent.id, agent="chat").body == "there"


async def test_the_async_client_too(site: Site) -> None:
    async with AsyncClient(site.url, ca=site.ca) as client:
        sent = await client.send("code", "chat", "Hi", "there")
        assert (await client.message(sent.id, agent="chat")).body == "there"


def test_without_it_the_certificate_is_refused_at_once(site: Site) -> None:
    with Client(site.url) as client, pytest.raises(BadCall, match="--ca or") as caught:
        client.stats()
    assert site.url in str(caught.value)


async def test_the_async_client_refuses_it_too(site: Site) -> None:
    async with AsyncClient(site.url) as client:
        with pytest.raises(BadCall, match="--ca or"):
            await client.stats()


def test_another_authority_is_not_trusted(site: Site, tmp_path: Path) -> None:
    other, _ = make_authority(tmp_path / "other")
    with Client(site.url, ca=str(other)) as client, pytest.raises(BadCall, match="not trusted"):
        client.stats()


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_file_that_holds_none_is_told(site: Site, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadCall, match=r"ca\.pem can't be used"), Client(
            site.url, ca=str(file)) as client:
        client.stats()


@pytest.mark.parametrize("how", ["option", "environment", "file"])
def test_the_command(site: Site, tmp_path: Path, how: str) -> None:
    words, environ = [COORD, "send", "code", "chat", "Hi", "there"], {"PATH": "/usr/bin:/bin"}
    environ |= {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    if how == "option":
        words += ["--url", site.url, "--ca", site.ca]
    elif how == "environment":
        environ |= {"COORD_URL": site.url, "COORD_CA": site.ca}
    else:
        (tmp_path / "coord").mkdir()
        (tmp_path / "coord" / "config.toml").write_text(
            f'url = "{site.url}"\nca = "{site.ca}"\n')
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sent ")


def test_the_command_says_what_to_do(site: Site, tmp_path: Path) -> None:
    done = subprocess.run([COORD, "stats", "--url", site.url], capture_output=True, text=True,
                          timeout=60, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    assert done.returncode == 1
    assert "--ca" in done.stderr
