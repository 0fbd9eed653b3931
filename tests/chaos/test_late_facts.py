"""Facts that come late, twice, out of order or wrong, and holds that nobody answers for."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID, uuid4

import nats
import psycopg
import pytest

from deploy.local.ephemeral import RunningStack, wait_until
from protos.events.v1 import events_pb2
from protos.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.chassis.grpc_client import call, channel
from tests.chaos.shopping import insist, see, settled
from tests.e2e.rest_client import JSON, Customer, pay, sign_in, until

_SECONDS = 30.0
PAID = events_pb2.ORDER_CHECKOUT_STATE_PAID
PROCESSING = events_pb2.ORDER_CHECKOUT_STATE_PROCESSING
EXPIRED = events_pb2.ORDER_CHECKOUT_STATE_EXPIRED
FAILED = events_pb2.ORDER_CHECKOUT_STATE_FAILED


@pytest.fixture(scope="module")
def stack(fresh_stack: Callable[[], AbstractContextManager[RunningStack]]) -> Iterator[RunningStack]:
    with fresh_stack() as running:
        # Short enough that a hold which nobody answers for is asked about within the test.
        running.restart("wallet", {"HOLD_SECONDS": "2", "HOLD_ASK_AGAIN_SECONDS": "2"})
        running.restart("orders", {"SAGA_LEASE_SECONDS": "2"})
        yield running


@pytest.fixture
async def customer(stack: RunningStack) -> AsyncIterator[Customer]:
    async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as signed_in:
        yield signed_in


class Payments:
    """Says what payments would say of an order's checkout."""

    def __init__(self, stack: RunningStack, order: JSON, user_id: UUID) -> None:
        self._stack = stack
        self._order = order
        self._user_id = user_id
        self._payment_intent = f"pi_{uuid4().hex}"

    async def say(self, state: int, version: int, **other: Any) -> None:
        fact: dict[str, Any] = {
            "checkout_id": str(uuid4()),
            "order_id": self._order["id"],
            "user_id": str(self._user_id),
            "version": version,
            "state": state,
            "amount_cents": self._order["totalCents"],
            "currency": self._order["currency"],
            "payment_intent_id": self._payment_intent if state == PAID else "",
        }
        await _publish(
            self._stack, "payments.checkout.changed", events_pb2.OrderCheckoutChanged(**(fact | other))
        )


async def _publish(stack: RunningStack, subject: str, event: Any) -> None:
    client = await nats.connect(stack.file.nats_url)
    headers = {"Nats-Msg-Id": str(uuid4())}
    await client.jetstream().publish(subject, event.SerializeToString(), headers=headers)
    await client.close()


async def _card_order(stack: RunningStack, customer: Customer) -> tuple[JSON, Payments]:
    product = (await see(customer, "/api/products"))["items"][0]
    body = {"paymentMethod": "stripe", "items": [{"productId": product["id"], "quantity": 1}]}
    placed = (await insist(customer, "POST", "/api/checkout", body)).json()
    order = await see(customer, f"/api/orders/{placed['orderId']}")
    return order, Payments(stack, order, customer.user_id)


async def _becomes(customer: Customer, order: JSON, status: str) -> JSON:
    return await until(
        lambda: see(customer, f"/api/orders/{order['id']}"),
        lambda now: now["status"] == status,
        seconds=_SECONDS,
    )


