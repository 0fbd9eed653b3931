"""Giving points and money back: once, never too much, whatever answers late, refuses or falls over."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from protos.events.v1 import events_pb2
from protos.orders.v1 import orders_pb2 as pb
from protos.payments.v1 import payments_pb2
from services.orders.card_saga import EXPIRED, PAID
from services.orders.refund_saga import REFUND_ORDER
from tests.integration.orders.shop import STRIPE, Lines, Shop
from tests.integration.orders.test_card_orders import tell
from tests.integration.wallet.client import refused

REJECTED, CONFLICT = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
ASKED = events_pb2.REFUND_STATE_PENDING


@pytest.fixture(autouse=True)
async def kind_payments(shop: Shop) -> AsyncIterator[None]:
    """No accident is left to the next test."""
    yield
    shop.payments.away, shop.payments.refusal = False, None
    shop.payments.refund_status = payments_pb2.REFUND_STATUS_SUCCEEDED


async def bought_with_points(shop: Shop, items: Lines) -> tuple[UUID, pb.Order]:
    """An order whose points are spent."""
    user_id = await shop.wallet.user(10_000)
    order = await shop.place(user_id, items, email="ada@example.com")
    await shop.run_ends(order.id, "done")
    return user_id, order


async def bought_by_card(shop: Shop, items: Lines) -> tuple[UUID, pb.Order]:
    user_id = uuid4()
    order = await shop.place(user_id, items, method=STRIPE, email="ada@example.com")
    await tell(shop, order, PAID, 2)
    await shop.becomes(order.id, "completed")
    for product_id in items:
        await shop.grant(user_id, order.id, product_id)
    return user_id, order


async def tell_payment(
    shop: Shop,
    order: pb.Order,
    version: int,
    *,
    refunded: int = 0,
    dispute: str = "NONE",
    disputed: int = 0,
    lost: int | None = None,
) -> None:
    """What payments says of what is left of an order's payment."""
    fact = events_pb2.PaymentChanged(
        payment_id=str(uuid4()),
        order_id=order.id,
        version=version,
        amount_cents=order.total_cents,
        refunded_cents=refunded,
        dispute=events_pb2.DisputeState.Value(f"DISPUTE_STATE_{dispute}"),
        disputed_cents=disputed,
        lost_cents=lost,
        currency="usd",
    )
    await shop.publish("payments.payment.changed", fact)


async def tell_refund(shop: Shop, refund: pb.OrderRefund, version: int, state: str, **more: Any) -> None:
    fact = events_pb2.RefundChanged(
        refund_id=refund.id,
        order_id=refund.order_id,
        version=version,
        amount_cents=refund.amount_cents,
        state=events_pb2.RefundState.Value(f"REFUND_STATE_{state}"),
        **more,
    )
    await shop.publish("payments.refund.changed", fact)


async def test_a_points_order_goes_back_whole(shop: Shop) -> None:
    picture, other = await shop.product(points=50), await shop.product(points=70, stock=None)
    user_id, order = await bought_with_points(shop, {picture: 2, other: 1})
    refund = await shop.refund(order.id, return_stock=True)
    assert (refund.amount_points, refund.amount_cents) == (170, 0)
    await shop.refund_becomes(refund.id, "succeeded")
    assert await shop.wallet.balance(user_id) == (10_000, 0, 0)
    assert await shop.stock(picture) == (100, 0)
    restocked = "SELECT payload FROM outbox WHERE subject = 'orders.product.changed' ORDER BY id DESC LIMIT 1"
    [told] = await shop.sql(restocked)
    assert events_pb2.ProductChanged.FromString(told["payload"]).product_id == str(picture)
    row = await shop.becomes(order.id, "refunded")
    assert (row["refunded_points"], row["failure_reason"]) == (170, None)
    assert (await shop.history(order.id))[-1] == ("completed", "refunded", "operator", "refunded")
    [fact] = [each for each in await shop.facts(order.id) if isinstance(each, events_pb2.OrderRefunded)]
    assert (fact.refund_id, fact.refunded_points, fact.is_whole) == (refund.id, 170, True)
    await refused(shop.refund(order.id), REJECTED, "REFUND_EXCEEDS_ORDER")


