"""Signed events that are odd all the same: none changes what it must not, or holds up another."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from services.payments.events import READERS
from tests.integration.payments.conftest import Payments
from tests.integration.payments.stripe_double import Fields, event_body

COMPLETED = "checkout.session.completed"


async def _grants(payments: Payments, checkout_id: str) -> list[Any]:
    return await payments.facts("payments.points.grant_changed", events_pb2.PointsGrantChanged, checkout_id)


async def _paid(payments: Payments, change: Fields) -> tuple[pb.Checkout, Fields]:
    """A checkout that is open here, and its session at Stripe: paid, and odd."""
    checkout = await payments.points_checkout()
    return checkout, dict(payments.stripe.complete(checkout.session_id)) | change


async def _tried(payments: Payments, *bodies: bytes) -> dict[str, dict[str, Any]]:
    """Delivers events; their rows by id, once each of them has been tried."""
    answers = await asyncio.gather(*(payments.post(body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    ids = [json.loads(body)["id"] for body in bodies]
    query = "SELECT * FROM stripe_events WHERE id = ANY(%s) AND (error IS NOT NULL OR status <> 'received')"
    await payments.until(f"SELECT 1 FROM ({query}) tried HAVING count(*) = %s", ids, len(ids))
    return {row["id"]: row for row in await payments.sql(query, ids)}


async def _is_credited(payments: Payments, bystander: pb.Checkout) -> None:
    """Somebody who pays while the odd events are there."""
    await payments.deliver(COMPLETED, payments.stripe.complete(bystander.session_id))
    assert len(await _grants(payments, bystander.id)) == 1


async def test_what_names_nothing_is_tried_again_with_its_error_shown(payments: Payments) -> None:
    odd: list[tuple[Fields, str]] = [
        ({"id": "cs_\ud800"}, "id is not text"),
        ({"id": "cs_\0"}, "id is not text"),
        ({"id": None}, "id is missing"),
        ({"object": "charge"}, "object is not a checkout.session"),
    ]
    bystander = await payments.points_checkout(package_id="basic")
    checkout, session = await _paid(payments, {})
    bodies = [event_body(f"evt_{uuid4().hex}", COMPLETED, session | change) for change, _ in odd]
    rows = await _tried(payments, *bodies)
    found = [rows[json.loads(body)["id"]] for body in bodies]
    assert [row["error"] for row in found] == [f"Malformed: {error}" for _, error in odd]
    assert {row["status"] for row in found} == {"received"}
    await _is_credited(payments, bystander)
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_OPEN


@pytest.mark.parametrize(
    "odd",
    [
        {"amount_total": 3999.0},
        {"amount_total": "3999"},
        {"amount_total": True},
        {"amount_total": 1 << 63},
        {"amount_total": -3999},
        {"payment_intent": "pi_\0"},
        {"payment_intent": {"id": ["pi"]}},
        {"currency": "usd\udfff"},
        {"metadata": ["user_id"]},
    ],
)
async def test_what_cannot_be_read_is_asked_for(payments: Payments, odd: Fields) -> None:
    checkout, session = await _paid(payments, {})
    await payments.deliver(COMPLETED, session | odd)
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PAID
    assert len(await _grants(payments, checkout.id)) == 1


async def test_an_object_of_another_kind_than_its_event_changes_nothing(payments: Payments) -> None:
    customer = {"id": "cus_1", "object": "customer", "metadata": {"user_id": str(payments.user_id)}}
    bodies = [event_body(f"evt_{uuid4().hex}", event_type, customer) for event_type in READERS]
    for row in (await _tried(payments, *bodies)).values():
        # What only says where to look names nothing here.
        assert row["status"] == "ignored" or row["error"].startswith("Malformed: object is not a"), row
        assert row["effects"] == []


@pytest.mark.parametrize("odd", ["\ud800", "a\0b"])
async def test_odd_metadata_is_parked_with_what_can_be_kept_of_it(payments: Payments, odd: str) -> None:
    checkout, session = await _paid(payments, {})
    session["metadata"] |= {"points_amount": odd, odd: "x"}
    await payments.deliver(COMPLETED, session)
    [parked] = await payments.sql("SELECT * FROM quarantine WHERE checkout_id = %s", checkout.id)
    assert (parked["reason"], parked["status"]) == ("metadata_mismatch", "parked")
    assert parked["metadata"]["points_amount"] == odd.replace("\0", "?").replace("\ud800", "?")
    assert await _grants(payments, checkout.id) == []


async def test_what_the_endpoint_could_parse_the_worker_can(payments: Payments) -> None:
    """Nested around the depth at which the parser gives up."""
    bystander = await payments.points_checkout(package_id="basic")
    _, session = await _paid(payments, {})
    kept, depth = [], 880
    while True:
        event_id = f"evt_{uuid4().hex}"
        flat = event_body(event_id, COMPLETED, session | {"odd": "@"})
        answer = await payments.post(flat.replace(b'"@"', b"[" * depth + b"]" * depth))
        if answer.status_code != 200:
            break
        kept.append(event_id)
        depth += 8
    assert (answer.status_code, len(kept) > 0) == (400, True)
    for event_id in kept:
        assert (await payments.settled(event_id))["status"] == "processed"
    await _is_credited(payments, bystander)


async def test_of_a_name_that_comes_twice_the_last_counts(payments: Payments) -> None:
    checkout, session = await _paid(payments, {})
    event_id = f"evt_{uuid4().hex}"
    body = event_body(event_id, COMPLETED, session)
    paid = b'"payment_status": "paid"'
    assert paid in body
    twice = body.replace(paid, paid + b', "payment_status": "unpaid"')
    assert (await payments.post(twice)).status_code == 200
    await payments.settled(event_id)
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PROCESSING


async def test_what_happens_at_a_connected_account_is_not_ours(payments: Payments) -> None:
    """Its owner may write our metadata on what it was paid itself."""
    checkout, session = await _paid(payments, {})
    event_id = f"evt_{uuid4().hex}"
    event = json.loads(event_body(event_id, COMPLETED, session)) | {"account": "acct_1"}
    assert (await payments.post(json.dumps(event).encode())).status_code == 200
    assert (await payments.settled(event_id))["status"] == "ignored"
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_OPEN


@pytest.mark.parametrize("of_order", [True, False])
async def test_a_session_that_was_free_ends_its_checkout_truthfully_and_is_parked(
    payments: Payments, of_order: bool
) -> None:
    """A coupon of 100 % that somebody put on it at Stripe: no payment failed, and nobody waits for money."""
    checkout = await (payments.order_checkout() if of_order else payments.points_checkout())
    free: Fields = {"payment_status": "no_payment_required", "amount_total": 0, "payment_intent": None}
    session = payments.stripe.complete(checkout.session_id, **free)
    for _ in range(2):
        await payments.deliver(COMPLETED, session)
    [parked] = await payments.sql("SELECT * FROM quarantine WHERE checkout_id = %s", checkout.id)
    assert (parked["reason"], parked["amount_cents"], parked["payment_id"]) == ("free_session", 0, None)
    ended = await payments.get(checkout.id)
    assert (ended.status, ended.failure_reason) == (pb.CHECKOUT_STATUS_FAILED, "free_session")
    assert await _grants(payments, checkout.id) == []
    facts = await payments.facts("payments.checkout.changed", events_pb2.OrderCheckoutChanged, checkout.id)
    assert [fact.failure_reason for fact in facts] == ["free_session"] * of_order


async def test_a_parked_session_whose_payment_is_named_later_parks_the_payment(payments: Payments) -> None:
    checkout, session = await _paid(payments, {"amount_total": 1})
    await payments.deliver(COMPLETED, session | {"payment_intent": None})
    for _ in range(2):
        await payments.deliver(COMPLETED, session)
    [parked] = await payments.sql(
        "SELECT q.status, p.payment_intent_id, q.payment_intent_id AS named FROM quarantine q"
        " JOIN payments p ON p.id = q.payment_id WHERE q.checkout_id = %s",
        checkout.id,
    )
    assert (parked["status"], parked["payment_intent_id"]) == ("parked", session["payment_intent"])
    assert parked["named"] == session["payment_intent"]


async def test_a_payment_of_a_user_that_nobody_knows_is_parked(payments: Payments) -> None:
    nobody = {"user_id": "nobody", "points_amount": "550", "checkout_id": str(uuid4())}
    _, session = await _paid(payments, {"client_reference_id": None, "metadata": nobody})
    await payments.deliver(COMPLETED, session | {"id": f"cs_{uuid4().hex}"})
    [parked] = await payments.sql(
        "SELECT q.reason, p.user_id FROM quarantine q JOIN payments p ON p.id = q.payment_id"
        " WHERE p.payment_intent_id = %s",
        session["payment_intent"],
    )
    assert (parked["reason"], parked["user_id"]) == ("unknown_checkout", None)
