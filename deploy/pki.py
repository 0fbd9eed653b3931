"""A certificate authority for one machine: `python -m deploy.pki OUT_DIR`. Kubernetes has cert-manager.

Each process gets a folder with `tls.crt`, `tls.key` and `ca.crt`, as in a cert-manager secret, so that a
container can be given its own folder and no other's key. Run again, it renews what is near its end and leaves
the rest; running processes take the new files without a restart.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.local.secret_store import write_private
from services.chassis.transport import CALLER_SCHEME

PROCESSES = ("wallet", "orders", "payments", "gateway", "operator")
_AUTHORITY_LIFE = timedelta(days=730)
_LEAF_LIFE = timedelta(days=30)
# Clocks differ.
_BACKDATED = timedelta(minutes=5)


@dataclass(frozen=True)
class Issuer:
    """An authority's certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def issue_all(folder: Path, now: datetime) -> list[str]:
    """Makes sure of the authority and of every process's certificate; returns the names of the new ones."""
    issuer, made = _authority(folder / "authority", now)
    for process in PROCESSES:
        if not _is_good(folder / process, issuer, now):
            write_leaf(folder / process, issuer, process, hosts=(process,), now=now, life=_LEAF_LIFE)
            made.append(process)
    return made


def new_authority(now: datetime) -> Issuer:
    """A self-signed authority that signs leaves and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "AI Shop development authority")])
    builder = (
        _builder(name, name, key.public_key(), now, _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return Issuer(builder.sign(key, SHA256()), key)


def write_leaf(
    folder: Path, issuer: Issuer, process: str, *, hosts: Sequence[str], now: datetime, life: timedelta
) -> None:
    """Writes a process's certificate, key and authority; each file is replaced whole. `hosts` are the names
    under which it is reached as a server."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, process)])
    names = [
        *(x509.DNSName(host) for host in hosts),
        x509.UniformResourceIdentifier(f"{CALLER_SCHEME}{process}"),
    ]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    builder = (
        _builder(subject, issuer.certificate.subject, key.public_key(), now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(authority_key, critical=False)
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_private(folder / "ca.crt", _pem(issuer.certificate))
    write_private(folder / "tls.key", _key_pem(key))
    write_private(folder / "tls.crt", _pem(builder.sign(issuer.key, SHA256())))


def _authority(folder: Path, now: datetime) -> tuple[Issuer, list[str]]:
    if (folder / "ca.crt").exists() and (folder / "ca.key").exists():
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        key = load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        # It must outlive what it signs.
        is_ours = isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()
        if is_ours and certificate.not_valid_after_utc > now + _LEAF_LIFE:
            assert isinstance(key, ec.EllipticCurvePrivateKey), "looked at above"
            return Issuer(certificate, key), []
    issuer = new_authority(now)
    folder.mkdir(parents=True, exist_ok=True)
    write_private(folder / "ca.key", _key_pem(issuer.key))
    write_private(folder / "ca.crt", _pem(issuer.certificate))
    return issuer, ["authority"]


def _is_good(folder: Path, issuer: Issuer, now: datetime) -> bool:
    """Whether a certificate of this authority is there that has more than a third of its life left."""
    files = [folder / name for name in ("tls.crt", "tls.key", "ca.crt")]
    if not all(file.exists() for file in files) or files[2].read_text() != _pem(issuer.certificate):
        return False
    certificate = x509.load_pem_x509_certificate(files[0].read_bytes())
    key = load_pem_private_key(files[1].read_bytes(), password=None)
    has_time = certificate.not_valid_after_utc - now > _LEAF_LIFE / 3
    return has_time and certificate.public_key() == key.public_key()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m deploy.pki OUT_DIR", file=sys.stderr)
        return 2
    # Folders that only their owner may enter.
    os.umask(0o077)
    made = issue_all(Path(arguments[0]), datetime.now(UTC))
    print(f"new: {', '.join(made)}" if made else "every certificate is still good")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
