"""An outside client that has only stack.json: every RPC of every service, by reflection alone."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from deploy.local.ephemeral import RunningStack, wait_until

PRODUCT = "01920000-0000-7000-8000-000000000001"


class Outsider:
    """Calls methods by name with plain dictionaries; the types come from the server."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._database = ProtoReflectionDescriptorDatabase(self._channel)
        self._pool = DescriptorPool(self._database)
        self.called: set[str] = set()

    def methods(self) -> set[str]:
        ours = [name for name in self._database.get_services() if name.startswith("aishop.")]
        return {
            f"{name}/{method.name}" for name in ours for method in self._pool.FindServiceByName(name).methods
        }

    def call(self, service: str, name: str, **request: Any) -> dict[str, Any]:
        descriptor: ServiceDescriptor = self._pool.FindServiceByName(service)
        method = descriptor.FindMethodByName(name)
        message = ParseDict(request, GetMessageClass(method.input_type)())
        answer_type = GetMessageClass(method.output_type)
        kind = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call: Any = kind(
            f"/{service}/{name}",
            request_serializer=lambda given: given.SerializeToString(),
            response_deserializer=answer_type.FromString,
        )
        self.called.add(f"{service}/{name}")
        answer = call(message, timeout=10)
        return MessageToDict(
            next(answer) if method.server_streaming else answer,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )

    def stream(self, service: str, name: str, **request: Any) -> list[dict[str, Any]]:
        """All messages of a streaming call."""
        descriptor: ServiceDescriptor = self._pool.FindServiceByName(service)
        method = descriptor.FindMethodByName(name)
        call: Any = self._channel.unary_stream(
            f"/{service}/{name}",
            request_serializer=lambda given: given.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        self.called.add(f"{service}/{name}")
        answers = call(ParseDict(request, GetMessageClass(method.input_type)()), timeout=10)
        return [MessageToDict(answer, preserving_proto_field_name=True) for answer in answers]

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def outsiders(stack: RunningStack) -> Iterator[dict[str, Outsider]]:
    found = {name: Outsider(address) for name, address in stack.file.grpc.items()}
    yield found
    for outsider in found.values():
        outsider.close()


def test_every_rpc_can_be_called_by_reflection_alone(outsiders: dict[str, Outsider]) -> None:
    user, other = str(uuid4()), str(uuid4())
    _shop(outsiders["orders"], user)
    _stock(outsiders["orders"])
    _mend(outsiders["orders"], user)
    _pay(outsiders["payments"], user)
    _subscribe(outsiders["payments"], other)
    _refund(outsiders["payments"])
    _operate(outsiders["payments"])
    _adjust(outsiders["wallet"], user)
    _hold(outsiders["wallet"], user)
    _look_back(outsiders)
    for name in ("wallet", "orders"):
        _dead_letters(outsiders[name])
    for outsider in outsiders.values():
        assert outsider.called == outsider.methods()


def _shop(orders: Outsider, user: str) -> None:
    catalog, cart, service = (
        f"aishop.orders.v1.{name}" for name in ("CatalogService", "CartService", "OrdersService")
    )
    page = orders.call(catalog, "ListProducts", limit=2)
    assert len(page["items"]) == 2
    assert page["next_cursor"]
    assert orders.call(catalog, "GetProduct", product_id=PRODUCT)["product"]["price_points"] == "50"
    assert orders.call(cart, "GetCart", user_id=user)["cart"]["version"] == "0"
    line = {"product_id": PRODUCT, "quantity": 2}
    assert orders.call(cart, "SetCartItem", user_id=user, **line)["cart"]["total_points"] == "100"
    merged = orders.call(cart, "MergeCart", user_id=user, items=[line | {"quantity": 3}])
    assert merged["cart"]["items"][0]["quantity"] == 3
    assert orders.call(cart, "RemoveCartItem", user_id=user, product_id=PRODUCT)["cart"]["items"] == []
    assert orders.call(cart, "ClearCart", user_id=user)["cart"]["version"] == "4"
    placed = orders.call(
        service,
        "PlaceOrder",
        user_id=user,
        idempotency_key=str(uuid4()),
        payment_method="PAYMENT_METHOD_STRIPE",
        items=[line],
    )["order"]
    assert (placed["status"], placed["total_cents"]) == ("ORDER_STATUS_PENDING", "998")
    assert placed["url"].startswith("http")
    mine = {"user_id": user, "order_id": placed["id"]}
    assert orders.call(service, "GetOrder", **mine)["order"]["session_id"] == placed["session_id"]
    assert orders.call(service, "WatchOrder", **mine)["order"]["version"] == placed["version"]
    cancelled = orders.call(service, "CancelOrder", **mine)["order"]
    assert (cancelled["status"], cancelled["failure_reason"]) == (
        "ORDER_STATUS_CANCELLED",
        "cancelled_by_customer",
    )
    assert len(orders.call(service, "ListOrders", user_id=user)["items"]) == 1
    _download(orders, service, mine)


def _download(orders: Outsider, service: str, mine: dict[str, str]) -> None:
    """An order that nobody paid gives nothing."""
    assert orders.call(service, "ListDownloads", **mine)["items"] == []
    with pytest.raises(grpc.RpcError) as nothing:
        orders.call(service, "ReissueDownload", **mine, product_id=PRODUCT, idempotency_key="k")
    assert nothing.value.code() is grpc.StatusCode.NOT_FOUND
    link = {"user_id": mine["user_id"], "token": "none", "download_id": str(uuid4())}
    with pytest.raises(grpc.RpcError) as unknown:
        orders.stream(service, "Download", **link)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    shipment = {"carrier": "Post", "tracking_number": "1", "actor": "x", "reason": "x"}
    with pytest.raises(grpc.RpcError) as unpaid:
        orders.call(
            "aishop.orders.v1.OrdersOperatorService", "ShipOrder", order_id=mine["order_id"], **shipment
        )
    assert unpaid.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def _stock(orders: Outsider) -> None:
    service = "aishop.orders.v1.CatalogOperatorService"
    act, product = {"actor": str(uuid4()), "reason": "a look around"}, {"product_id": str(uuid4())}
    what = {"title": "By reflection", "type": "physical", "price_cents": 100, "stock": 2}
    created = orders.call(service, "CreateProduct", **product, **what, **act)["product"]
    assert (created["version"], created["stock_quantity"]) == ("1", "2")
    retired = orders.call(service, "ChangeProduct", **product, active=False, expected_version=1, **act)
    assert retired["product"]["product"]["active"] is False
    counted = {"movement_id": str(uuid4()), "reason": "STOCK_REASON_CORRECTED", "note": "one is torn"}
    moved = orders.call(service, "MoveStock", **product, delta=-1, actor=act["actor"], **counted)
    assert moved["product"] == orders.call(service, "InspectProduct", **product)["product"]
    movements = orders.call(service, "ListStockMovements", **product)["items"]
    assert [movement["delta"] for movement in movements] == ["-1", "2"]
    found = orders.call(service, "ListAllProducts", search="by REFLECTION")["items"]
    assert [item["product"]["id"] for item in found] == [product["product_id"]]


def _mend(orders: Outsider, user: str) -> None:
    """After somebody has shopped: there is an order that ended."""
    service = "aishop.orders.v1.OrdersOperatorService"
    act = {"actor": str(uuid4()), "reason": "a look around"}
    [run] = orders.call(service, "ListSagas", status="undone", limit=1)["items"]
    assert run["saga"].startswith("place_order_with_")
    told = orders.call(service, "GetTimeline", user_id=user)["entries"]
    assert {entry["service"] for entry in told} == {"orders"}
    order = {"order_id": told[0]["order_id"]}
    assert orders.call(service, "InspectOrder", **order)["user_id"] == user
    for name, request in (
        ("RefundOrder", order | act | {"refund_id": str(uuid4())}),
        ("RetrySaga", order | act | {"saga": "place_order_with_card/v1"}),
        ("CompensateSaga", order | act | {"saga": "place_order_with_card/v1"}),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            orders.call(service, name, **request)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION, name
    orders.call(service, "ListMails", status="in_doubt")
    wanted = {"kind": "shipped", "resolution": "MAIL_RESOLUTION_SEND_AGAIN"}
    with pytest.raises(grpc.RpcError) as refused:
        orders.call(service, "ResolveMail", **order, **act, **wanted)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    [found] = orders.call(service, "FindOrders", number=order["order_id"][-12:])["orders"]
    assert found["order_id"] == order["order_id"]
    orders.call(service, "ListDebts", limit=1)
    debt = {"decision_id": str(uuid4()), "decision": "DEBT_DECISION_WRITTEN_OFF", "amount_cents": 1}
    with pytest.raises(grpc.RpcError) as owes_nothing:
        orders.call(service, "DecideDebt", **order, **act, **debt)
    assert owes_nothing.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def _pay(payments: Outsider, user: str) -> None:
    service = "aishop.payments.v1.PaymentsService"
    packages = payments.call(service, "ListPackages")["packages"]
    assert {package["id"] for package in packages} >= {"basic", "premium", "pro"}
    opened = payments.call(
        service, "CreatePointsCheckout", user_id=user, idempotency_key=str(uuid4()), package_id="premium"
    )["checkout"]
    assert (opened["status"], opened["points"]) == ("CHECKOUT_STATUS_OPEN", "550")
    found = payments.call(service, "GetCheckout", user_id=user, checkout_id=opened["id"])["checkout"]
    assert found["session_id"] == opened["session_id"]
    watched = payments.call(service, "WatchCheckout", user_id=user, checkout_id=opened["id"])
    assert (watched["checkout"], watched["is_final"]) == (found, False)
    order = {"user_id": user, "order_id": str(uuid4())}
    lines = [{"title": "Picture", "unit_price_cents": 499, "quantity": 2}]
    checkout = payments.call(service, "CreateOrderCheckout", **order, currency="usd", lines=lines)["checkout"]
    assert checkout["amount_cents"] == "998"
    expired = payments.call(service, "ExpireOrderCheckout", **order)["checkout"]
    assert expired["status"] == "CHECKOUT_STATUS_EXPIRED"


def _subscribe(payments: Outsider, user: str) -> None:
    service = "aishop.payments.v1.PaymentsService"
    [monthly, *_] = payments.call(service, "ListPlans")["plans"]
    assert (monthly["interval"], int(monthly["points"]) > 0) == ("BILLING_INTERVAL_MONTH", True)
    checkout = payments.call(
        service,
        "CreateSubscriptionCheckout",
        user_id=user,
        idempotency_key=str(uuid4()),
        plan_id=monthly["id"],
    )["checkout"]
    assert (checkout["status"], checkout["plan_id"]) == ("CHECKOUT_STATUS_OPEN", monthly["id"])
    httpx.post(checkout["url"], data={"action": "pay"}, trust_env=False, timeout=15)

    def subscriptions() -> list[dict[str, Any]]:
        return list(payments.call(service, "ListSubscriptions", user_id=user)["items"])

    wait_until(lambda: bool(subscriptions()), seconds=30, what="a subscription")
    mine = {"user_id": user, "subscription_id": checkout["id"]}
    assert [payments.call(service, "GetSubscription", **mine)["subscription"]] == subscriptions()
    cancelled = payments.call(service, "CancelSubscription", **mine)["subscription"]
    assert (cancelled["status"], cancelled["cancel_at_period_end"]) == ("SUBSCRIPTION_STATUS_ACTIVE", True)


def _refund(payments: Outsider) -> None:
    """Only orders pays orders' money back; what it says to an order without a payment is enough here."""
    service = "aishop.payments.v1.PaymentsService"
    refund = {"order_id": str(uuid4()), "refund_id": str(uuid4()), "amount_cents": 1, "reason": "x"}
    with pytest.raises(grpc.RpcError) as unpaid:
        payments.call(service, "CreateRefund", **refund)
    assert unpaid.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as unknown:
        payments.call(service, "GetRefund", refund_id=refund["refund_id"])
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def _operate(payments: Outsider) -> None:
    """After somebody has paid: there are events."""
    service = "aishop.payments.v1.PaymentsOperatorService"
    act = {"actor": str(uuid4()), "reason": "a look around"}
    page = payments.call(service, "ListStripeEvents", type="checkout.session.*", limit=1)
    [event] = page["items"]
    found = payments.call(service, "GetStripeEvent", id=event["id"])
    assert json.loads(found["payload"])["id"] == found["event"]["id"] == event["id"]
    assert payments.call(service, "ReplayStripeEvents", type="nothing.of_this", **act)["ids"] == []
    with pytest.raises(grpc.RpcError) as settled:
        payments.call(service, "SetAsideStripeEvent", id=event["id"], **act)
    assert settled.value.code() is grpc.StatusCode.ABORTED
    forged = {"payload": base64.b64encode(b"{}").decode(), "signature": "t=1,v1=0", "source": "127.0.0.1"}
    assert payments.call("aishop.payments.v1.PaymentsService", "ReceiveWebhook", **forged)["status"] == 400
    payments.call(service, "ListQuarantine", limit=1)
    decision = {"id": str(uuid4()), "resolution": "QUARANTINE_RESOLUTION_REFUND", **act}
    with pytest.raises(grpc.RpcError) as unknown:
        payments.call(service, "ResolveQuarantine", **decision)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    payments.call(service, "GetTimeline", order_id=str(uuid4()))
    run = payments.call(service, "StartReconciliation", actor=act["actor"])["reconciliation"]
    assert payments.call(service, "GetReconciliation", id=run["id"])["reconciliation"]["id"] == run["id"]


def _adjust(wallet: Outsider, user: str) -> None:
    """One who has nothing gets points and gives them back."""
    service = "aishop.wallet.v1.WalletService"
    for points, left in (("7", "7"), ("-7", "0")):
        adjustment = {"adjustment_id": str(uuid4()), "points": points, "reason": "x", "actor": str(uuid4())}
        answer = wallet.call(service, "AdjustPoints", user_id=user, **adjustment)
        assert (answer["transaction"]["amount"], answer["profile"]["points"]) == (points, left)
    ledger = wallet.call(service, "ListTransactions", user_id=user)["items"]
    assert [entry["type"] for entry in ledger] == ["TRANSACTION_TYPE_ADJUSTMENT"] * 2
    told = wallet.call(service, "GetTimeline", user_id=user)["entries"]
    assert [entry["kind"] for entry in told] == ["ledger.adjustment"] * 2


def _hold(wallet: Outsider, user: str) -> None:
    service = "aishop.wallet.v1.WalletService"
    assert wallet.call(service, "GetProfile", user_id=user)["profile"]["points"] == "0"
    order = {"user_id": user, "order_id": str(uuid4())}
    with pytest.raises(grpc.RpcError) as refused:
        wallet.call(service, "ReservePoints", **order, points=1)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    captured = wallet.call(service, "CapturePoints", captures=[order])["results"]
    assert captured == [{"order_id": order["order_id"], "outcome": "CAPTURE_OUTCOME_NOT_FOUND"}]
    assert wallet.call(service, "ReleasePoints", **order)["status"] == "HOLD_STATUS_RELEASED"
    with pytest.raises(grpc.RpcError) as nothing:
        wallet.call(service, "RefundOrderPoints", **order, refund_id=str(uuid4()), points=1, reason="x")
    assert nothing.value.code() in (grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND)


def _look_back(outsiders: dict[str, Outsider]) -> None:
    """What operators are told of all services alike: an hour's numbers, and who did what."""
    now = datetime.now(UTC)
    hour = {"since": (now - timedelta(hours=1)).isoformat(), "until": (now + timedelta(hours=1)).isoformat()}
    services = {
        "wallet": "WalletService",
        "orders": "OrdersOperatorService",
        "payments": "PaymentsOperatorService",
    }
    for name, outsider in outsiders.items():
        service = f"aishop.{name}.v1.{services[name]}"
        assert outsider.call(service, "GetAnalytics", **hour)
        newest, *_ = outsider.call(service, "ListAuditLog", limit=1)["entries"]
        assert newest["actor"], newest


def _dead_letters(outsider: Outsider) -> None:
    service = "aishop.messaging.v1.DeadLetterService"
    outsider.call(service, "ListDeadLetters", limit=1)
    decision = {"letter_id": str(uuid4()), "decision": "DEAD_LETTER_DECISION_DROP"}
    with pytest.raises(grpc.RpcError) as unknown:
        outsider.call(service, "DecideDeadLetter", **decision, actor=str(uuid4()), reason="a look around")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
