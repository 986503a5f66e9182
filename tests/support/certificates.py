"""Certificates for tests of TLS, made as they are needed: authorities, servers, clients, expired ones. Knows no broker."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Certificate(NamedTuple):
    """Files of a certificate and of its key, as PEM; `both` holds the two, as a broker's key store wants it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    certfile: Path
    keyfile: Path
    both: Path


def certificate(
    folder: Path, name: str, signer: Certificate | None = None, *, hosts: tuple[str, ...] = ("localhost",), expired: bool = False
) -> Certificate:
    """A certificate for `hosts` (names and addresses), signed by `signer`; without one an authority that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    ends = now - DAY if expired else now + 2 * DAY
    alternatives = x509.SubjectAlternativeName([_general(host) for host in hosts])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - 3 * DAY)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(alternatives, critical=False)
    )
    made = builder.sign(signer.key if signer else key, hashes.SHA256())
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths = folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}.both"
    for path, content in zip(paths, (pem, private, private + pem), strict=True):
        path.write_bytes(content)
    return Certificate(made, key, *paths)


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
