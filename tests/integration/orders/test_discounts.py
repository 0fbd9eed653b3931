"""Card orders that promotion codes paid for, in part or in full: completed for what was paid, and never more
than that goes back."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from protos.orders.v1 import orders_pb2 as pb
from protos.payments.v1 import payments_pb2
from services.orders.card_saga import EXPIRED, PAID
from tests.integration.orders.shop import STRIPE, Lines, Shop
from tests.integration.orders.test_card_orders import tell
from tests.integration.orders.test_money_back import (
    REJECTED,
    books_that_add_up,
)
from tests.integration.orders.test_refunds import tell_payment
from tests.integration.wallet.client import refused

__all__ = ["books_that_add_up"]


async def ordered(shop: Shop, items: Lines) -> tuple[UUID, pb.Order]:
    user_id = uuid4()
    return user_id, await shop.place(user_id, items, method=STRIPE, email="ada@example.com")


async def paid_with(shop: Shop, order: pb.Order, cents: int, version: int = 2) -> None:
    """A code took the rest off."""
    more: dict[str, Any] = {"amount_cents": cents, "discount_cents": order.total_cents - cents}
    await tell(shop, order, PAID, version, **more | ({} if cents else {"payment_intent_id": ""}))


async def test_an_order_at_half_the_price_completes_for_what_was_paid(shop: Shop) -> None:
    picture = await shop.product(cents=501, stock=10)
    _, order = await ordered(shop, {picture: 3})
    await paid_with(shop, order, 751)
    await shop.run_ends(order.id, "done")
    row = await shop.becomes(order.id, "completed")
    assert (row["total_cents"], row["paid_cents"]) == (1503, 751)
    assert await shop.stock(picture) == (7, 0)
    assert await shop.grants(order.id) == {picture: "active"}
    assert await shop.mails_sent(order.id) == {"receipt"}


async def test_pieces_of_a_discounted_order_go_back_by_their_share_and_together_exactly(shop: Shop) -> None:
    picture, other = await shop.product(cents=501), await shop.product(cents=100)
    _, order = await ordered(shop, {picture: 3, other: 1})
    await paid_with(shop, order, 800)
    first = await shop.refund(order.id, {picture: 1})
    rest = await shop.refund(order.id)
    assert first.amount_cents in (249, 250)
    assert first.amount_cents + rest.amount_cents == 800
    await shop.refund_becomes(rest.id, "succeeded")
    await tell_payment(shop, order, 2, refunded=800)
    row = await shop.becomes(order.id, "refunded")
    assert (row["refunded_cents"], row["owed_cents"]) == (800, 0)
    await refused(shop.refund(order.id), REJECTED, "REFUND_EXCEEDS_ORDER")


async def test_a_free_order_completes_without_a_payment(shop: Shop) -> None:
    picture = await shop.product(cents=500, stock=10)
    user_id, order = await ordered(shop, {picture: 2})
    for version in (2, 3):
        await paid_with(shop, order, 0, version)
    await shop.run_ends(order.id, "done")
    row = await shop.row(order.id)
    assert (row["status"], row["paid_cents"], row["stripe_payment_intent_id"]) == ("completed", 0, None)
    assert await shop.stock(picture) == (8, 0)
    await shop.grant(user_id, order.id, picture)
    told = await refused(shop.refund(order.id), REJECTED, "NOT_REFUNDABLE")
    assert told["status"] == "completed"
    assert await shop.grants(order.id) == {picture: "active"}


async def test_asked_payments_tells_of_the_discount_too(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    _, order = await ordered(shop, {picture: 2})
    session = shop.payments.sessions[order.id]
    session.status, session.amount_cents, session.discount_cents = payments_pb2.CHECKOUT_STATUS_PAID, 0, 1000
    await shop.sql("UPDATE saga_runs SET next_attempt_at = now() WHERE order_id = %s", order.id)
    assert (await shop.becomes(order.id, "completed"))["paid_cents"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount_cents": 500},
        {"amount_cents": 500, "discount_cents": 499},
        {"amount_cents": 1001, "discount_cents": -1},
        {"amount_cents": 0, "discount_cents": 1000},
        {"amount_cents": 500, "discount_cents": 500, "payment_intent_id": ""},
    ],
)
async def test_what_does_not_add_up_is_parked(shop: Shop, wrong: dict[str, Any]) -> None:
    picture = await shop.product(cents=500, stock=10)
    _, order = await ordered(shop, {picture: 2})
    await tell(shop, order, PAID, 2, **wrong)
    assert (await shop.run_ends(order.id, "stuck"))["last_error"] == "PAYMENT_MISMATCH"
    row = await shop.row(order.id)
    assert (row["status"], row["paid_cents"], await shop.stock(picture)) == ("pending", None, (10, 2))


@pytest.mark.parametrize(("cents", "ends"), [(0, "failed"), (300, "processing")])
async def test_what_came_too_late_goes_back_as_far_as_it_was_paid(shop: Shop, cents: int, ends: str) -> None:
    picture = await shop.product(cents=500, stock=2)
    _, order = await ordered(shop, {picture: 2})
    await tell(shop, order, EXPIRED, 2)
    await shop.place(uuid4(), {picture: 1}, method=STRIPE)
    await paid_with(shop, order, cents, 3)
    assert (await shop.row(order.id))["status"] == ends
    refunds = await shop.sql("SELECT amount_cents FROM refunds WHERE order_id = %s", order.id)
    assert [row["amount_cents"] for row in refunds] == ([cents] if cents else [])
