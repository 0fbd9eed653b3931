"""Each service's table of callers: every RPC of its protos, and processes that have certificates."""

import pytest
from google.protobuf.descriptor import FileDescriptor

from deploy.pki import PROCESSES
from protos.messaging.v1 import messaging_pb2
from protos.orders.v1 import orders_pb2
from protos.payments.v1 import payments_pb2
from protos.wallet.v1 import wallet_pb2
from services.chassis.grpc_server import Callers
from services.orders.callers import CALLERS as ORDERS
from services.payments.callers import CALLERS as PAYMENTS
from services.wallet.callers import CALLERS as WALLET

TABLES = [
    pytest.param([wallet_pb2.DESCRIPTOR, messaging_pb2.DESCRIPTOR], WALLET, id="wallet"),
    pytest.param([orders_pb2.DESCRIPTOR, messaging_pb2.DESCRIPTOR], ORDERS, id="orders"),
    pytest.param([payments_pb2.DESCRIPTOR], PAYMENTS, id="payments"),
]
# What moves points or an order's money: only the saga that answers for it may say so.
SAGAS = {
    *("ReservePoints", "CapturePoints", "ReleasePoints", "RefundOrderPoints"),
    *("CreateOrderCheckout", "ExpireOrderCheckout", "CreateRefund", "GetRefund"),
}


@pytest.mark.parametrize(("files", "table"), TABLES)
def test_every_rpc_has_its_callers_and_no_other_is_named(files: list[FileDescriptor], table: Callers) -> None:
    declared = {
        service.full_name: {method.name for method in service.methods}
        for file in files
        for service in file.services_by_name.values()
    }
    assert {service: set(methods) for service, methods in table.items()} == declared


@pytest.mark.parametrize(("files", "table"), TABLES)
def test_sagas_alone_move_points_and_the_gateway_alone_speaks_for_people(
    files: list[FileDescriptor], table: Callers
) -> None:
    assert set(PROCESSES) > {"gateway", "orders"}
    for methods in table.values():
        for method, callers in methods.items():
            assert callers == {"orders" if method in SAGAS else "gateway"}, method
