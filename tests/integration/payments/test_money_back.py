"""Money that comes back of a points purchase: whatever came first, points leave by net and only once."""

from typing import Any
from uuid import uuid4

import pytest

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import Payments
from tests.integration.payments.sandbox import Sandbox, sandbox_of

PRICE, POINTS = 3999, 550


@pytest.fixture
def payments(sandboxed: Payments) -> Payments:
    return sandboxed


@pytest.fixture
def stripe(payments: Payments) -> Sandbox:
    return sandbox_of(payments)


async def bought(payments: Payments, stripe: Sandbox) -> tuple[pb.Checkout, str]:
    """A checkout that is paid here and there, and its payment intent."""
    checkout = await payments.points_checkout()
    await stripe.pay(checkout.url)
    await payments.until_status(checkout.id, "paid")
    return checkout, await stripe.intent_of(checkout.session_id)


async def grants(payments: Payments, source: str) -> list[Any]:
    return await payments.facts("payments.points.grant_changed", events_pb2.PointsGrantChanged, source)


async def until_net(payments: Payments, checkout: pb.Checkout, net: int) -> None:
    """Waits until the last fact about the points says so."""
    query = (
        "SELECT 1 FROM payments WHERE checkout_id = %s AND"
        " points - points * least(amount_cents, refunded_cents + disputed_cents) / amount_cents = %s"
    )
    await payments.until(query, checkout.id, net)
    facts = await grants(payments, checkout.id)
    assert facts[-1].net_points == net
    versions = [fact.version for fact in facts]
    assert versions == sorted(set(versions))


async def test_what_came_back_of_a_payment_that_is_parked_only_afterwards_counts(
    payments: Payments, stripe: Sandbox
) -> None:
    await stripe.control("webhooks", mode="hold")
    metadata = {"user_id": str(uuid4()), "points_amount": "100", "checkout_id": str(uuid4())}
    intent = (await stripe.control("payments", amount=1000, currency="usd", metadata=metadata))["id"]
    await stripe.post("refunds", payment_intent=intent, amount=300)
    told = await stripe.events("refund.created", "payment_intent.succeeded", about=intent)
    for event in sorted(told, key=lambda event: str(event["type"]), reverse=True):
        await stripe.deliver(event["id"])
        await payments.until(
            "SELECT 1 FROM stripe_events WHERE id = %s AND status <> 'received'", event["id"]
        )
    rows = await payments.sql(
        "SELECT standing, refunded_cents FROM payments WHERE payment_intent_id = %s", intent
    )
    assert rows == [{"standing": "quarantined", "refunded_cents": 300}]


