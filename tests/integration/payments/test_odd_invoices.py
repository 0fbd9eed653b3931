"""Invoices as the world pays them: in parts, by credit, outside of Stripe, with tax, for another price. Each
is one sale: it gives its points if it was billed as agreed, else it waits for an operator."""

from typing import Any

import grpc
import pytest

from protos.payments.v1 import payments_pb2 as pb
from services.payments.invariants import INVARIANTS
from tests.integration.payments.conftest import Payments, refused
from tests.integration.payments.sandbox import Sandbox, sandbox_of
from tests.integration.payments.test_quarantine import audited
from tests.integration.payments.test_subscriptions import POINTS, PRICE, grants, subscribed

CONFLICT, REJECTED = grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION
FULFIL, REFUND = pb.QUARANTINE_RESOLUTION_FULFIL, pb.QUARANTINE_RESOLUTION_REFUND
OUTSIDE, WRITE_OFF = pb.QUARANTINE_RESOLUTION_SETTLED_OUTSIDE, pb.QUARANTINE_RESOLUTION_WRITTEN_OFF


@pytest.fixture
def payments(sandboxed: Payments) -> Payments:
    return sandboxed


@pytest.fixture
def stripe(payments: Payments) -> Sandbox:
    return sandbox_of(payments)


async def renewed(payments: Payments, *, mid_period: bool = False, **terms: Any) -> str:
    """The invoice of the next period, billed and paid so; its id."""
    _, row = await subscribed(payments)
    stripe, at_stripe = sandbox_of(payments), row["stripe_subscription_id"]
    await stripe.control(f"subscriptions/{at_stripe}/{'invoice' if mid_period else 'renew'}", **terms)
    [newest, *_] = (await stripe.get("invoices", subscription=at_stripe))["data"]
    assert newest["status"] == "paid"
    return str(newest["id"])


async def parked(payments: Payments, invoice_id: str) -> dict[str, Any]:
    [row] = await payments.until("SELECT * FROM quarantine WHERE invoice_id = %s", invoice_id)
    return row


async def payments_of(payments: Payments, invoice_id: str) -> list[dict[str, Any]]:
    return await payments.sql("SELECT * FROM payments WHERE invoice_id = %s ORDER BY id", invoice_id)


async def resolve(
    payments: Payments, row: dict[str, Any], resolution: Any, **more: Any
) -> pb.QuarantinedPayment:
    request = pb.ResolveQuarantineRequest(
        id=str(row["id"]), resolution=resolution, actor="operator-7", reason="INV-7 of the bank", **more
    )
    return (await payments.operator.ResolveQuarantine(request)).payment


@pytest.mark.parametrize(
    ("terms", "reason", "billed", "by_card"),
    [
        # A2: no payment that the shop could refund.
        ({"by": "out_of_band"}, "paid_outside", PRICE, 0),
        ({"by": "charge"}, "paid_outside", PRICE, 0),
        # A3: by credit, whole or in part; with tax; prorated; for what was billed in the middle of a period.
        ({"balance": PRICE}, "paid_by_credit", PRICE, 0),
        ({"balance": 999}, "paid_by_credit", PRICE, 1000),
        ({"tax": 160}, "amount_mismatch", 2159, 2159),
        ({"proration": -500}, "amount_mismatch", PRICE - 500, PRICE - 500),
        ({"billing_reason": "subscription_update"}, "unexpected_invoice", PRICE, PRICE),
    ],
)
async def test_what_was_not_billed_or_paid_as_agreed_waits_with_what_was_billed(
    payments: Payments, terms: dict[str, Any], reason: str, billed: int, by_card: int
) -> None:
    """An operator states the points; the renewals that follow give theirs by themselves."""
    invoice_id = await renewed(payments, **terms)
    row = await parked(payments, invoice_id)
    assert (row["reason"], row["status"], row["amount_cents"]) == (reason, "parked", billed)
    assert sum(each["amount_cents"] for each in await payments_of(payments, invoice_id)) == by_card
    # No event of it is tried for ever.
    await payments.until(
        "SELECT 1 FROM stripe_events WHERE object_id = %s HAVING bool_and(status <> 'received')", invoice_id
    )
    with refused("CANNOT_FULFIL", REJECTED):
        await resolve(payments, row, FULFIL)
    assert invoice_id not in dict(await grants(payments))
    for _ in range(2):
        answer = await resolve(payments, row, FULFIL, points=170, reference="transfer 9")
        assert (answer.status, answer.due_cents) == (pb.QUARANTINE_STATUS_FULFILLED, 0)
    assert [each for each in await grants(payments) if each[0] == invoice_id] == [(invoice_id, 170)]
    [entry] = await payments.sql("SELECT details FROM audit_log WHERE subject = %s", str(row["id"]))
    assert entry["details"] == {"points": 170, "reference": "transfer 9"}


async def test_a_price_changed_in_the_dashboard_waits_at_each_renewal(
    payments: Payments, stripe: Sandbox
) -> None:
    _, row = await subscribed(payments)
    at_stripe = row["stripe_subscription_id"]
    await stripe.control(f"subscriptions/{at_stripe}/items", unit_amount=2999)
    for _ in range(2):
        await stripe.control(f"subscriptions/{at_stripe}/renew")
    found = await payments.until(
        "SELECT 1 FROM quarantine WHERE checkout_id = %s AND amount_cents = 2999 HAVING count(*) = 2",
        row["id"],
    )
    await payments.until("SELECT 1 FROM subscriptions WHERE id = %s AND changed_outside", row["id"])
    assert found
    assert len(await grants(payments)) == 1


