"""A private certificate authority, and a server's certificate that it has signed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from harness import SIGNING_KEY


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """Files in PEM: the authority's certificate, and the server's with its key."""

    authority: Path
    server: Path

    def server_context(self) -> ssl.SSLContext:
        """Return the TLS context for a server on asyncio's streams."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        return context


def certificates(directory: Path, *, host: str, address: str = "127.0.0.1") -> Certificates:
    """Write the certificates of a server that clients reach by `host` or `address`."""
    # One key for both saves a tenth of a second.
    key = serialization.load_pem_private_key(SIGNING_KEY.encode(), None)
    assert isinstance(key, RSAPrivateKey)
    authority_name, server_name = _name("Private CA"), _name(host)
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    authority = (
        _builder(authority_name, authority_name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(key_id, critical=False)
        .sign(key, hashes.SHA256())
    )
    names = [x509.DNSName(host), x509.IPAddress(ip_address(address))]
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)
    server = (
        _builder(authority_name, server_name, key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issued_by, critical=False)
        .sign(key, hashes.SHA256())
    )
    made = Certificates(authority=directory / "authority.pem", server=directory / "server.pem")
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.server.write_bytes(server.public_bytes(serialization.Encoding.PEM) + SIGNING_KEY.encode())
    return made


_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _builder(issuer: x509.Name, subject: x509.Name, key: RSAPrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now - timedelta(days=1),
        now + timedelta(days=1),
    )