async def test_a_line_goes_back_piece_by_piece(shop: Shop) -> None:
    picture, other = await shop.product(points=50), await shop.product(points=70)
    user_id, order = await bought_with_points(shop, {picture: 3, other: 1})
    for _ in range(2):
        refund = await shop.refund(order.id, {picture: 1})
        await shop.refund_becomes(refund.id, "succeeded")
    seen = {item.product_id: item for item in (await shop.get(user_id, order.id)).items}
    assert (seen[str(picture)].refunded_quantity, seen[str(picture)].refunded_points) == (2, 100)
    assert (seen[str(other)].refunded_quantity, seen[str(other)].refunded_points) == (0, 0)
    assert (await shop.row(order.id))["status"] == "completed"
    assert await shop.stock(picture) == (97, 0)
    fields = await refused(shop.refund(order.id, {picture: 2}), REJECTED, "REFUND_EXCEEDS_ORDER")
    assert fields == {"requested": "100", "refundable": "50"}
    await refused(shop.refund(order.id, {uuid4(): 1}), INVALID, "NOT_IN_ORDER")
    rest = await shop.refund(order.id)
    assert rest.amount_points == 120
    await shop.becomes(order.id, "refunded")
    assert await shop.wallet.balance(user_id) == (10_000, 0, 0)


async def test_one_id_refunds_once(shop: Shop) -> None:
    picture, refund_id = await shop.product(points=50), uuid4()
    user_id, order = await bought_with_points(shop, {picture: 2})
    refunds = [await shop.refund(order.id, {picture: 1}, refund_id=refund_id) for _ in range(3)]
    assert {refund.id for refund in refunds} == {str(refund_id)}
    await shop.refund_becomes(str(refund_id), "succeeded")
    assert await shop.wallet.balance(user_id) == (9950, 0, 0)
    await refused(shop.refund(order.id, {picture: 2}, refund_id=refund_id), CONFLICT, "REFUND_MISMATCH")
    entries = await shop.sql("SELECT * FROM audit_log WHERE subject = %s", order.id)
    assert [(entry["actor"], entry["action"]) for entry in entries] == [("operator", "order.refunded")]
    mails = await shop.sql("SELECT * FROM mails WHERE order_id = %s AND kind LIKE 'refund:%%'", order.id)
    assert [mail["kind"] for mail in mails] == [f"refund:{refund_id}"]


async def test_twenty_refunds_at_once_never_exceed_what_was_paid(shop: Shop) -> None:
    picture = await shop.product(points=50)
    user_id, order = await bought_with_points(shop, {picture: 5})
    answers = await asyncio.gather(
        *(shop.refund(order.id, {picture: 1}) for _ in range(20)), return_exceptions=True
    )
    written = [answer for answer in answers if isinstance(answer, pb.OrderRefund)]
    assert len(written) == 5
    for refund in written:
        await shop.refund_becomes(refund.id, "succeeded")
    assert await shop.wallet.balance(user_id) == (10_000, 0, 0)
    await shop.becomes(order.id, "refunded")


async def test_points_go_back_only_once_they_are_spent(shop: Shop) -> None:
    picture = await shop.product(points=50)
    user_id, order = await bought_with_points(shop, {picture: 1})
    # As if the capture were still to come.
    held = "UPDATE saga_runs SET status = 'running', lease_until = now() + interval '1 h', lease_token ="
    place = "WHERE order_id = %s AND saga LIKE 'place%%'"
    await shop.sql(f"{held} gen_random_uuid() {place}", order.id)
    refund = await shop.refund(order.id)
    [run] = await shop.until(
        "SELECT * FROM saga_runs WHERE order_id = %s AND saga = %s AND last_error = 'NOT_CAPTURED_YET'",
        order.id,
        REFUND_ORDER,
    )
    assert run["status"] == "running"
    await shop.sql(f"UPDATE saga_runs SET status = 'done', lease_until = NULL {place}", order.id)
    await shop.refund_becomes(refund.id, "succeeded")
    assert await shop.wallet.balance(user_id) == (10_000, 0, 0)


@pytest.mark.parametrize("status", ["pending", "cancelled"])
async def test_what_was_not_paid_is_not_given_back(shop: Shop, status: str) -> None:
    user_id = uuid4()
    order = await shop.place(user_id, {await shop.product(): 1}, method=STRIPE)
    if status == "cancelled":
        await shop.cancel(user_id, order.id)
    fields = await refused(shop.refund(order.id), REJECTED, "NOT_REFUNDABLE")
    assert fields["status"] == status
    await refused(shop.refund(str(uuid4())), NOT_FOUND, "ORDER_NOT_FOUND")
    assert await shop.sql("SELECT * FROM refunds WHERE order_id = %s", order.id) == []