async def test_an_invoice_in_two_payments_loses_points_for_either(
    payments: Payments, stripe: Sandbox
) -> None:
    """A4: 1000 and 999 of 1999; each part that goes back takes its share, and all of it all."""
    invoice_id = await renewed(payments, parts=[1000, 999])
    await payments.until("SELECT 1 FROM invoices WHERE id = %s", invoice_id)
    first, second = await payments_of(payments, invoice_id)
    expected = [POINTS]
    for payment, amount in ((second, 999), (first, 500), (first, 500)):
        await stripe.post("refunds", payment_intent=payment["payment_intent_id"], amount=amount)
        back = sum(each["refunded_cents"] for each in await payments_of(payments, invoice_id)) + amount
        await payments.until(
            "SELECT 1 FROM payments WHERE invoice_id = %s HAVING sum(refunded_cents) >= %s", invoice_id, back
        )
        expected.append(POINTS - POINTS * back // PRICE)
    told = [net for source, net in await grants(payments) if source == invoice_id]
    assert told == expected
    assert told[1] == POINTS - POINTS * 999 // PRICE
    assert told[-1] == 0


async def test_what_was_fulfilled_of_a_part_by_card_loses_that_part(
    payments: Payments, stripe: Sandbox
) -> None:
    """999 by credit, 1000 by card: the card's part goes back."""
    invoice_id = await renewed(payments, balance=999)
    await resolve(payments, await parked(payments, invoice_id), FULFIL, points=200)
    [by_card] = await payments_of(payments, invoice_id)
    await stripe.post("refunds", payment_intent=by_card["payment_intent_id"])
    await payments.until("SELECT 1 FROM payments WHERE id = %s AND refunded_cents = 1000", by_card["id"])
    told = [net for source, net in await grants(payments) if source == invoice_id]
    assert told == [200, 200 - 200 * 1000 // PRICE]


async def test_what_was_paid_outside_is_settled_outside_or_written_off(payments: Payments) -> None:
    """Nothing of it can be refunded at Stripe: it is due until somebody says what became of it."""
    invoice_id = await renewed(payments, by="out_of_band")
    row = await parked(payments, invoice_id)
    with refused("NOTHING_AT_STRIPE", CONFLICT, due=str(PRICE)):
        await resolve(payments, row, REFUND)
    with refused("SETTLEMENT_EXCEEDS_DUE", REJECTED):
        await resolve(payments, row, OUTSIDE, amount_cents=PRICE + 1, reference="transfer 8")
    for _ in range(2):
        part = await resolve(payments, row, OUTSIDE, amount_cents=1500, reference="transfer 7")
        assert (part.status, part.due_cents) == (pb.QUARANTINE_STATUS_PARKED, PRICE - 1500)
    # As the release before left it: the reference alone. Then another one, and each of them again.
    await payments.sql("UPDATE quarantine SET settlements = '{}' WHERE id = %s", row["id"])
    for amount, reference in ((100, "transfer 9"), (1500, "transfer 7"), (100, "transfer 9")):
        part = await resolve(payments, row, OUTSIDE, amount_cents=amount, reference=reference)
        assert (part.due_cents, part.settlement_reference) == (PRICE - 1600, "transfer 9")
    [sums] = [each for each in INVARIANTS if "sum of its references" in each.what]
    assert await payments.sql(sums.query) == []
    with refused("SETTLEMENT_MISMATCH", CONFLICT, amount="1400", booked="1500"):
        await resolve(payments, row, OUTSIDE, amount_cents=1400, reference="transfer 7")
    with refused("CANNOT_FULFIL", REJECTED):
        await resolve(payments, row, FULFIL, points=1)
    for _ in range(2):
        ended = await resolve(payments, row, WRITE_OFF)
        assert (ended.status, ended.due_cents) == (pb.QUARANTINE_STATUS_WRITTEN_OFF, 0)
    assert (ended.settled_outside_cents, ended.settlement_reference) == (1600, "transfer 9")
    assert ended.written_off_cents == PRICE - 1600
    assert await audited(payments, row) == [
        *["quarantine.settled_outside"] * 2,
        "quarantine.written_off",
    ]


async def test_the_part_by_card_is_refunded_once_and_the_rest_stays_due(
    payments: Payments, stripe: Sandbox
) -> None:
    """Asked again, when the answer was lost say, it is as it stands."""
    row = await parked(payments, invoice_id := await renewed(payments, balance=999))
    await resolve(payments, row, REFUND)
    await payments.until("SELECT 1 FROM payments WHERE invoice_id = %s AND refunded_cents = 1000", invoice_id)
    again = await resolve(payments, row, REFUND)
    assert (again.status, again.due_cents) == (pb.QUARANTINE_STATUS_PARKED, 999)
    [by_card] = await payments_of(payments, invoice_id)
    back = (await stripe.get("refunds", payment_intent=by_card["payment_intent_id"]))["data"]
    assert [refund["amount"] for refund in back] == [1000]


async def test_all_payments_of_a_parked_invoice_are_refunded(payments: Payments, stripe: Sandbox) -> None:
    invoice_id = await renewed(payments, tax=160, parts=[1000, 1159])
    row = await parked(payments, invoice_id)
    await resolve(payments, row, REFUND)
    await payments.until("SELECT 1 FROM quarantine WHERE id = %s AND status = 'refunded'", row["id"])
    back = [
        refund["amount"]
        for payment in await payments_of(payments, invoice_id)
        for refund in (await stripe.get("refunds", payment_intent=payment["payment_intent_id"]))["data"]
    ]
    assert back == [1000, 1159]
