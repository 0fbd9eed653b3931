"""mTLS on real servers: who gets in, what plain text may leave the machine, replaced certificates."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from deploy import pki
from protos.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.chassis import probe
from services.chassis.errors import Unavailable
from services.chassis.grpc_client import call, channel
from services.chassis.grpc_server import GrpcServer
from services.chassis.settings import GrpcSettings
from services.chassis.transport import (
    LOOPBACK,
    Certificates,
    InsecureTransportError,
    TlsFiles,
    Transport,
    caller_of,
)
from services.wallet.callers import CALLERS
from tests.integration.chassis.support import eventually
from tests.integration.chassis.test_grpc import free_address


class Servicer(wallet_pb2_grpc.WalletServiceServicer):
    """Answers the methods that the tests call."""

    async def GetProfile(self, request: Any, _: Any) -> wallet_pb2.GetProfileResponse:
        return wallet_pb2.GetProfileResponse(profile=wallet_pb2.Profile(id=request.user_id))

    async def ReservePoints(self, _: Any, __: Any) -> wallet_pb2.ReservePointsResponse:
        return wallet_pb2.ReservePointsResponse()


class Authority:
    """Issues certificates into folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._issuer = pki.new_authority(datetime.now(UTC))

    def transport(
        self, process: str, *, life: timedelta = timedelta(hours=1), age: timedelta = timedelta(0)
    ) -> Transport:
        """A new certificate in the place of the process's last one."""
        folder, issued = self.folder / process, datetime.now(UTC) - age
        pki.write_leaf(folder, self._issuer, process, hosts=("localhost",), now=issued, life=life)
        return Transport(TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@asynccontextmanager
async def serving(transport: Transport) -> AsyncIterator[str]:
    """wallet's methods under wallet's own table; gives the target at which clients find them."""
    port = free_address().rpartition(":")[2]
    server = GrpcServer(f"127.0.0.1:{port}", transport=transport, callers=CALLERS)
    servicer: Any = Servicer
    server.add(
        servicer(),
        wallet_pb2_grpc.add_WalletServiceServicer_to_server,
        wallet_pb2.DESCRIPTOR.services_by_name["WalletService"],
    )
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop()


async def get_profile(opened: grpc.aio.Channel) -> str:
    stub = wallet_pb2_grpc.WalletServiceStub(opened)
    request = wallet_pb2.GetProfileRequest(user_id="u")
    return str((await call(stub.GetProfile, request, timeout_seconds=5)).profile.id)


async def reserve_points(opened: grpc.aio.Channel) -> None:
    stub = wallet_pb2_grpc.WalletServiceStub(opened)
    await call(stub.ReservePoints, wallet_pb2.ReservePointsRequest(), timeout_seconds=5)


async def refused_at_the_door(target: str, transport: Transport) -> None:
    """No call gets through; a handshake that fails looks like a server that is away."""
    async with channel(target, transport) as opened:
        with pytest.raises(Unavailable) as caught:
            await get_profile(opened)
    assert caught.value.reason == "UNAVAILABLE"


async def test_each_caller_may_call_what_the_table_says(authority: Authority) -> None:
    async with (
        serving(authority.transport("wallet")) as target,
        channel(target, authority.transport("gateway")) as gateway,
        channel(target, authority.transport("orders")) as orders,
    ):
        assert await get_profile(gateway) == "u"
        await reserve_points(orders)
        for stranger in (get_profile(orders), reserve_points(gateway)):
            with pytest.raises(Unavailable) as caught:
                await stranger
            assert caught.value.reason == "CALLER_NOT_ALLOWED"


async def test_a_caller_in_no_table_may_ask_for_health_alone(authority: Authority) -> None:
    async with (
        serving(authority.transport("wallet")) as target,
        channel(target, authority.transport("operator")) as operator,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wallet_pb2_grpc.WalletServiceStub(operator).GetProfile(
                wallet_pb2.GetProfileRequest(user_id="u"), timeout=5
            )
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        health: Any = health_pb2_grpc.HealthStub(operator)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_is_not_offered_with_tls(authority: Authority) -> None:
    async with (
        serving(authority.transport("wallet")) as target,
        channel(target, authority.transport("gateway")) as gateway,
    ):
        reflect: Any = gateway.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflect(iter([b""]), timeout=5).read()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_who_has_no_certificate_is_refused(authority: Authority) -> None:
    async with serving(authority.transport("wallet")) as target:
        await refused_at_the_door(target, LOOPBACK)
        ca = (authority.folder / "wallet" / "ca.crt").read_bytes()
        async with grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca)) as nameless:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await wallet_pb2_grpc.WalletServiceStub(nameless).GetProfile(
                    wallet_pb2.GetProfileRequest(user_id="u"), timeout=5
                )
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_another_authority_is_believed_by_neither_side(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    gateway, stranger = authority.transport("gateway"), other.transport("gateway")
    assert gateway.files is not None
    assert stranger.files is not None
    # Each believes the right server, and shows the wrong certificate; then the reverse.
    intruder = Transport(replace(stranger.files, authority=gateway.files.authority))
    believer = Transport(replace(gateway.files, authority=stranger.files.authority))
    async with serving(authority.transport("wallet")) as target:
        await refused_at_the_door(target, intruder)
        await refused_at_the_door(target, believer)
        async with channel(target, gateway) as opened:
            assert await get_profile(opened) == "u"


async def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    expired = authority.transport("gateway", life=timedelta(minutes=1), age=timedelta(hours=1))
    async with serving(authority.transport("wallet")) as target:
        await refused_at_the_door(target, expired)
    expired = authority.transport("wallet", life=timedelta(minutes=1), age=timedelta(hours=1))
    async with serving(expired) as target:
        await refused_at_the_door(target, authority.transport("gateway"))


async def test_replaced_certificates_are_used_without_a_restart(authority: Authority) -> None:
    """Under an authority that neither side knew when it began."""
    wallet, gateway = authority.transport("wallet"), authority.transport("gateway")
    async with serving(wallet) as target, channel(target, gateway) as opened:
        assert await get_profile(opened) == "u"
        renewed = Authority(authority.folder)
        renewed.transport("wallet")
        await refused_at_the_door(target, gateway)
        renewed.transport("gateway")

        async def gets_through() -> bool:
            async with channel(target, gateway) as fresh:
                return await get_profile(fresh) == await get_profile(opened) == "u"

        await eventually(gets_through, "both sides have the new authority")


async def test_a_channel_leaves_its_old_certificate_behind(authority: Authority) -> None:
    """What was open when the certificate was replaced serves calls under the new one."""
    async with (
        serving(authority.transport("wallet")) as target,
        channel(target, authority.transport("gateway")) as opened,
    ):
        assert await get_profile(opened) == "u"
        gateway, orders = (authority.folder / name for name in ("gateway", "orders"))
        authority.transport("orders")
        for name in ("tls.key", "tls.crt"):
            (orders / name).replace(gateway / name)

        async def is_orders() -> bool:
            with suppress(Unavailable):
                await reserve_points(opened)
                return True
            return False

        await eventually(is_orders, "the same channel speaks as orders")


def test_half_replaced_files_leave_the_last_whole_ones_in_use(authority: Authority) -> None:
    transport = authority.transport("gateway")
    assert transport.files is not None
    certificates = Certificates(transport.files)
    before = certificates.pem
    authority.transport("orders")
    (authority.folder / "orders" / "tls.crt").replace(transport.files.certificate)
    assert not certificates.reload()
    assert certificates.pem == before
    (authority.folder / "orders" / "tls.key").replace(transport.files.key)
    assert certificates.reload()
    assert certificates.pem != before
    assert not certificates.reload()


@pytest.mark.parametrize(
    "address", ["0.0.0.0:15051", "[::]:15051", "10.0.0.7:15051", "wallet:15051", ":15051"]
)
def test_plain_text_stays_on_this_machine(address: str) -> None:
    with pytest.raises(InsecureTransportError, match="GRPC_TLS_CERT"):
        GrpcServer(address)
    with pytest.raises(InsecureTransportError, match="GRPC_TLS_CERT"):
        channel(f"dns:///{address}")
    Transport(is_plaintext_allowed=True).require_safe(address)


def test_plain_text_goes_to_no_replica_on_another_machine() -> None:
    with pytest.raises(InsecureTransportError, match="GRPC_TLS_CERT"):
        channel("ipv4:127.0.0.1:15051,10.0.0.7:15051")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1:1", "[::1]:1", "localhost:1", "dns:///localhost:1", "unix:/s"),
        *("ipv4:127.0.0.1:1,127.0.0.1:2", "ipv6:[::1]:1,[::1]:2"),
    ],
)
def test_plain_text_is_fine_on_loopback(address: str) -> None:
    LOOPBACK.require_safe(address)


