"""Buying with a card: what became of the session decides, in any order, once, and never over the stock."""

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from protos.events.v1 import events_pb2
from protos.orders.v1 import orders_pb2 as pb
from protos.payments.v1 import payments_pb2
from services.orders.card_saga import AWAIT, EXPIRED, FAILED, PAID, PLACE_WITH_CARD, PROCESSING
from tests.integration.orders.shop import STRIPE, Shop
from tests.integration.wallet.client import refused

CONFLICT = grpc.StatusCode.ABORTED
PENDING = pb.ORDER_STATUS_PENDING


async def tell(
    shop: Shop, order: pb.Order, state: "events_pb2.OrderCheckoutState.ValueType", version: int, **more: Any
) -> None:
    """Publishes what became of an order's session, as payments does; waits until orders has dealt with it."""
    fact: dict[str, Any] = {
        "checkout_id": str(uuid4()),
        "order_id": order.id,
        "user_id": str(uuid4()),
        "version": version,
        "state": state,
        "amount_cents": order.total_cents,
        "currency": order.currency,
        "payment_intent_id": f"pi_{order.id}" if state in (PAID, PROCESSING) else "",
    }
    await shop.publish("payments.checkout.changed", events_pb2.OrderCheckoutChanged(**(fact | more)))


async def buy(shop: Shop, *, stock: int = 10, quantity: int = 2) -> tuple[UUID, UUID, pb.Order]:
    """A customer, a picture, and the customer's pending order of it."""
    product_id, user_id = await shop.product(stock=stock, cents=500), uuid4()
    order = await shop.place(user_id, {product_id: quantity}, method=STRIPE, email="ada@example.com")
    assert order.status == PENDING
    return user_id, product_id, order


async def moves(shop: Shop, order: pb.Order) -> list[tuple[str, str, str]]:
    """Status, who brought it about, and why."""
    return [(to, actor, reason) for _, to, actor, reason in await shop.history(order.id)]


PLACED = ("pending", "customer", "placed")


async def test_an_order_waits_with_its_session_and_its_stock_reserved(shop: Shop) -> None:
    user_id, product_id, order = await buy(shop)
    assert (order.total_cents, order.total_points) == (1000, 0)
    assert (order.session_id, order.url) == (f"cs_{order.id}", f"https://stripe.test/pay/{order.id}")
    assert await shop.get(user_id, order.id) == order
    assert await shop.stock(product_id) == (10, 2)
    assert shop.payments.sessions[order.id].amount_cents == 1000
    assert shop.payments.emails[order.id] == "ada@example.com"
    [run] = await shop.sql(
        "SELECT *, next_attempt_at - now() > interval '45 min' AS waits FROM saga_runs WHERE order_id = %s",
        order.id,
    )
    assert (run["saga"], run["step"], run["status"]) == (PLACE_WITH_CARD, AWAIT, "running")
    assert (run["lease_token"], run["waits"]) == (None, True)


async def test_one_key_opens_one_session(shop: Shop) -> None:
    product_id, user_id, key = await shop.product(), uuid4(), str(uuid4())
    orders = [await shop.place(user_id, {product_id: 1}, method=STRIPE, key=key) for _ in range(3)]
    assert {(order.id, order.url) for order in orders} == {(orders[0].id, orders[0].url)}
    assert shop.payments.created[orders[0].id] == 1


async def test_a_paid_order_is_completed_once_however_often_it_is_told(shop: Shop) -> None:
    user_id, product_id, order = await buy(shop)
    for version in (2, 2, 3, 1):
        await tell(shop, order, PAID, version)
    await shop.run_ends(order.id, "done")
    row = await shop.row(order.id)
    assert (row["status"], row["stripe_payment_intent_id"]) == ("completed", f"pi_{order.id}")
    assert await moves(shop, order) == [PLACED, ("completed", "stripe", "paid")]
    assert await shop.stock(product_id) == (8, 0)
    assert await shop.facts(order.id) == [
        events_pb2.OrderCompleted(
            order_id=order.id,
            user_id=str(user_id),
            payment_method="stripe",
            total_cents=1000,
            total_points=0,
            currency="usd",
        )
    ]
    assert await shop.mails_sent(order.id) == {"receipt"}
    assert row["fulfilled_at"] is not None
    assert await shop.grants(order.id) == {product_id: "active"}
    assert (await shop.get(user_id, order.id)).url == ""


