"""Who gets in between the containers, tried from within: the gateway's own container calls wallet."""

from dataclasses import dataclass

from deploy.compose.containers import Project

# Runs in the container, with what is in its image. Prints the status of one call.
_CALL = """
import sys
import grpc
from protos.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.chassis.settings import GrpcSettings
from services.chassis.transport import Certificates
how, method, request = sys.argv[1:]
pem = Certificates(GrpcSettings().transport.files).pem
credentials = {
    "certificate": grpc.ssl_channel_credentials(pem.authority, pem.key, pem.certificate),
    "anonymous": grpc.ssl_channel_credentials(pem.authority),
    "plain": None,
}[how]
open_channel = grpc.secure_channel if credentials else grpc.insecure_channel
with open_channel("wallet:15051", *([credentials] if credentials else [])) as channel:
    stub = wallet_pb2_grpc.WalletServiceStub(channel)
    try:
        getattr(stub, method)(getattr(wallet_pb2, request)(), timeout=5)
        print("OK")
    except grpc.RpcError as error:
        print(error.code().name)
"""


@dataclass(frozen=True)
class Door:
    """One call: how it is secured, what it asks, and the status that it must end with."""

    what: str
    how: str
    method: str
    status: str


DOORS = (
    # Let in: wallet looks at the request, and finds that it names no user.
    Door("its certificate, a method for the gateway", "certificate", "GetProfile", "INVALID_ARGUMENT"),
    Door("its certificate, a method for orders", "certificate", "ReservePoints", "PERMISSION_DENIED"),
    Door("TLS without a certificate", "anonymous", "GetProfile", "UNAVAILABLE"),
    Door("plain text", "plain", "GetProfile", "UNAVAILABLE"),
)


def knock(project: Project, door: Door) -> str:
    """The status that came; AssertionError when it is another than must be."""
    command = ("exec", "-T", "gateway", "python", "-c", _CALL, door.how, door.method, f"{door.method}Request")
    status = project.run(*command).strip()
    assert status == door.status, f"{door.what}: {status}, not {door.status}"
    return status