def _rows(stack: RunningStack, database: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(stack.file.database_urls[database]) as connection:
        return connection.execute(query.encode(), values).fetchall()


def _set_stock(stack: RunningStack, product_id: str, value: str) -> None:
    query = f"UPDATE product_inventory SET stock_quantity = {value} WHERE product_id = %s"
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        connection.execute(query.encode(), (product_id,))


def _run_of(stack: RunningStack, order: JSON) -> tuple[Any, ...]:
    [run] = _rows(
        stack, "orders", "SELECT status, last_error FROM saga_runs WHERE order_id = %s", order["id"]
    )
    return run


def _handled(stack: RunningStack) -> int:
    [(count,)] = _rows(stack, "orders", "SELECT count(*) FROM inbox WHERE consumer = 'orders__checkout'")
    return int(count)


async def test_a_payment_after_the_end_reserves_again_and_completes(
    stack: RunningStack, customer: Customer
) -> None:
    order, payments = await _card_order(stack, customer)
    await payments.say(EXPIRED, 2)
    assert (await _becomes(customer, order, "failed"))["failureReason"] == "checkout_expired"
    await payments.say(PAID, 3)
    assert (await _becomes(customer, order, "completed"))["failureReason"] is None
    moves = _rows(
        stack, "orders", "SELECT to_status FROM order_history WHERE order_id = %s ORDER BY id", order["id"]
    )
    assert [status for (status,) in moves] == ["pending", "failed", "processing", "completed"]
    assert _rows(
        stack, "orders", "SELECT status FROM stock_reservations WHERE order_id = %s", order["id"]
    ) == [("taken",)]


async def test_old_news_and_repetitions_change_nothing(stack: RunningStack, customer: Customer) -> None:
    order, payments = await _card_order(stack, customer)
    await payments.say(PAID, 3)
    await _becomes(customer, order, "completed")
    handled = _handled(stack)
    for state, version in ((EXPIRED, 2), (PAID, 3), (PROCESSING, 1), (EXPIRED, 4), (PAID, 5)):
        await payments.say(state, version)
    wait_until(lambda: _handled(stack) == handled + 5, seconds=_SECONDS, what="all were handled")
    assert (await see(customer, f"/api/orders/{order['id']}"))["status"] == "completed"
    sold = _rows(stack, "orders", "SELECT delta FROM stock_movements WHERE order_id = %s", order["id"])
    assert sold == [(-1,)]


async def test_a_payment_on_its_way_that_fails_gives_the_stock_back(
    stack: RunningStack, customer: Customer
) -> None:
    order, payments = await _card_order(stack, customer)
    await payments.say(PROCESSING, 2)
    await _becomes(customer, order, "processing")
    cancelled = await insist(customer, "POST", f"/api/orders/{order['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["code"]) == (409, "order_not_cancellable")
    await payments.say(FAILED, 3)
    assert (await _becomes(customer, order, "failed"))["failureReason"] == "payment_failed"
    assert _rows(
        stack, "orders", "SELECT status FROM stock_reservations WHERE order_id = %s", order["id"]
    ) == [("released",)]


@pytest.mark.parametrize("wrong", [{"amount_cents": 1}, {"currency": "eur"}])
async def test_a_payment_of_another_amount_is_parked_with_an_alert(
    stack: RunningStack, customer: Customer, wrong: dict[str, Any]
) -> None:
    order, payments = await _card_order(stack, customer)
    await payments.say(PAID, 2, **wrong)
    wait_until(
        lambda: _run_of(stack, order) == ("stuck", "PAYMENT_MISMATCH"), seconds=_SECONDS, what="parked"
    )
    assert (await see(customer, f"/api/orders/{order['id']}"))["status"] == "pending"
    assert "saga.stuck" in stack.log("orders")


async def test_a_late_payment_without_stock_goes_back_by_itself(
    stack: RunningStack, customer: Customer
) -> None:
    """Paid at Stripe's own page after the order was given up, and its piece is gone."""
    order, payments = await _card_order(stack, customer)
    await payments.say(EXPIRED, 1)
    await _becomes(customer, order, "failed")
    product_id = order["items"][0]["productId"]
    _set_stock(stack, product_id, "reserved_quantity")
    try:
        await pay(order["url"])
        refunded = await _becomes(customer, order, "refunded")
    finally:
        _set_stock(stack, product_id, "5000")
    assert refunded["failureReason"] == "late_payment_out_of_stock"
    query = "SELECT refunded_cents FROM payments WHERE order_id = %s"
    assert _rows(stack, "payments", query, order["id"]) == [(order["totalCents"],)]


async def test_a_fact_about_an_order_that_does_not_exist_is_a_dead_letter(
    stack: RunningStack, customer: Customer
) -> None:
    unknown: JSON = {"id": str(uuid4()), "totalCents": 100, "currency": "usd"}
    await Payments(stack, unknown, customer.user_id).say(PAID, 2)
    query = "SELECT consumer FROM dead_letters WHERE error LIKE %s"
    wait_until(
        lambda: _rows(stack, "orders", query, f"%{unknown['id']}%") == [("orders__checkout",)],
        seconds=_SECONDS,
        what="parked",
    )


async def test_a_hold_that_no_order_knows_is_asked_about_and_released(
    stack: RunningStack, customer: Customer
) -> None:
    await customer.top_up()
    stub = wallet_pb2_grpc.WalletServiceStub(channel(stack.file.grpc["wallet"]))
    request = wallet_pb2.ReservePointsRequest(
        user_id=str(customer.user_id), order_id=str(uuid4()), points=100
    )
    await call(stub.ReservePoints, request, timeout_seconds=5)
    assert (await customer.profile())["pointsHeld"] == 100
    profile = await until(customer.profile, lambda now: now["pointsHeld"] == 0, seconds=_SECONDS)
    assert (profile["points"], profile["pointsAvailable"]) == (100, 100)


async def test_an_order_that_waits_for_wallet_is_cancelled_at_the_customers_wish(
    stack: RunningStack, customer: Customer
) -> None:
    await customer.top_up()
    product = (await see(customer, "/api/products"))["items"][0]
    body = {"paymentMethod": "points", "items": [{"productId": product["id"], "quantity": 1}]}
    stack.hold("wallet")
    placed = (await insist(customer, "POST", "/api/checkout", body)).json()
    asked = await insist(customer, "POST", f"/api/orders/{placed['orderId']}/cancel")
    stack.release("wallet")
    assert (asked.status_code, asked.json()["status"]) == (200, "pending")
    order = await settled(customer, placed["orderId"], seconds=_SECONDS)
    assert (order["status"], order["failureReason"]) == ("cancelled", "cancelled_by_customer")
    profile = await until(customer.profile, lambda now: now["pointsHeld"] == 0, seconds=_SECONDS)
    assert profile["points"] == 100