@pytest.mark.parametrize(
    "settings",
    [
        {"grpc_tls_cert": "/a"},
        {"grpc_tls_cert": "/a", "grpc_tls_key": "/b"},
        {"grpc_tls_cert": "/a", "grpc_tls_key": "/b", "grpc_tls_ca": "/c", "grpc_plaintext": True},
    ],
)
def test_half_of_tls_is_no_tls_and_does_not_start(settings: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError, match="GRPC_TLS_CERT"):
        GrpcSettings(**settings)


@pytest.mark.parametrize(
    ("uris", "name"),
    [
        ([], None),
        ([b"aishop://gateway"], "gateway"),
        ([b"spiffe://cluster/ns/shop", b"aishop://orders"], "orders"),
        ([b"spiffe://cluster/ns/gateway"], None),
        ([b"aishop://gateway", b"aishop://orders"], None),
    ],
)
def test_a_caller_has_one_name_or_none(uris: list[bytes], name: str | None) -> None:
    assert caller_of({"peer_uri": uris, "peer_dns": [b"gateway"]}) == name


async def test_the_probe_asks_with_the_servers_own_certificate(authority: Authority) -> None:
    files = authority.transport("wallet").files
    assert files is not None
    tls = {"GRPC_TLS_CERT": files.certificate, "GRPC_TLS_KEY": files.key, "GRPC_TLS_CA": files.authority}
    async with serving(Transport(files)) as target:
        environment = {"GRPC_LISTEN": f"0.0.0.0:{target.rpartition(':')[2]}"}
        whole = environment | {name: str(path) for name, path in tls.items()}
        assert await asyncio.to_thread(probe.main, [], whole) == 0
        assert await asyncio.to_thread(probe.main, [], environment) == 1
    assert await asyncio.to_thread(probe.main, [], whole) == 1


async def test_the_probe_asks_http_servers_too() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_healthz = (await reader.readline()).startswith(b"GET /healthz ")
        writer.write(b"HTTP/1.1 %d \r\nContent-Length: 0\r\n\r\n" % (200 if is_healthz else 503))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await asyncio.to_thread(probe.main, [], {"LISTEN": f"0.0.0.0:{port}"}) == 0
        assert await asyncio.to_thread(probe.main, [f"http://127.0.0.1:{port}/healthz"], {}) == 0
        assert await asyncio.to_thread(probe.main, [f"http://127.0.0.1:{port}/other"], {}) == 1
    assert await asyncio.to_thread(probe.main, [], {"LISTEN": f"127.0.0.1:{port}"}) == 1
