"""How our processes reach each other: mTLS from files, or plain text that does not leave the machine.

A certificate names its process as the URI `aishop://<name>` among its subject alternative names; the host
names beside it are what clients check the server by. The files may be replaced at any time, as cert-manager
does: the next handshake of a server, and the next call of a client, uses what is there then.
"""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.chassis import logs

log = logs.get(__name__)

CALLER_SCHEME = "aishop://"
_LOOK_SECONDS = 1.0


class InsecureTransportError(ValueError):
    """Plain text would leave this machine."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: a process's own certificate and key, and the authority whose certificates it believes."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True)
class Pem:
    """What the files held."""

    certificate: bytes
    key: bytes
    authority: bytes


@dataclass(frozen=True)
class Transport:
    """TLS with these files; without them plain text, on loopback only unless `is_plaintext_allowed`."""

    files: TlsFiles | None = None
    is_plaintext_allowed: bool = False

    @property
    def certificates(self) -> Mapping[str, Path]:
        """Those that end one day."""
        return {"own": self.files.certificate, "authority": self.files.authority} if self.files else {}

    def require_safe(self, address: str) -> None:
        """InsecureTransportError when what is said at `address` could be read on the way."""
        if self.files or self.is_plaintext_allowed or is_loopback(address):
            return
        raise InsecureTransportError(
            f"{address} is not on this machine, and would be spoken to in plain text: set GRPC_TLS_CERT, "
            "GRPC_TLS_KEY and GRPC_TLS_CA, or GRPC_PLAINTEXT=true where something else encrypts"
        )


LOOPBACK = Transport()


def is_loopback(address: str) -> bool:
    """Whether a listening address or a target (`host:port`, `dns:///host:port`, or several replicas as
    `ipv4:host:port,host:port`) stays on this machine."""
    if address.startswith("unix:"):
        return True
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        address = address.removeprefix(scheme)
    return all(
        _is_loopback_host(each.rpartition(":")[0].strip("[]")) for each in address.lstrip("/").split(",")
    )


def _is_loopback_host(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Certificates:
    """The files as they were last read whole."""

    def __init__(self, files: TlsFiles) -> None:
        """OSError or ValueError when they are missing or do not belong together."""
        self._files = files
        self._stamp = _stamp(files)
        self.pem = _read(files)

    def reload(self) -> bool:
        """Whether the files were replaced since; what is half replaced is left for the next time."""
        try:
            stamp = _stamp(self._files)
            if stamp == self._stamp:
                return False
            self.pem = _read(self._files)
        except (OSError, ValueError) as error:
            log.warning("tls.reload_failed", error=repr(error))
            return False
        # Taken before the reading: what was replaced meanwhile is read again.
        self._stamp = stamp
        log.info("tls.reloaded", certificate=str(self._files.certificate))
        return True


class ServerIdentity:
    """Server credentials that demand a client's certificate, and that look at the files at each handshake."""

    def __init__(self, files: TlsFiles) -> None:
        self._certificates = Certificates(files)
        self.credentials = grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._newer, require_client_authentication=True
        )

    def _newer(self) -> Any:
        """None keeps what is in use; grpc's type stubs know only of the other answer."""
        return self._configuration() if self._certificates.reload() else None

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pem = self._certificates.pem
        return grpc.ssl_server_certificate_configuration(
            [(pem.key, pem.certificate)], root_certificates=pem.authority
        )


class ClientIdentity:
    """Channel credentials of the files as they are, looked at once a second at most."""

    def __init__(self, files: TlsFiles) -> None:
        self._certificates = Certificates(files)
        self._look_at = time.monotonic() + _LOOK_SECONDS

    def is_renewed(self) -> bool:
        """Whether `credentials` now gives others than before."""
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + _LOOK_SECONDS
        return self._certificates.reload()

    def credentials(self) -> grpc.ChannelCredentials:
        pem = self._certificates.pem
        return grpc.ssl_channel_credentials(pem.authority, pem.key, pem.certificate)


def caller_of(peer: Mapping[str, Iterable[bytes]]) -> str | None:
    """The name in a verified peer's certificate; None where there is none, or more than one."""
    uris = [uri.decode() for uri in peer.get("peer_uri", ())]
    names = [uri.removeprefix(CALLER_SCHEME) for uri in uris if uri.startswith(CALLER_SCHEME)]
    return names[0] if len(names) == 1 else None


def _stamp(files: TlsFiles) -> tuple[tuple[int, int, int], ...]:
    """Changes whenever a file is written or replaced, a mounted secret's symbolic links included."""
    found = [os.stat(path) for path in (files.certificate, files.key, files.authority)]
    return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)


def _read(files: TlsFiles) -> Pem:
    """ValueError unless the key is the certificate's and the authority is one."""
    pem = Pem(*(path.read_bytes() for path in (files.certificate, files.key, files.authority)))
    x509.load_pem_x509_certificates(pem.authority)
    certificate = x509.load_pem_x509_certificate(pem.certificate)
    if certificate.public_key() != load_pem_private_key(pem.key, password=None).public_key():
        raise ValueError(f"{files.key} is not the key of {files.certificate}")
    return pem
