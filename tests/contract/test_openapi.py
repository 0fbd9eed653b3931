"""The REST contract: the routes, the errors each declares, and the table that documents every code."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.app import create_api
from gateway.backends import connect
from gateway.errors import KINDS, as_markdown
from gateway.routes import (
    admin_orders,
    admin_payments,
    admin_products,
    downloads,
    orders,
    points,
    subscriptions,
)
from gateway.settings import GatewaySettings
from protos.orders.v1 import orders_pb2
from protos.payments.v1 import payments_pb2
from protos.wallet.v1 import wallet_pb2

ROOT = Path(__file__).parents[2]
PROBLEM = "application/problem+json"
PUBLIC = {
    "GET /api/products",
    "GET /api/products/{productId}",
    "GET /api/points/packages",
    "GET /api/plans",
    "POST /api/webhooks/stripe",
    "GET /healthz",
    "GET /readyz",
}
SIGNED_IN = {
    "POST /api/checkout/points",
    "GET /api/checkouts/{checkoutId}",
    "GET /api/checkouts/{checkoutId}/events",
    "GET /api/profile",
    "GET /api/points/transactions",
    "GET /api/cart",
    "PUT /api/cart",
    "DELETE /api/cart",
    "PUT /api/cart/items/{productId}",
    "DELETE /api/cart/items/{productId}",
    "POST /api/checkout",
    "GET /api/orders",
    "GET /api/orders/{orderId}",
    "GET /api/orders/{orderId}/events",
    "POST /api/orders/{orderId}/cancel",
    "GET /api/orders/{orderId}/downloads",
    "POST /api/orders/{orderId}/downloads/{productId}/reissue",
    "GET /api/downloads/{token}",
    "POST /api/subscriptions",
    "GET /api/subscriptions",
    "GET /api/subscriptions/{subscriptionId}",
    "DELETE /api/subscriptions/{subscriptionId}",
}
OPERATOR = {
    "GET /api/admin/orders",
    "GET /api/admin/orders/{orderId}",
    "POST /api/admin/orders/{orderId}/refunds",
    "GET /api/admin/refunds/owed",
    "POST /api/admin/orders/{orderId}/owed/settle",
    "POST /api/admin/orders/{orderId}/owed/write-off",
    "GET /api/admin/mails",
    "GET /api/admin/dead-letters",
    "POST /api/admin/dead-letters/{service}/{deadLetterId}/redeliver",
    "POST /api/admin/dead-letters/{service}/{deadLetterId}/drop",
    "POST /api/admin/orders/{orderId}/mails/{mail}/send-again",
    "POST /api/admin/orders/{orderId}/mails/{mail}/delivered",
    "GET /api/admin/sagas",
    "POST /api/admin/orders/{orderId}/sagas/{saga}/retry",
    "POST /api/admin/orders/{orderId}/sagas/{saga}/compensate",
    "GET /api/admin/timeline",
    "GET /api/admin/analytics",
    "GET /api/admin/audit",
    "POST /api/admin/points/adjustments",
    "GET /api/admin/products",
    "POST /api/admin/products",
    "GET /api/admin/products/{productId}",
    "PATCH /api/admin/products/{productId}",
    "DELETE /api/admin/products/{productId}",
    "POST /api/admin/products/{productId}/stock",
    "GET /api/admin/products/{productId}/stock/movements",
    "POST /api/admin/orders/{orderId}/shipment",
    "GET /api/admin/stripe/events",
    "GET /api/admin/stripe/events/{eventId}",
    "POST /api/admin/stripe/events/{eventId}/replay",
    "POST /api/admin/stripe/events/{eventId}/set-aside",
    "POST /api/admin/stripe/events/replay",
    "GET /api/admin/quarantine",
    "POST /api/admin/quarantine/{quarantineId}/fulfil",
    "POST /api/admin/quarantine/{quarantineId}/refund",
    "POST /api/admin/quarantine/{quarantineId}/settle-outside",
    "POST /api/admin/quarantine/{quarantineId}/write-off",
    "POST /api/admin/reconciliations",
    "GET /api/admin/reconciliations/{reconciliationId}",
}
# Reasons that never leave the services: between orders, wallet and payments, or in their own workers.
INTERNAL = {
    "CHECKOUT_CREATING",
    "CHECKOUT_EXPIRED",
    "CHECKOUT_MISMATCH",
    "CHECKOUT_UNCONFIRMED",
    "GRANT_OF_ANOTHER_USER",
    "HOLD_CAPTURED",
    "HOLD_MISMATCH",
    "HOLD_NOT_FOUND",
    "HOLD_RELEASED",
    "ILLEGAL_MOVE",
    "ILLEGAL_TRANSITION",
    "LEASE_LOST",
    "NOT_CAPTURED",
    "NOT_CAPTURED_YET",
    # orders asks for refunds, and knows its payments and refunds.
    "PAYMENT_NOT_FOUND",
    "REFUND_EXCEEDS_PAYMENT",
    "REFUND_EXCEEDS_SPEND",
    "REFUND_MISMATCH",
    "DECISION_MISMATCH",
    "REFUND_NOT_FOUND",
    "STRIPE_OUTCOME_UNKNOWN",
    "STRIPE_REFUSED",
    # Spelled otherwise at REST.
    "ADJUSTMENT_MISMATCH",
    "PRODUCT_EXISTS",
    "STOCK_MOVEMENT_MISMATCH",
    "DATABASE_UNAVAILABLE",
    "INVALID_FIELD",
    "STOPPING",
    # The gateway refuses any other payment method itself.
    "INVALID_PAYMENT_METHOD",
}


@pytest.fixture
async def document() -> AsyncIterator[dict[str, Any]]:
    nowhere = "127.0.0.1:1"
    settings = GatewaySettings(
        listen=nowhere,
        wallet_target=nowhere,
        orders_target=nowhere,
        payments_target=nowhere,
        auth_jwt_secret="a secret of the contract tests, long enough",
    )
    async with connect(settings) as backends:
        yield create_api(settings, backends).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def codes(operation: dict[str, Any], status: int) -> set[str]:
    response = operation["responses"].get(str(status))
    return set(response["content"][PROBLEM]["schema"]["properties"]["code"]["enum"]) if response else set()


def test_the_routes_are_those_of_the_design(document: dict[str, Any]) -> None:
    assert {name for name, _ in operations(document)} == PUBLIC | SIGNED_IN | OPERATOR


def test_each_route_has_an_id_a_tag_and_a_sentence(document: dict[str, Any]) -> None:
    found = [operation for _, operation in operations(document)]
    assert len({operation["operationId"] for operation in found}) == len(found)
    assert all(operation["tags"] and operation["description"] for operation in found)


def test_signed_in_routes_demand_a_token_and_declare_401(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        is_signed_in = name in SIGNED_IN | OPERATOR
        assert (operation.get("security") == [{"bearer": []}]) == is_signed_in, name
        expected = {"missing_token", "invalid_token", "token_expired"} if is_signed_in else set()
        assert codes(operation, 401) == expected, name
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_what_operators_may_do_is_refused_to_everybody_else(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert (" /api/admin/" in name) == (name in OPERATOR), name
        assert ("operator_only" in codes(operation, 403)) == (name in OPERATOR), name
        assert (operation["tags"] == ["operators"]) == (name in OPERATOR), name


def test_every_error_is_a_problem_with_its_codes(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if status.startswith(("2", "3")):
                continue
            assert list(response["content"]) == [PROBLEM], (name, status)
            for code in codes(operation, int(status)):
                assert KINDS[code].status == int(status), (name, code)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_what_any_route_can_answer_is_declared_by_each(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if " /api/" in name:
            assert codes(operation, 429) == {"rate_limited", "too_many_at_once"}, name
            assert codes(operation, 408) == {"request_timeout"}, name
            assert codes(operation, 500) == {"internal_error"}, name
            assert {"overloaded", "service_unavailable", "outcome_unknown"} <= codes(operation, 503), name


def test_routes_with_a_body_declare_what_a_bad_one_gets(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        # The webhook's body is Stripe's affair.
        if "requestBody" not in operation or "/webhooks/" in name:
            continue
        assert "malformed_json" in codes(operation, 400), name
        assert "body_too_large" in codes(operation, 413), name
        assert "unsupported_media_type" in codes(operation, 415), name
        assert "invalid_request" in codes(operation, 422), name


def test_routes_with_an_id_a_page_or_a_key_declare_what_a_bad_one_gets(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
        if "{" in name:
            assert codes(operation, 404), name
        if parameters & {"status", "since", "after", "userId", "from", "actor"}:
            assert "invalid_request" in codes(operation, 422), name
        if "limit" in parameters:
            assert "invalid_limit" in codes(operation, 422), name
        if "cursor" in parameters:
            assert "invalid_cursor" in codes(operation, 422), name
        if "Idempotency-Key" in parameters:
            keyed = {"invalid_idempotency_key", "idempotency_key_reused"}
            assert keyed <= codes(operation, 422), name
            assert "request_in_flight" in codes(operation, 409), name
        if "If-Match" in parameters:
            changed = "product_changed" if "/products" in name and "admin" in name else "cart_changed"
            assert codes(operation, 412) == {changed}, name


def test_the_names_are_camel_case(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field in schema.get("properties", {}):
            assert re.fullmatch(r"[a-z]+[0-9]*([A-Z][a-z]+)*", field), (name, field)


def numbered(numbers: Mapping[Any, int]) -> dict[int, str]:
    return {number: name for name, number in numbers.items()}


def test_every_state_of_the_protos_has_a_name() -> None:
    for enum, names in (
        (orders_pb2.OrderStatus, orders.STATUSES),
        (orders_pb2.OrderRefundStatus, admin_orders.REFUND_STATUSES),
        (orders_pb2.PaymentMethod, numbered(orders.METHODS)),
        (orders_pb2.DownloadStatus, downloads.STATUSES),
        (payments_pb2.CheckoutStatus, points.STATUSES),
        (wallet_pb2.TransactionType, points.TYPES),
        (payments_pb2.BillingInterval, subscriptions.INTERVALS),
        (payments_pb2.SubscriptionStatus, subscriptions.STATUSES),
        (orders_pb2.StockReason, numbered(admin_products.STOCK_REASONS)),
        (payments_pb2.StripeEventStatus, numbered(admin_payments.EVENT_STATUSES)),
        (payments_pb2.QuarantineStatus, numbered(admin_payments.QUARANTINE_STATUSES)),
        (payments_pb2.ReconciliationStatus, admin_payments.RECONCILIATION_STATUSES),
    ):
        values: dict[int, str] = {number: name for name, number in enum.items() if number}
        assert values.keys() == names.keys()
        assert all(values[number].lower().endswith(f"_{name}") for number, name in names.items())


def test_docs_list_every_code() -> None:
    """To write the page again: python -c "import gateway.errors as e; print(e.as_markdown(), end='')"."""
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == as_markdown()


def test_every_reason_of_the_services_has_a_code_or_stays_inside() -> None:
    raised = re.compile(
        r"(?:Invalid|Rejected|NotFound|Conflict|Unavailable|__init__)\(\s*\"([A-Z][A-Z_]+)\"", re.MULTILINE
    )
    reasons = {
        reason
        for source in (ROOT / "services").rglob("*.py")
        for reason in raised.findall(source.read_text(encoding="utf-8"))
    }
    assert {"INSUFFICIENT_POINTS", "INVALID_CURSOR"} <= reasons
    assert reasons - INTERNAL - {code.upper() for code in KINDS} == set()
