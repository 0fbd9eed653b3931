"""Other programs, and other copies of this shop, on the same account of Stripe: each sees to its own."""

from typing import Any
from uuid import uuid4

import pytest

from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import SHOP_ID, Payments
from tests.integration.payments.stripe_double import Fields

COMPLETED, SUCCEEDED = "checkout.session.completed", "payment_intent.succeeded"


async def stray(payments: Payments, metadata: Fields) -> Fields:
    """A paid session that no checkout here knows, and that bears this metadata."""
    session = payments.stripe.complete((await payments.points_checkout()).session_id)
    names = {"id": f"cs_{uuid4().hex}", "payment_intent": f"pi_{uuid4().hex}", "client_reference_id": None}
    return session | names | {"metadata": {"user_id": str(uuid4()), "order_id": str(uuid4())} | metadata}


async def became(payments: Payments, event_type: str, subject: Fields) -> str:
    event_id = await payments.deliver(event_type, subject)
    return str((await payments.settled(event_id))["status"])


async def parked(payments: Payments, session: Fields) -> list[dict[str, Any]]:
    query = "SELECT reason FROM quarantine WHERE payment_intent_id = %s"
    return await payments.sql(query, session["payment_intent"])


async def test_what_we_make_bears_our_mark(payments: Payments) -> None:
    session = payments.stripe.sessions[(await payments.points_checkout()).session_id]
    assert session["metadata"]["shop"] == session["payment_intent_metadata"]["shop"] == SHOP_ID


@pytest.mark.parametrize("metadata", [{"shop": "theirs", "checkout_id": str(uuid4())}, {}])
async def test_payments_of_others_are_not_parked(payments: Payments, metadata: Fields) -> None:
    session = await stray(payments, metadata)
    intent = {
        "id": session["payment_intent"],
        "object": "payment_intent",
        "status": "succeeded",
        "amount_received": 3999,
        "currency": "usd",
        "metadata": session["metadata"],
    }
    assert await became(payments, COMPLETED, session) == "ignored"
    assert await became(payments, SUCCEEDED, intent) == "ignored"
    assert await parked(payments, session) == []


@pytest.mark.parametrize("metadata", [{"shop": SHOP_ID}, {"checkout_id": str(uuid4())}])
async def test_what_bears_our_mark_or_is_older_than_it_is_parked(
    payments: Payments, metadata: Fields
) -> None:
    session = await stray(payments, metadata)
    assert await became(payments, COMPLETED, session) == "processed"
    assert await parked(payments, session) == [{"reason": "unknown_checkout"}]


async def test_what_a_row_knows_is_ours_whatever_its_mark(payments: Payments) -> None:
    """Made before the shop got its name."""
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    session["metadata"]["shop"] = "an older name"
    assert await became(payments, COMPLETED, session) == "processed"
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PAID
