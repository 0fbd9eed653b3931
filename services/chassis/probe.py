"""Whether a process serves: `python -m services.chassis.probe [URL]`, exit 0 or 1. For containers.

Without a URL it asks what this container's own environment says: the gRPC service at GRPC_LISTEN, with the
process's own certificate, or the HTTP server at LISTEN.
"""

import sys
import urllib.request
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.settings import GrpcSettings
from services.chassis.transport import Certificates, host_names

_SECONDS = 3.0


class ProbeSettings(GrpcSettings):
    grpc_listen: str | None = None
    listen: str | None = None


def main(arguments: Iterable[str]) -> int:
    settings = ProbeSettings()
    for url in arguments:
        return 0 if _answers(url) else 1
    if settings.grpc_listen:
        return 0 if _serves(settings.grpc_listen, settings) else 1
    if settings.listen:
        return 0 if _answers(f"http://{_local(settings.listen)}/healthz") else 1
    print("nothing to probe: neither a URL nor GRPC_LISTEN nor LISTEN is given", file=sys.stderr)
    return 1


def _answers(url: str) -> bool:
    """Whether `url` answers 200; no proxy of the environment is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_SECONDS) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _serves(listen: str, settings: ProbeSettings) -> bool:
    with _channel(_local(listen), settings) as channel:
        try:
            health = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _channel(address: str, settings: ProbeSettings) -> grpc.Channel:
    files = settings.transport.files
    if files is None:
        return grpc.insecure_channel(address)
    pem = Certificates(files).pem
    credentials = grpc.ssl_channel_credentials(pem.authority, pem.key, pem.certificate)
    # We are at the server's own side, under an address that its certificate does not name.
    options = [("grpc.ssl_target_name_override", host_names(pem.certificate)[0])]
    return grpc.secure_channel(address, credentials, options)


def _local(listen: str) -> str:
    """Where this machine reaches a server that listens at `host:port`."""
    host, _, port = listen.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("", "0.0.0.0", "[::]") else listen  # noqa: S104 - not bound here


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