async def test_parts_and_the_rest_take_back_exactly_what_was_given(
    payments: Payments, stripe: Sandbox
) -> None:
    checkout, intent = await bought(payments, stripe)
    await stripe.post("refunds", payment_intent=intent, amount=1200)
    await until_net(payments, checkout, POINTS - POINTS * 1200 // PRICE)
    await stripe.post("refunds", payment_intent=intent)
    await until_net(payments, checkout, 0)
    rows = await payments.sql(
        "SELECT amount_cents, status, is_ours FROM refunds WHERE payment_intent_id = %s", intent
    )
    assert sorted(row["amount_cents"] for row in rows) == [1200, 2799]
    assert {(row["status"], row["is_ours"]) for row in rows} == {("succeeded", False)}


async def test_copies_of_an_event_make_no_copies_of_a_fact(payments: Payments, stripe: Sandbox) -> None:
    checkout, intent = await bought(payments, stripe)
    await stripe.post("refunds", payment_intent=intent)
    await until_net(payments, checkout, 0)
    for event in await stripe.events(about=intent):
        await stripe.deliver(event["id"], copies=5)
        await payments.until(
            "SELECT 1 FROM stripe_events WHERE id = %s AND status <> 'received'", event["id"]
        )
    assert [fact.net_points for fact in await grants(payments, checkout.id)] == [POINTS, 0]


async def test_a_refund_that_fails_gives_the_points_back(payments: Payments, stripe: Sandbox) -> None:
    checkout, intent = await bought(payments, stripe)
    await stripe.control("refunds", status="pending")
    refund = await stripe.post("refunds", payment_intent=intent, amount=2000)
    await until_net(payments, checkout, POINTS - POINTS * 2000 // PRICE)
    await stripe.control(f"refunds/{refund['id']}", status="failed")
    await until_net(payments, checkout, POINTS)


@pytest.mark.parametrize(("ends", "net"), [("won", POINTS), ("lost", 0)])
async def test_a_dispute_takes_back_and_only_a_won_one_restores(
    payments: Payments, stripe: Sandbox, ends: str, net: int
) -> None:
    checkout, intent = await bought(payments, stripe)
    dispute = await stripe.control("disputes", payment_intent=intent)
    await until_net(payments, checkout, 0)
    for status in ("under_review", ends):
        await stripe.control(f"disputes/{dispute['id']}", status=status)
    [row] = await payments.until(
        "SELECT * FROM payments WHERE dispute = %s AND checkout_id = %s", ends, checkout.id
    )
    await until_net(payments, checkout, net)
    assert row["refunded_cents"] == 0


async def test_an_inquiry_moves_nothing(payments: Payments, stripe: Sandbox) -> None:
    checkout, intent = await bought(payments, stripe)
    dispute = await stripe.control("disputes", payment_intent=intent, status="warning_needs_response")
    await payments.until("SELECT 1 FROM disputes WHERE id = %s", dispute["id"])
    await stripe.control(f"disputes/{dispute['id']}", status="warning_closed")
    await payments.until("SELECT 1 FROM disputes WHERE id = %s AND status = 'warning_closed'", dispute["id"])
    assert len(await grants(payments, checkout.id)) == 1


async def test_an_appeal_opens_a_lost_dispute_anew(payments: Payments, stripe: Sandbox) -> None:
    checkout, intent = await bought(payments, stripe)
    dispute = (await stripe.control("disputes", payment_intent=intent, amount=1200))["id"]
    left = POINTS - POINTS * 1200 // PRICE
    await stripe.control(f"disputes/{dispute}", status="lost")
    await stripe.control(f"disputes/{dispute}", status="appeal_under_review")
    await payments.until("SELECT 1 FROM payments WHERE checkout_id = %s AND dispute = 'open'", checkout.id)
    await until_net(payments, checkout, left)
    await stripe.control(f"disputes/{dispute}", status="won")
    await until_net(payments, checkout, POINTS)


async def test_refund_and_dispute_together_reverse_once(payments: Payments, stripe: Sandbox) -> None:
    checkout, intent = await bought(payments, stripe)
    await stripe.post("refunds", payment_intent=intent, amount=1000)
    await until_net(payments, checkout, POINTS - POINTS * 1000 // PRICE)
    dispute = await stripe.control("disputes", payment_intent=intent)
    await until_net(payments, checkout, 0)
    for status in ("under_review", "won"):
        await stripe.control(f"disputes/{dispute['id']}", status=status)
    await until_net(payments, checkout, POINTS - POINTS * 1000 // PRICE)


async def test_a_refund_told_before_its_payment_credits_only_the_rest(
    payments: Payments, stripe: Sandbox
) -> None:
    await stripe.control("webhooks", mode="hold")
    checkout = await payments.points_checkout()
    await stripe.pay(checkout.url)
    intent = await stripe.intent_of(checkout.session_id)
    await stripe.post("refunds", payment_intent=intent, amount=1999)
    [refunded] = await stripe.events("charge.refunded", about=intent)
    await stripe.deliver(refunded["id"])
    await until_net(payments, checkout, POINTS - POINTS * 1999 // PRICE)
    [row] = await payments.sql("SELECT * FROM stripe_events WHERE id = %s", refunded["id"])
    kinds = [effect["kind"] for effect in row["effects"]]
    assert kinds == ["checkout", "payment", "grant", "refund", "grant"]


async def test_money_back_of_somebody_elses_payment_is_counted_and_left_alone(
    payments: Payments, stripe: Sandbox
) -> None:
    paid = await stripe.control("payments", amount=500)
    refund = await stripe.post("refunds", payment_intent=paid["id"])
    [event] = await stripe.events("refund.created", about=refund["id"])
    row = await payments.settled(event["id"])
    assert (row["status"], row["effects"]) == ("ignored", [])
    assert not await payments.sql("SELECT 1 FROM payments WHERE payment_intent_id = %s", paid["id"])


async def test_an_orders_payment_tells_orders_what_is_left_of_it(payments: Payments, stripe: Sandbox) -> None:
    checkout = await payments.order_checkout()
    await stripe.pay(checkout.url)
    await payments.until_status(checkout.id, "paid")
    intent = await stripe.intent_of(checkout.session_id)
    await stripe.post("refunds", payment_intent=intent, amount=300)
    await payments.until(
        "SELECT 1 FROM payments WHERE payment_intent_id = %s AND refunded_cents = 300", intent
    )
    dispute = await stripe.control("disputes", payment_intent=intent)
    await payments.until("SELECT 1 FROM payments WHERE payment_intent_id = %s AND dispute = 'open'", intent)
    rows = await payments.sql(
        "SELECT payload FROM outbox WHERE subject = 'payments.payment.changed' ORDER BY id"
    )
    facts = [events_pb2.PaymentChanged.FromString(row["payload"]) for row in rows]
    told = [fact for fact in facts if fact.order_id == checkout.order_id]
    assert [(fact.refunded_cents, fact.disputed_cents, fact.dispute) for fact in told] == [
        (300, 0, events_pb2.DISPUTE_STATE_NONE),
        (300, dispute["amount"], events_pb2.DISPUTE_STATE_OPEN),
    ]
    assert told[0].version < told[1].version


async def test_a_declined_card_is_recorded_and_changes_nothing(payments: Payments, stripe: Sandbox) -> None:
    checkout = await payments.points_checkout()
    await stripe.http.post(checkout.url, data={"action": "decline"})
    intent = await stripe.intent_of(checkout.session_id)
    [event] = await stripe.events("payment_intent.payment_failed", about=intent)
    row = await payments.settled(event["id"])
    assert (row["status"], row["payment_intent_id"]) == ("processed", intent)
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_OPEN


@pytest.mark.parametrize(("outcome", "status"), [("succeeded", "paid"), ("failed", "failed")])
async def test_a_bank_debit_is_waited_for(
    payments: Payments, stripe: Sandbox, outcome: str, status: str
) -> None:
    checkout = await payments.points_checkout()
    await stripe.control(f"sessions/{checkout.session_id}/pay_later")
    await payments.until_status(checkout.id, "processing")
    await stripe.control(f"sessions/{checkout.session_id}/delayed_payment", outcome=outcome)
    await payments.until_status(checkout.id, status)
    assert len(await grants(payments, checkout.id)) == (status == "paid")
