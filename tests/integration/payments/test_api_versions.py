"""Events as other API versions than ours render them: ids are believed, Stripe is asked for the rest."""

import asyncio
import time
from typing import Any
from uuid import uuid4

import pytest

from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import Payments
from tests.integration.payments.stripe_double import Fields, event_body

OLD = "2020-08-27"
COMPLETED, SUCCEEDED = "checkout.session.completed", "payment_intent.succeeded"
FAILED = "checkout.session.async_payment_failed"


async def told(
    payments: Payments, event_type: str, subject: Fields, version: str | None = OLD
) -> dict[str, Any]:
    """The event once it is handled; what was asked of Stripe is counted from here on."""
    payments.stripe.looks.clear()
    event_id = f"evt_{uuid4().hex}"
    body = event_body(event_id, event_type, subject, api_version=version)
    assert (await payments.post(body)).status_code == 200
    return await payments.settled(event_id)


@pytest.mark.parametrize("version", [OLD, None, "2030-01-01.later"])
async def test_a_session_of_another_version_is_asked_for(payments: Payments, version: str | None) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    # As rendered before there was a payment_status, and nothing that would make it ours.
    shown = {"id": session["id"], "object": "checkout.session", "payment_intent": {"odd": 1}}
    assert (await told(payments, COMPLETED, shown, version))["status"] == "processed"
    assert payments.stripe.looks == [f"/v1/checkout/sessions/{session['id']}"]
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PAID


async def test_what_another_version_says_is_not_believed(payments: Payments) -> None:
    """It may read as ours does, and mean something else."""
    checkout = await payments.points_checkout()
    open_one = payments.stripe.sessions[checkout.session_id]
    paid = {"status": "complete", "payment_status": "paid", "payment_intent": "pi_lie"}
    await told(payments, COMPLETED, open_one | paid)
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_OPEN


async def test_of_our_version_nothing_is_asked(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    payments.stripe.looks.clear()
    await payments.deliver(COMPLETED, session)
    assert payments.stripe.looks == []
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PAID


async def test_of_our_version_and_an_unknown_shape_stripe_is_asked(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    payments.stripe.looks.clear()
    await payments.deliver(COMPLETED, session | {"amount_total": "3999"})
    assert payments.stripe.looks == [f"/v1/checkout/sessions/{session['id']}"]
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PAID


async def test_a_delayed_payment_that_failed_is_known_by_its_type(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    session = payments.stripe.complete(checkout.session_id, paid=False)
    await told(payments, FAILED, {"id": session["id"], "object": "checkout.session"})
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_FAILED


async def test_an_intent_of_another_version_is_asked_for(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    shown = {"id": session["payment_intent"], "object": "payment_intent", "charges": {"data": []}}
    assert (await told(payments, SUCCEEDED, shown))["status"] == "processed"
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PAID


@pytest.mark.parametrize(
    ("event_type", "kind"),
    [("charge.refunded", "charge"), ("refund.updated", "refund"), ("charge.dispute.created", "dispute")],
)
async def test_whose_money_comes_back_is_asked_for(payments: Payments, event_type: str, kind: str) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    await payments.deliver(COMPLETED, session)
    object_id, intent_id = f"{kind}_{uuid4().hex}", session["payment_intent"]
    payments.stripe.objects[object_id] = {"id": object_id, "object": kind, "payment_intent": intent_id}
    if kind != "charge":
        payments.stripe.objects[object_id] |= {
            "amount": 1000,
            "currency": "usd",
            "status": "succeeded" if kind == "refund" else "needs_response",
            "reason": "general",
            "charge": "ch_1",
            "balance_transactions": [],
            "created": int(time.time()),
        }
    # As it was before there were payment intents.
    event = await told(payments, event_type, {"id": object_id, "object": kind})
    assert event["status"] == "processed"
    query = "SELECT refunded_cents, disputed_cents, refunds_observed_at, disputes_observed_at FROM payments"
    [payment] = await payments.sql(f"{query} WHERE payment_intent_id = %s", intent_id)
    came_back = {"charge": (0, 0), "refund": (1000, 0), "dispute": (0, 1000)}[kind]
    assert (payment["refunded_cents"], payment["disputed_cents"]) == came_back
    observed = payment["disputes_observed_at" if kind == "dispute" else "refunds_observed_at"]
    assert observed is not None


async def test_a_burst_of_other_versions_does_not_starve_who_opens_a_checkout(payments: Payments) -> None:
    sessions = [payments.stripe.sessions[(await payments.points_checkout()).session_id] for _ in range(8)]
    payments.stripe.look_seconds, payments.stripe.most_looks_at_once = 0.2, 0
    ids = [f"evt_{uuid4().hex}" for _ in sessions]
    bodies = [
        event_body(event_id, "checkout.session.expired", session, api_version=OLD)
        for event_id, session in zip(ids, sessions, strict=True)
    ]
    await asyncio.gather(*(payments.post(body) for body in bodies))
    assert (await payments.points_checkout()).status == pb.CHECKOUT_STATUS_OPEN
    query = "SELECT 1 FROM stripe_events WHERE id = ANY(%s) AND status = 'processed' HAVING count(*) = 8"
    await payments.until(query, ids)
    assert payments.stripe.most_looks_at_once == 2
