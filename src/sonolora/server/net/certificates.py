"""The server's own certificate authority, for clients that insist on https.

In: a folder and host names. Out: a certificate for these, for this machine and for the published hosts of the tunnel,
and the authority that users make their clients trust (`ca.pem`, or `bundle.pem` where a file replaces all trusted
authorities). The authority is constrained to these names (RFC 5280, 4.2.1.10): whoever steals its key cannot
impersonate anyone else.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sonolora.core.atomic_files import atomic_write
from sonolora.server.net.urls import HOST_ALIASES

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
DAY = datetime.timedelta(days=1)
AUTHORITY_LIFETIME = 3650 * DAY
LIFETIME = 397 * DAY  # the longest that Apple's systems accept is 398
RENEW_BEFORE = 30 * DAY

Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def ensure_certificate(folder: Path, names: Sequence[str]) -> tuple[Path, Path, Path]:
    """The paths of the certificate, its key and the authority's certificate, all PEM; missing ones are created.

    `names` are host names or IP addresses. A certificate is kept while it is valid for another 30 days and for all
    names. The authority is replaced only when it expires or needs a new name, since clients have to trust it again
    then. `bundle.pem` beside them has the usual authorities (certifi's) and this one, for SSL_CERT_FILE. Only their
    owner can read the keys. ValueError for a name that cannot be in a certificate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    required = _general_names([*THIS_MACHINE, *HOST_ALIASES, *names])
    ca_path, ca_key_path = folder / "ca.pem", folder / "ca_key.pem"
    path, key_path = folder / "server.pem", folder / "server_key.pem"

    authority = _load(ca_path, ca_key_path)
    if authority is None or not _subtrees(required) <= _permitted(authority[0]):
        authority = _make_authority(required)
        _store(authority, ca_path, ca_key_path)
    leaf = _load(path, key_path)
    if leaf is None or required != _names(leaf[0]) or not _issued(leaf[0], authority[0]):
        _store(_make_leaf(required, authority), path, key_path)

    bundle = Path(certifi.where()).read_bytes().rstrip() + b"\n\n" + authority[0].public_bytes(Encoding.PEM)
    if not (folder / "bundle.pem").is_file() or (folder / "bundle.pem").read_bytes() != bundle:
        with atomic_write(folder / "bundle.pem") as temporary:
            temporary.write_bytes(bundle)
    return path, key_path, ca_path


def _make_authority(names: Iterable[x509.GeneralName]) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject("Sonolora's own authority")
    certificate = (
        _builder(subject, subject, key, key, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.NameConstraints(_subtrees(names), None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _make_leaf(names: Iterable[x509.GeneralName], authority: Pair) -> Pair:
    ca, ca_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    lifetime = min(LIFETIME, ca.not_valid_after_utc - _now())
    certificate = (
        _builder(_subject("Sonolora"), ca.subject, key, ca_key, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return certificate, key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    """The common part of both certificates. They start an hour ago: clocks differ."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - DAY / 24)
        .not_valid_after(_now() + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _load(path: Path, key_path: Path) -> Pair | None:
    """The certificate and its key; None if one is missing, damaged or of another pair, or expires soon."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = load_pem_private_key(key_path.read_bytes(), None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        return None
    return (certificate, key) if certificate.not_valid_after_utc - _now() > RENEW_BEFORE else None


def _store(pair: Pair, path: Path, key_path: Path) -> None:
    certificate, key = pair
    # Written one after the other: a half-written pair is replaced at the next start.
    with atomic_write(key_path) as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
        temporary.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with atomic_write(path) as temporary:
        temporary.write_bytes(certificate.public_bytes(Encoding.PEM))


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _general_names(names: Iterable[str]) -> set[x509.GeneralName]:
    general: set[x509.GeneralName] = set()
    for name in names:
        try:
            general.add(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            general.add(x509.DNSName(name.lower().encode("idna").decode("ascii")))
    return general


def _names(certificate: x509.Certificate) -> set[x509.GeneralName]:
    return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def _permitted(authority: x509.Certificate) -> set[x509.GeneralName]:
    return set(authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or ())


def _subtrees(names: Iterable[x509.GeneralName]) -> set[x509.GeneralName]:
    """Names as constraints; for an address, the network of that single address."""
    return {
        x509.IPAddress(ipaddress.ip_network(name.value)) if isinstance(name, x509.IPAddress) else name for name in names
    }


def _usage(**granted: bool) -> x509.KeyUsage:
    usages = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{usage: granted.get(usage, False) for usage in usages})


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