async def test_money_is_refunded_when_payments_says_so(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    shop.payments.refund_status = payments_pb2.REFUND_STATUS_PENDING
    user_id, order = await bought_by_card(shop, {picture: 2})
    refund = await shop.refund(order.id, return_stock=True)
    await shop.refund_becomes(refund.id, "pending")
    assert await shop.stock(picture) == (98, 0)
    assert (await shop.row(order.id))["refunded_cents"] == 0
    await tell_payment(shop, order, 2, refunded=1000)
    await tell_refund(shop, refund, 2, "SUCCEEDED")
    await shop.refund_becomes(refund.id, "succeeded")
    row = await shop.becomes(order.id, "refunded")
    assert (row["refunded_cents"], await shop.stock(picture)) == (1000, (100, 0))
    assert await shop.grants(order.id) == {picture: "revoked"}
    assert (await shop.get(user_id, order.id)).refunded_cents == 1000
    assert shop.payments.refund_calls[refund.id] == 1


async def test_a_refund_that_comes_back_may_be_asked_for_again(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    shop.payments.refund_status = payments_pb2.REFUND_STATUS_PENDING
    _, order = await bought_by_card(shop, {picture: 1})
    refund = await shop.refund(order.id)
    await shop.refund_becomes(refund.id, "pending")
    assert await shop.grants(order.id) == {picture: "revoked"}
    await tell_refund(shop, refund, 3, "FAILED", failure_reason="lost_or_stolen_card")
    # Older news, and the same once more.
    await tell_refund(shop, refund, 2, "SUCCEEDED")
    await tell_refund(shop, refund, 3, "FAILED", failure_reason="lost_or_stolen_card")
    row = await shop.refund_becomes(refund.id, "failed")
    assert row["failure_reason"] == "lost_or_stolen_card"
    assert await shop.grants(order.id) == {picture: "active"}
    again = await shop.refund(order.id)
    assert (again.amount_cents, again.id != refund.id) == (500, True)


async def test_a_refusal_fails_the_refund_and_not_the_next_one(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    _, order = await bought_by_card(shop, {picture: 3})
    shop.payments.refusal = "REFUND_EXCEEDS_PAYMENT"
    first = await shop.refund(order.id, {picture: 2})
    row = await shop.refund_becomes(first.id, "failed")
    assert row["failure_reason"] == "refund_exceeds_payment"
    shop.payments.refusal = None
    second = await shop.refund(order.id)
    assert second.amount_cents == 1500
    await shop.refund_becomes(second.id, "succeeded")


async def test_refunds_wait_for_payments(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    _, order = await bought_by_card(shop, {picture: 3})
    shop.payments.away = True
    refunds = [await shop.refund(order.id, {picture: 1}) for _ in range(3)]
    await shop.until(
        "SELECT 1 FROM saga_runs WHERE order_id = %s AND saga = %s AND attempts > 0", order.id, REFUND_ORDER
    )
    shop.payments.away = False
    for refund in refunds:
        await shop.refund_becomes(refund.id, "succeeded")
        assert shop.payments.refund_calls[refund.id] == 1


async def test_an_order_is_fulfilled_as_long_as_its_goods_are_given_back(shop: Shop) -> None:
    picture, print_ = await shop.product(cents=500), await shop.product(cents=500, type="physical")
    user_id = uuid4()
    order = await shop.place(user_id, {picture: 1, print_: 1}, method=STRIPE)
    await tell(shop, order, PAID, 2)
    refund = await shop.refund(order.id, {print_: 1})
    await shop.refund_becomes(refund.id, "succeeded")
    assert (await shop.get(user_id, order.id)).HasField("fulfilled_at")
    # The bank sent the money back: the print is the customer's again.
    await tell_refund(shop, refund, 3, "FAILED", failure_reason="expired_or_canceled_card")
    assert not (await shop.get(user_id, order.id)).HasField("fulfilled_at")
    assert (await shop.ship(order.id)).HasField("fulfilled_at")
    # What was sent stays sent; what goes back whole was never fulfilled by that.
    again = await shop.refund(order.id, {print_: 1})
    await shop.refund_becomes(again.id, "succeeded")
    await tell_refund(shop, again, 3, "FAILED", failure_reason="expired_or_canceled_card")
    assert (await shop.get(user_id, order.id)).HasField("fulfilled_at")


async def test_money_that_went_back_in_the_dashboard_counts(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    _, order = await bought_by_card(shop, {picture: 2})
    await tell_payment(shop, order, 3, refunded=700)
    await tell_payment(shop, order, 2, refunded=0)
    row = await shop.row(order.id)
    assert (row["status"], row["refunded_cents"]) == ("completed", 700)
    assert await shop.grants(order.id) == {picture: "active"}
    fields = await refused(shop.refund(order.id, {picture: 1}), REJECTED, "REFUND_EXCEEDS_ORDER")
    assert fields == {"requested": "500", "refundable": "300"}
    rest = await shop.refund(order.id)
    assert (rest.amount_cents, rest.items[0].quantity) == (300, 2)
    await tell_payment(shop, order, 4, refunded=1000)
    await shop.becomes(order.id, "refunded")
    assert await shop.grants(order.id) == {picture: "revoked"}


async def test_a_dispute_suspends_and_its_end_decides(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    _, order = await bought_by_card(shop, {picture: 1})
    await tell_payment(shop, order, 2, dispute="OPEN")
    assert await shop.grants(order.id) == {picture: "suspended"}
    await refused(shop.refund(order.id), CONFLICT, "ORDER_DISPUTED")
    await tell_payment(shop, order, 3, dispute="WON")
    assert await shop.grants(order.id) == {picture: "active"}
    await tell_payment(shop, order, 4, dispute="OPEN")
    await tell_payment(shop, order, 5, dispute="LOST")
    row = await shop.becomes(order.id, "refunded")
    assert (row["failure_reason"], row["refunded_cents"]) == ("dispute_lost", 0)
    assert await shop.grants(order.id) == {picture: "revoked"}
    assert await shop.sql("SELECT * FROM refunds WHERE order_id = %s", order.id) == []


async def test_money_may_go_back_before_we_hear_that_it_came(shop: Shop) -> None:
    picture, user_id = await shop.product(cents=500), uuid4()
    order = await shop.place(user_id, {picture: 1}, method=STRIPE)
    await tell_payment(shop, order, 5, refunded=500)
    assert (await shop.row(order.id))["status"] == "pending"
    await tell(shop, order, PAID, 2)
    row = await shop.becomes(order.id, "refunded")
    assert row["refunded_cents"] == 500


async def test_a_late_payment_without_goods_goes_back_by_itself(shop: Shop) -> None:
    picture, user_id = await shop.product(stock=1, cents=500), uuid4()
    order = await shop.place(user_id, {picture: 1}, method=STRIPE)
    await tell(shop, order, EXPIRED, 2)
    await shop.becomes(order.id, "failed")
    faster = await shop.place(uuid4(), {picture: 1}, method=STRIPE)
    await tell(shop, faster, PAID, 2)
    await tell(shop, order, PAID, 3)
    await tell(shop, order, PAID, 4)
    seen = await shop.get(user_id, order.id)
    assert (seen.status, seen.failure_reason) == (pb.ORDER_STATUS_PROCESSING, "late_payment_out_of_stock")
    [refund] = await shop.until(
        "SELECT * FROM refunds WHERE order_id = %s AND status = 'succeeded'", order.id
    )
    assert (refund["amount_cents"], refund["actor"]) == (500, "saga")
    assert shop.payments.refund_calls[str(refund["id"])] == 1
    await tell_payment(shop, order, 2, refunded=500)
    row = await shop.becomes(order.id, "refunded")
    assert row["failure_reason"] == "late_payment_out_of_stock"
    assert await shop.stock(picture) == (0, 0)


async def test_an_operator_sees_what_became_of_an_order(shop: Shop) -> None:
    picture = await shop.product(points=50)
    user_id, order = await bought_with_points(shop, {picture: 1})
    refund = await shop.refund(order.id)
    await shop.refund_becomes(refund.id, "succeeded")
    await shop.becomes(order.id, "refunded")
    seen = await shop.inspect(order.id)
    assert (seen.user_id, seen.order.status) == (str(user_id), pb.ORDER_STATUS_REFUNDED)
    assert [(each.id, each.status) for each in seen.refunds] == [
        (refund.id, pb.ORDER_REFUND_STATUS_SUCCEEDED)
    ]
    assert {saga.saga: saga.status for saga in seen.sagas} == {
        "place_order_with_points/v1": "done",
        "refund_order/v1": "done",
    }
