"""Whether a process serves: `python -m services.chassis.probe [URL]`, exit 0 or 1. For containers.

Without a URL it asks what this container's own environment says: the gRPC service at GRPC_LISTEN, with the
process's own certificate, or the HTTP server at LISTEN. It runs every few seconds as long as the container
does, hence no settings class, and no more imports than the question needs: 0.1 to 0.3 s of CPU, not 0.8.
"""

import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import grpc

_SECONDS = 5.0


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    if arguments:
        return 0 if _answers(arguments[0]) else 1
    if listen := environment.get("GRPC_LISTEN"):
        return 0 if _serves(_local(listen), environment) else 1
    if listen := environment.get("LISTEN"):
        return 0 if _answers(f"http://{_local(listen)}/healthz") else 1
    print("nothing to probe: neither a URL nor GRPC_LISTEN nor LISTEN is given", file=sys.stderr)
    return 1


def _answers(url: str) -> bool:
    """Whether an http URL answers 200."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_SECONDS)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _serves(address: str, environment: Mapping[str, str]) -> bool:
    """Whether a gRPC server says SERVING to whoever shows its own certificate."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    names = [environment.get(name) for name in ("GRPC_TLS_CERT", "GRPC_TLS_KEY", "GRPC_TLS_CA")]
    files = [Path(name).read_bytes() for name in names if name]
    with _secure_channel(address, *files) if files else grpc.insecure_channel(address) as channel:
        try:
            health = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _secure_channel(address: str, certificate: bytes, key: bytes, authority: bytes) -> "grpc.Channel":
    import grpc
    from cryptography import x509

    extensions = x509.load_pem_x509_certificate(certificate).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    # We are at the server's own side, under an address that its certificate does not name.
    options = [("grpc.ssl_target_name_override", names.get_values_for_type(x509.DNSName)[0])]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate), options)


def _local(listen: str) -> str:
    """Where this machine reaches a server that listens at `host:port`."""
    host, _, port = listen.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("", "0.0.0.0", "[::]") else listen  # noqa: S104 - not bound here


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
