"""certificates.py FOLDER NAME=ADDRESS …: an authority, and a certificate that it signed for each.

Writes ca.pem, and NAME.pem and NAME.key for each name, twice: next/ has what a renewal gives. The
authority's own key is thrown away.
"""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC)


def signed(subject: str, key: ec.EllipticCurvePrivateKey, issuer: str,
           issuer_key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> bytes:
    """A certificate of one day, PEM."""
    builder = (x509.CertificateBuilder()
               .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
               .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
               .public_key(key.public_key())
               .serial_number(x509.random_serial_number())
               .not_valid_before(NOW - datetime.timedelta(hours=1))
               .not_valid_after(NOW + datetime.timedelta(days=1)))
    for extension in extensions:
        builder = builder.add_extension(
            extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def main(folder: Path, machines: list[str]) -> None:
    (folder / "next").mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    for where, machine in itertools.product((folder, folder / "next"), machines):
        name, _, address = machine.partition("=")
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
        names = x509.SubjectAlternativeName([
            x509.DNSName(name), x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address(address))])
        (where / f"{name}.key").write_bytes(key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (where / f"{name}.pem").write_bytes(
            signed(name, key, "authority", authority, names, issuer))
    (folder / "ca.pem").write_bytes(signed(
        "authority", authority, "authority", authority,
        x509.BasicConstraints(ca=True, path_length=0),
        x509.SubjectKeyIdentifier.from_public_key(authority.public_key()),
        x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True,
                      content_commitment=False, key_encipherment=False, data_encipherment=False,
                      key_agreement=False, encipher_only=False, decipher_only=False)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
