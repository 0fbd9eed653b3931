"""Final states that the other side leaves: refunds that come back, disputes of a part, decided anew."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest

from protos.orders.v1 import orders_pb2 as pb
from protos.payments.v1 import payments_pb2
from services.orders.card_saga import EXPIRED, PAID
from services.orders.invariants import INVARIANTS
from tests.integration.orders.shop import STRIPE, Shop
from tests.integration.orders.test_card_orders import tell
from tests.integration.orders.test_refunds import bought_by_card, tell_payment, tell_refund
from tests.integration.wallet.client import refused

REJECTED, CONFLICT = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED
_BOOKS = [each for each in INVARIANTS if each.number in ("I5", "I9")]


def broken(shop: Shop) -> set[tuple[str, str]]:
    """What breaks the books right now, and where."""
    with psycopg.connect(shop.admin_url) as connection:
        return {
            (each.what, str(row[0]))
            for each in _BOOKS
            for row in connection.execute(each.query.encode()).fetchall()
        }


@pytest.fixture(autouse=True)
async def books_that_add_up(shop: Shop) -> AsyncIterator[None]:
    """After each test the invariants hold of what it left."""
    before = broken(shop)
    yield
    shop.payments.refusal = None
    shop.payments.refund_status = payments_pb2.REFUND_STATUS_SUCCEEDED
    assert broken(shop) - before == set()


async def refunded(shop: Shop, cents: int = 500) -> tuple[UUID, pb.Order, UUID, pb.OrderRefund]:
    """A card order of which all went back."""
    picture = await shop.product(cents=cents)
    user_id, order = await bought_by_card(shop, {picture: 1})
    refund = await shop.refund(order.id)
    await shop.refund_becomes(refund.id, "succeeded")
    await tell_payment(shop, order, 2, refunded=cents)
    await shop.becomes(order.id, "refunded")
    return user_id, order, picture, refund


async def money(shop: Shop, order: pb.Order) -> dict[str, Any]:
    row = await shop.row(order.id)
    names = ("refunded", "promised", "settled", "written_off", "owed")
    return {name: row[f"{name}_cents"] for name in names if row[f"{name}_cents"]}


@pytest.mark.parametrize("payment_first", [True, False])
async def test_a_whole_refund_that_comes_back_is_owed(shop: Shop, payment_first: bool) -> None:
    user_id, order, picture, refund = await refunded(shop)
    assert await shop.grants(order.id) == {picture: "revoked"}
    if payment_first:
        await tell_payment(shop, order, 3)
    await tell_refund(shop, refund, 3, "FAILED", failure_reason="lost_or_stolen_card")
    if not payment_first:
        await tell_payment(shop, order, 3)
    seen = await shop.get(user_id, order.id)
    assert (seen.status, seen.owed_cents, seen.refunded_cents) == (pb.ORDER_STATUS_COMPLETED, 500, 0)
    assert await shop.grants(order.id) == {picture: "active"}
    assert (await shop.history(order.id))[-1] == ("refunded", "completed", "stripe", "refund_returned")
    assert f"returned:{refund.id}" in {
        row["kind"] for row in await shop.sql("SELECT kind FROM mails WHERE order_id = %s", order.id)
    }
    await shop.mails_sent(order.id)
    assert "did not arrive" in shop.mail(order.id, f"returned.{refund.id}")["Subject"]
    owed = await shop.operator.ListDebts(pb.ListDebtsRequest(limit=100))
    assert (order.id, 500) in [(debt.order_id, debt.owed_cents) for debt in owed.items]
    # Another refund pays it.
    again = await shop.refund(order.id)
    await shop.refund_becomes(again.id, "succeeded")
    await tell_payment(shop, order, 4, refunded=500)
    await shop.becomes(order.id, "refunded")
    assert await money(shop, order) == {"refunded": 500, "promised": 500}
    # And comes back, too.
    await tell_payment(shop, order, 5)
    await tell_refund(shop, again, 5, "FAILED", failure_reason="expired_or_canceled_card")
    assert await money(shop, order) == {"promised": 500, "owed": 500}


async def decide(shop: Shop, order: pb.Order, cents: int, **more: Any) -> pb.Order:
    request = pb.DecideDebtRequest(
        order_id=order.id,
        amount_cents=cents,
        **{
            "decision_id": str(uuid4()),
            "decision": pb.DEBT_DECISION_SETTLED_OUTSIDE,
            "reference": "SEPA 4711",
            "actor": "operator",
            "reason": "his card was closed",
            **more,
        },
    )
    return (await shop.operator.DecideDebt(request)).order


async def test_a_debt_is_settled_outside_in_parts_once_each(shop: Shop) -> None:
    _, order, picture, refund = await refunded(shop)
    await tell_payment(shop, order, 3)
    await tell_refund(shop, refund, 3, "FAILED", failure_reason="lost_or_stolen_card")
    fields = await refused(decide(shop, order, 501), REJECTED, "NOTHING_OWED")
    assert fields == {"requested": "501", "owed": "500"}
    first = str(uuid4())
    for _ in range(2):
        seen = await decide(shop, order, 200, decision_id=first)
    assert (seen.status, seen.owed_cents) == (pb.ORDER_STATUS_COMPLETED, 300)
    await refused(decide(shop, order, 100, decision_id=first), CONFLICT, "DECISION_MISMATCH")
    # What was given outside is not refunded again.
    fields = await refused(shop.refund(order.id, {picture: 1}), REJECTED, "REFUND_EXCEEDS_ORDER")
    assert fields["refundable"] == "300"
    seen = await decide(shop, order, 300)
    assert (seen.status, seen.owed_cents) == (pb.ORDER_STATUS_REFUNDED, 0)
    assert await shop.grants(order.id) == {picture: "revoked"}
    entries = await shop.sql("SELECT * FROM audit_log WHERE subject = %s ORDER BY seq", order.id)
    decisions = [
        (entry["action"], entry["details"]["cents"], entry["details"]["reference"])
        for entry in entries
        if entry["action"].startswith("debt.")
    ]
    assert decisions == [
        ("debt.settled_outside", 200, "SEPA 4711"),
        ("debt.settled_outside", 300, "SEPA 4711"),
    ]


async def test_a_debt_is_written_off_and_the_goods_stay(shop: Shop) -> None:
    _, order, picture, refund = await refunded(shop)
    await tell_payment(shop, order, 3)
    await tell_refund(shop, refund, 3, "FAILED", failure_reason="lost_or_stolen_card")
    written_off = pb.DEBT_DECISION_WRITTEN_OFF
    seen = await decide(shop, order, 500, decision=written_off, reference="")
    assert (seen.status, seen.owed_cents) == (pb.ORDER_STATUS_COMPLETED, 0)
    assert await shop.grants(order.id) == {picture: "active"}


async def test_a_refund_of_the_dashboard_that_comes_back_is_owed(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    _, order = await bought_by_card(shop, {picture: 1})
    await tell_payment(shop, order, 2, refunded=500)
    await shop.becomes(order.id, "refunded")
    await tell_payment(shop, order, 3, refunded=0)
    assert (await shop.row(order.id))["status"] == "completed"
    assert await money(shop, order) == {"promised": 500, "owed": 500}


async def test_a_refusal_is_no_debt(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    _, order = await bought_by_card(shop, {picture: 1})
    shop.payments.refusal = "REFUND_EXCEEDS_PAYMENT"
    refund = await shop.refund(order.id)
    await shop.refund_becomes(refund.id, "failed")
    assert await money(shop, order) == {}


async def test_a_part_that_was_disputed_and_lost_leaves_the_rest(shop: Shop) -> None:
    """22.97, of which 4.99 are disputed."""
    pictures = {await shop.product(cents=cents): 1 for cents in (499, 899, 899)}
    user_id, order = await bought_by_card(shop, pictures)
    await tell_payment(shop, order, 2, dispute="OPEN", disputed=499, lost=0)
    assert await shop.grants(order.id) == dict.fromkeys(pictures, "suspended")
    await tell_payment(shop, order, 3, dispute="LOST", disputed=499, lost=499)
    seen = await shop.get(user_id, order.id)
    assert (seen.status, seen.lost_cents, seen.dispute) == (pb.ORDER_STATUS_COMPLETED, 499, "lost")
    assert await shop.grants(order.id) == dict.fromkeys(pictures, "active")
    rest = await shop.refund(order.id)
    assert rest.amount_cents == 2297 - 499
    await shop.refund_becomes(rest.id, "succeeded")
    await tell_payment(shop, order, 4, dispute="LOST", disputed=499, lost=499, refunded=2297 - 499)
    row = await shop.becomes(order.id, "refunded")
    assert row["failure_reason"] == "dispute_lost"
    # The bank decides anew: it did not take anything.
    await tell_payment(shop, order, 5, dispute="WON", refunded=2297 - 499, lost=0)
    row = await shop.becomes(order.id, "completed")
    assert row["failure_reason"] is None


async def test_what_is_not_disputed_can_be_refunded_meanwhile(shop: Shop) -> None:
    disputed, other = await shop.product(cents=500), await shop.product(cents=900)
    _, order = await bought_by_card(shop, {disputed: 1, other: 1})
    await tell_payment(shop, order, 2, dispute="OPEN", disputed=500, lost=0)
    refund = await shop.refund(order.id, {other: 1})
    assert refund.amount_cents == 900
    await refused(shop.refund(order.id, {disputed: 1}), CONFLICT, "ORDER_DISPUTED")
    await refused(shop.refund(order.id), CONFLICT, "ORDER_DISPUTED")


async def test_a_lost_dispute_that_is_won_after_all_restores_the_order(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    user_id, order = await bought_by_card(shop, {picture: 1})
    await tell_payment(shop, order, 2, dispute="LOST", disputed=500, lost=500)
    await shop.becomes(order.id, "refunded")
    await tell_payment(shop, order, 3, dispute="WON", lost=0)
    row = await shop.becomes(order.id, "completed")
    assert row["failure_reason"] is None
    assert await shop.grants(order.id) == {picture: "active"}
    assert (await shop.history(order.id))[-1] == ("refunded", "completed", "stripe", "dispute_won")
    assert (await shop.get(user_id, order.id)).owed_cents == 0


async def test_a_partial_loss_told_by_the_release_before_is_its_disputed_amount(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    _, order = await bought_by_card(shop, {picture: 2})
    await tell_payment(shop, order, 2, dispute="LOST", disputed=300)
    row = await shop.row(order.id)
    assert (row["status"], row["lost_cents"]) == ("completed", 300)


async def test_a_late_payment_whose_refund_comes_back_waits_for_an_operator(shop: Shop) -> None:
    picture = await shop.product(stock=1, cents=500)
    order = await shop.place(uuid4(), {picture: 1}, method=STRIPE, email="ada@example.com")
    await tell(shop, order, EXPIRED, 2)
    await shop.becomes(order.id, "failed")
    faster = await shop.place(uuid4(), {picture: 1}, method=STRIPE)
    await tell(shop, faster, PAID, 2)
    await tell(shop, order, PAID, 3)
    [row] = await shop.until("SELECT * FROM refunds WHERE order_id = %s AND status = 'succeeded'", order.id)
    await tell_payment(shop, order, 2, refunded=500)
    await shop.becomes(order.id, "refunded")
    refund = pb.OrderRefund(id=str(row["id"]), order_id=order.id, amount_cents=500)
    await tell_payment(shop, order, 3)
    await tell_refund(shop, refund, 3, "FAILED", failure_reason="expired_or_canceled_card")
    after = await shop.becomes(order.id, "processing")
    assert (after["failure_reason"], after["owed_cents"]) == ("late_payment_out_of_stock", 500)
    again = await shop.refund(order.id)
    await shop.refund_becomes(again.id, "succeeded")
    await tell_payment(shop, order, 4, refunded=500)
    assert (await shop.becomes(order.id, "refunded"))["owed_cents"] == 0


@pytest.mark.parametrize(
    ("dispute", "lost", "status", "owed"), [("OPEN", 0, "processing", 500), ("LOST", 500, "refunded", 0)]
)
async def test_a_late_payment_that_is_disputed_already_is_not_refunded_on_top(
    shop: Shop, dispute: str, lost: int, status: str, owed: int
) -> None:
    picture = await shop.product(stock=1, cents=500)
    order = await shop.place(uuid4(), {picture: 1}, method=STRIPE)
    await tell(shop, order, EXPIRED, 2)
    await shop.becomes(order.id, "failed")
    faster = await shop.place(uuid4(), {picture: 1}, method=STRIPE)
    await tell(shop, faster, PAID, 2)
    await tell_payment(shop, order, 2, dispute=dispute, disputed=500, lost=lost)
    await tell(shop, order, PAID, 3)
    row = await shop.becomes(order.id, status)
    assert (row["failure_reason"], row["owed_cents"]) == ("late_payment_out_of_stock", owed)
    assert await shop.sql("SELECT id FROM refunds WHERE order_id = %s", order.id) == []
    # The bank decides for the shop: the customer is due his money.
    await tell_payment(shop, order, 3, dispute="WON", lost=0)
    row = await shop.becomes(order.id, "processing")
    assert row["owed_cents"] == 500


async def test_what_came_back_of_one_line_is_not_paid_by_the_refund_of_another(shop: Shop) -> None:
    torn, late = await shop.product(cents=500), await shop.product(cents=500)
    _, order = await bought_by_card(shop, {torn: 1, late: 1})
    first = await shop.refund(order.id, {torn: 1})
    await shop.refund_becomes(first.id, "succeeded")
    await tell_payment(shop, order, 2, refunded=500)
    await tell_payment(shop, order, 3)
    await tell_refund(shop, first, 3, "FAILED", failure_reason="lost_or_stolen_card")
    assert await money(shop, order) == {"promised": 500, "owed": 500}
    other = await shop.refund(order.id, {late: 1})
    await shop.refund_becomes(other.id, "succeeded")
    await tell_payment(shop, order, 4, refunded=500)
    assert await money(shop, order) == {"refunded": 500, "promised": 1000, "owed": 500}
    # A second try of the line itself pays it.
    again = await shop.refund(order.id, {torn: 1})
    await shop.refund_becomes(again.id, "succeeded")
    await tell_payment(shop, order, 5, refunded=1000)
    await shop.becomes(order.id, "refunded")
    assert await money(shop, order) == {"refunded": 1000, "promised": 1000}