async def test_a_paid_cart_loses_what_was_bought_and_keeps_what_was_added_since(shop: Shop) -> None:
    bought, more, added = [await shop.product() for _ in range(3)]
    user_id = uuid4()
    await shop.put(user_id, bought, 1)
    await shop.put(user_id, more, 1)
    order = await shop.place(user_id, method=STRIPE)
    # A double click finds the same order.
    assert (await shop.place(user_id, method=STRIPE)).id == order.id
    await shop.put(user_id, more, 3)
    await shop.put(user_id, added, 1)
    await tell(shop, order, PAID, 2)
    assert await shop.cart(user_id) == (5, {more: 2, added: 1})


async def test_a_cart_whose_order_was_cancelled_can_be_bought_again(shop: Shop) -> None:
    product_id, user_id = await shop.product(), uuid4()
    await shop.put(user_id, product_id, 1)
    order = await shop.place(user_id, method=STRIPE)
    await shop.cancel(user_id, order.id)
    again = await shop.place(user_id, method=STRIPE)
    assert again.id != order.id
    await tell(shop, again, PAID, 2)
    assert await shop.cart(user_id) == (2, {})


async def test_a_payment_on_its_way_keeps_the_stock_until_it_arrives(shop: Shop) -> None:
    _, product_id, order = await buy(shop)
    await tell(shop, order, PROCESSING, 2)
    assert (await shop.row(order.id))["status"] == "processing"
    assert await shop.stock(product_id) == (10, 2)
    # The session has ended, the money is still on its way.
    await tell(shop, order, EXPIRED, 3)
    assert (await shop.row(order.id))["status"] == "processing"
    await tell(shop, order, PAID, 4)
    assert [status for status, _, _ in await moves(shop, order)] == ["pending", "processing", "completed"]
    assert await shop.stock(product_id) == (8, 0)


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ((EXPIRED,), "checkout_expired"),
        ((FAILED,), "payment_failed"),
        ((PROCESSING, FAILED), "payment_failed"),
    ],
)
async def test_an_order_that_is_not_paid_fails_and_gives_the_stock_back(
    shop: Shop, states: "tuple[events_pb2.OrderCheckoutState.ValueType, ...]", reason: str
) -> None:
    user_id, product_id, order = await buy(shop)
    for version, state in enumerate(states, start=2):
        await tell(shop, order, state, version)
    await shop.run_ends(order.id, "undone")
    failed = await shop.get(user_id, order.id)
    assert (failed.status, failed.failure_reason) == (pb.ORDER_STATUS_FAILED, reason)
    assert await shop.stock(product_id) == (10, 0)
    assert await shop.facts(order.id) == [
        events_pb2.OrderEnded(order_id=order.id, user_id=str(user_id), payment_method="stripe", reason=reason)
    ]
    assert not await shop.sql("SELECT 1 FROM mails WHERE order_id = %s", order.id)


async def test_an_order_whose_page_was_free_says_so(shop: Shop) -> None:
    """No payment failed: a coupon took all of it."""
    user_id, product_id, order = await buy(shop)
    await tell(shop, order, FAILED, 2, failure_reason="free_session")
    await shop.run_ends(order.id, "undone")
    failed = await shop.get(user_id, order.id)
    assert (failed.status, failed.failure_reason) == (pb.ORDER_STATUS_FAILED, "free_session")
    assert await shop.stock(product_id) == (10, 0)


async def test_a_cancelled_order_can_no_longer_be_paid(shop: Shop) -> None:
    user_id, product_id, order = await buy(shop)
    assert (await shop.cancel(user_id, order.id)).status == pb.ORDER_STATUS_CANCELLED
    assert not shop.payments.pay(order.id)
    await shop.run_ends(order.id, "undone")
    assert await moves(shop, order) == [PLACED, ("cancelled", "customer", "cancelled_by_customer")]
    assert await shop.stock(product_id) == (10, 0)
    # Stripe's own word comes later and changes nothing.
    await tell(shop, order, EXPIRED, 2)
    assert (await shop.row(order.id))["status"] == "cancelled"


async def test_a_payment_that_is_faster_than_the_cancelling_wins(shop: Shop) -> None:
    user_id, product_id, order = await buy(shop)
    assert shop.payments.pay(order.id)
    told = await refused(shop.cancel(user_id, order.id), CONFLICT, "ORDER_NOT_CANCELLABLE")
    assert told == {"order_id": order.id, "status": "completed"}
    await tell(shop, order, PAID, 2)
    assert await moves(shop, order) == [PLACED, ("completed", "stripe", "paid")]
    assert await shop.stock(product_id) == (8, 0)


@pytest.mark.parametrize(
    ("state", "ends", "run_ends"), [(PAID, "completed", "done"), (FAILED, "failed", "undone")]
)
async def test_an_order_whose_payment_is_on_its_way_is_not_cancelled(
    shop: Shop, state: "events_pb2.OrderCheckoutState.ValueType", ends: str, run_ends: str
) -> None:
    user_id, product_id, order = await buy(shop)
    assert shop.payments.pay(order.id, payments_pb2.CHECKOUT_STATUS_PROCESSING)
    told = await refused(shop.cancel(user_id, order.id), CONFLICT, "ORDER_NOT_CANCELLABLE")
    assert told == {"order_id": order.id, "status": "processing"}
    assert await shop.stock(product_id) == (10, 2)
    await tell(shop, order, state, 2)
    # Nothing of the wish to cancel is left: it ends as if nobody had asked.
    assert (await shop.row(order.id))["status"] == ends
    await shop.run_ends(order.id, run_ends)


async def test_a_late_payment_reserves_again_and_completes(shop: Shop) -> None:
    _, product_id, order = await buy(shop)
    await tell(shop, order, EXPIRED, 2)
    await tell(shop, order, PAID, 3)
    assert await moves(shop, order) == [
        PLACED,
        ("failed", "stripe", "checkout_expired"),
        ("processing", "stripe", "late_payment"),
        ("completed", "stripe", "paid"),
    ]
    await shop.run_ends(order.id, "done")
    assert await shop.stock(product_id) == (8, 0)
    assert (await shop.row(order.id))["failure_reason"] is None


async def test_a_late_payment_without_stock_takes_nobody_elses_piece(shop: Shop) -> None:
    _, product_id, order = await buy(shop, stock=2)
    await tell(shop, order, EXPIRED, 2)
    other = await shop.place(uuid4(), {product_id: 1}, method=STRIPE)
    await tell(shop, order, PAID, 3)
    row = await shop.row(order.id)
    assert (row["status"], row["failure_reason"]) == ("processing", "late_payment_out_of_stock")
    assert await shop.stock(product_id) == (2, 1)
    await tell(shop, other, PAID, 2)
    assert await shop.stock(product_id) == (1, 0)


@pytest.mark.parametrize("wrong", [{"amount_cents": 999}, {"amount_cents": 1001}, {"currency": "eur"}])
async def test_a_payment_of_another_amount_is_parked_and_gives_nothing_out(
    shop: Shop, wrong: dict[str, Any]
) -> None:
    _, product_id, order = await buy(shop)
    await tell(shop, order, PAID, 2, **wrong)
    assert (await shop.run_ends(order.id, "stuck"))["last_error"] == "PAYMENT_MISMATCH"
    assert (await shop.row(order.id))["status"] == "pending"
    assert await shop.stock(product_id) == (10, 2)
    assert await shop.facts(order.id) == []


async def test_old_news_changes_nothing(shop: Shop) -> None:
    _, product_id, order = await buy(shop)
    await tell(shop, order, PROCESSING, 5)
    await tell(shop, order, FAILED, 4)
    assert (await shop.row(order.id))["status"] == "processing"
    assert await shop.stock(product_id) == (10, 2)


async def test_while_payments_is_away_the_order_waits_without_a_session_and_opens_one_later(
    shop: Shop,
) -> None:
    shop.payments.away = True
    try:
        user_id, _, order = await buy(shop)
        assert (order.session_id, order.url) == ("", "")
        waiting = "SELECT 1 FROM saga_runs WHERE order_id = %s AND attempts > 0 AND last_error IS NOT NULL"
        await shop.until(waiting, order.id)
    finally:
        shop.payments.away = False
    await shop.until("SELECT 1 FROM orders WHERE id = %s AND stripe_session_id IS NOT NULL", order.id)
    assert (await shop.get(user_id, order.id)).url == shop.payments.sessions[order.id].url
    assert shop.payments.created[order.id] == 1


async def test_an_order_cancelled_while_payments_is_away_keeps_its_stock_until_nobody_can_pay(
    shop: Shop,
) -> None:
    user_id, product_id, order = await buy(shop)
    shop.payments.away = True
    try:
        assert (await shop.cancel(user_id, order.id)).status == PENDING
        assert await shop.stock(product_id) == (10, 2)
    finally:
        shop.payments.away = False
    await shop.becomes(order.id, "cancelled")
    assert not shop.payments.pay(order.id)
    assert await shop.stock(product_id) == (10, 0)


@pytest.mark.parametrize("paid", [True, False])
async def test_when_no_word_comes_in_time_payments_is_asked(shop: Shop, *, paid: bool) -> None:
    _, product_id, order = await buy(shop)
    if paid:
        assert shop.payments.pay(order.id)
    # As if the session's time and the grace were over.
    await shop.sql("UPDATE saga_runs SET next_attempt_at = now() WHERE order_id = %s", order.id)
    await shop.becomes(order.id, "completed" if paid else "failed")
    assert await shop.stock(product_id) == ((8, 0) if paid else (10, 0))
    assert not shop.payments.pay(order.id)
