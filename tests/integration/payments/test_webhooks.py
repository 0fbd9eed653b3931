"""From a signed webhook to state and facts: once, in any order, and never for what Stripe did not sign."""

import asyncio
import json
import time
from itertools import permutations
from typing import Any
from uuid import uuid4

import pytest

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import (
    SECRETS,
    Payments,
    PaymentsProcess,
    payments_running,
    sign,
)
from tests.integration.payments.stripe_double import Fields, StripeDouble, event_body

COMPLETED, EXPIRED = "checkout.session.completed", "checkout.session.expired"
SUCCEEDED = "checkout.session.async_payment_succeeded"
FAILED = "checkout.session.async_payment_failed"
GRANT, ORDER = "payments.points.grant_changed", "payments.checkout.changed"


async def _grants(payments: Payments, checkout_id: str) -> list[Any]:
    return await payments.facts(GRANT, events_pb2.PointsGrantChanged, checkout_id)


async def _changes(payments: Payments, checkout_id: str) -> list[Any]:
    return await payments.facts(ORDER, events_pb2.OrderCheckoutChanged, checkout_id)


async def test_a_paid_session_grants_its_points(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    await payments.deliver(COMPLETED, session)
    paid = await payments.get(checkout.id)
    assert (paid.status, paid.payment_intent_id) == (pb.CHECKOUT_STATUS_PAID, session["payment_intent"])
    [grant] = await _grants(payments, checkout.id)
    assert (grant.user_id, grant.net_points) == (str(payments.user_id), 550)
    assert (grant.version, grant.payment_intent_id) == (3, session["payment_intent"])
    [payment] = await payments.sql("SELECT * FROM payments WHERE checkout_id = %s", checkout.id)
    assert (payment["payment_intent_id"], payment["amount_cents"]) == (session["payment_intent"], 3999)
    await payments.until("SELECT 1 FROM outbox WHERE subject = %s AND sent_at IS NOT NULL", GRANT)


async def test_a_paid_order_is_told_with_what_was_paid(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    await payments.deliver(COMPLETED, payments.stripe.complete(checkout.session_id))
    [change] = await _changes(payments, checkout.id)
    assert (change.state, change.order_id) == (events_pb2.ORDER_CHECKOUT_STATE_PAID, checkout.order_id)
    assert (change.amount_cents, change.currency, change.user_id) == (1500, "usd", str(payments.user_id))
    assert await _grants(payments, checkout.id) == []


async def test_fifty_copies_at_once_are_one_event_and_one_grant(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    body = event_body(event_id := f"evt_{uuid4().hex}", COMPLETED, session)
    answers = await asyncio.gather(*(payments.post(body) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    await payments.until_status(checkout.id, "paid")
    [event] = await payments.until(
        "SELECT * FROM stripe_events WHERE id = %s AND status = 'processed'", event_id
    )
    assert event["attempts"] == 1
    assert len(await _grants(payments, checkout.id)) == 1


async def test_two_events_of_one_payment_grant_once(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    await asyncio.gather(*(payments.deliver(COMPLETED, session) for _ in range(2)))
    await payments.deliver(SUCCEEDED, session)
    assert len(await _grants(payments, checkout.id)) == 1
    assert not await payments.sql("SELECT 1 FROM quarantine WHERE checkout_id = %s", checkout.id)


@pytest.mark.parametrize("order", list(permutations(range(2))))
async def test_completed_and_expired_end_paid_in_both_orders(
    payments: Payments, order: tuple[int, ...]
) -> None:
    checkout = await payments.points_checkout()
    expired = dict(payments.stripe.sessions[checkout.session_id]) | {"status": "expired", "url": None}
    news = [(EXPIRED, expired), (COMPLETED, payments.stripe.complete(checkout.session_id))]
    for index in order:
        await payments.deliver(*news[index])
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PAID
    assert len(await _grants(payments, checkout.id)) == 1


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("ends_paid", [True, False])
async def test_a_delayed_payment_ends_the_same_in_any_order(
    payments: Payments, order: tuple[int, ...], ends_paid: bool
) -> None:
    checkout = await payments.order_checkout()
    unpaid = dict(payments.stripe.complete(checkout.session_id, paid=False))
    last = (SUCCEEDED, unpaid | {"payment_status": "paid"}) if ends_paid else (FAILED, unpaid)
    news = [(COMPLETED, unpaid), last, last]
    for index in order:
        await payments.deliver(*news[index])
    expected = pb.CHECKOUT_STATUS_PAID if ends_paid else pb.CHECKOUT_STATUS_FAILED
    assert (await payments.get(checkout.id)).status == expected
    versions = [change.version for change in await _changes(payments, checkout.id)]
    assert versions == sorted(set(versions))


async def test_a_webhook_that_overtakes_the_answer_finds_its_checkout(payments: Payments) -> None:
    loop = asyncio.get_running_loop()

    def pay_first(session: Fields) -> None:
        paid = payments.stripe.complete(session["id"])
        asyncio.run_coroutine_threadsafe(payments.deliver(COMPLETED, paid), loop).result(4)

    payments.stripe.before_answer = pay_first
    checkout = await payments.points_checkout()
    assert checkout.status == pb.CHECKOUT_STATUS_PAID
    assert len(await _grants(payments, checkout.id)) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount_total": 1}, "amount_mismatch"),
        ({"currency": "jpy"}, "currency_mismatch"),
        ({"payment_intent": None}, "not_a_payment"),
    ],
)
async def test_a_payment_that_does_not_match_is_parked_not_granted(
    payments: Payments, change: Fields, reason: str
) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id, **change)
    for _ in range(2):
        await payments.deliver(COMPLETED, session)
    [parked] = await payments.sql("SELECT * FROM quarantine WHERE checkout_id = %s", checkout.id)
    assert (parked["reason"], parked["session_id"]) == (reason, session["id"])
    assert await _grants(payments, checkout.id) == []
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_FAILED


async def test_metadata_of_another_user_is_parked(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    stolen = session | {"metadata": session["metadata"] | {"user_id": str(uuid4())}}
    await payments.deliver(COMPLETED, stolen)
    [parked] = await payments.sql("SELECT reason FROM quarantine WHERE checkout_id = %s", checkout.id)
    assert parked["reason"] == "metadata_mismatch"
    assert await _grants(payments, checkout.id) == []


async def test_a_second_payment_of_one_checkout_is_parked(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    await payments.deliver(COMPLETED, session)
    again = session | {"id": f"{session['id']}_again", "payment_intent": f"pi_{uuid4().hex}"}
    await payments.deliver(COMPLETED, again)
    [parked] = await payments.sql("SELECT * FROM quarantine WHERE checkout_id = %s", checkout.id)
    assert (parked["reason"], parked["payment_intent_id"]) == ("second_payment", again["payment_intent"])
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PAID
    assert len(await _grants(payments, checkout.id)) == 1


async def test_a_payment_of_ours_without_a_checkout_is_parked(payments: Payments) -> None:
    session = payments.stripe.complete((await payments.points_checkout()).session_id)
    nowhere = str(uuid4())
    lost = session | {
        "id": f"cs_{uuid4().hex}",
        "client_reference_id": nowhere,
        "metadata": session["metadata"] | {"checkout_id": nowhere},
    }
    await payments.deliver(COMPLETED, lost)
    [parked] = await payments.sql("SELECT * FROM quarantine WHERE session_id = %s", lost["id"])
    assert (parked["reason"], parked["checkout_id"]) == ("unknown_checkout", None)


async def test_news_of_another_session_do_not_end_the_checkout(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    other = dict(payments.stripe.sessions[checkout.session_id])
    await payments.deliver(EXPIRED, other | {"id": "cs_other", "status": "expired", "url": None})
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_OPEN


async def test_what_is_not_ours_or_not_handled_is_stored_and_ignored(payments: Payments) -> None:
    session = payments.stripe.complete((await payments.points_checkout()).session_id)
    foreign = session | {"id": "cs_foreign", "client_reference_id": None, "metadata": {"x": "y"}}
    ids = [
        await payments.deliver(COMPLETED, foreign),
        await payments.deliver("customer.updated", {"id": "cus_1", "object": "customer"}),
    ]
    rows = await payments.sql("SELECT status FROM stripe_events WHERE id = ANY(%s)", ids)
    assert [row["status"] for row in rows] == ["ignored", "ignored"]
    assert not await payments.sql("SELECT 1 FROM quarantine WHERE session_id = 'cs_foreign'")


async def test_an_event_that_fails_keeps_its_error_and_is_tried_again(payments: Payments) -> None:
    session = dict(payments.stripe.sessions[(await payments.points_checkout()).session_id])
    body = event_body(event_id := f"evt_{uuid4().hex}", COMPLETED, session | {"status": "dancing"})
    assert (await payments.post(body)).status_code == 200
    [event] = await payments.until("SELECT * FROM stripe_events WHERE id = %s AND attempts >= 2", event_id)
    assert event["status"] == "received"
    assert event["error"] == "Malformed: status is none of open, complete, expired"


async def test_the_payload_is_not_stored_in_the_clear(payments: Payments) -> None:
    session = payments.stripe.sessions[(await payments.points_checkout()).session_id]
    event_id = await payments.deliver(EXPIRED, dict(session) | {"status": "expired"})
    [event] = await payments.sql("SELECT payload FROM stripe_events WHERE id = %s", event_id)
    assert b"checkout.session" not in event["payload"]


async def test_both_secrets_are_accepted_while_one_is_rolled(payments: Payments) -> None:
    for secret in SECRETS:
        body = event_body(f"evt_{uuid4().hex}", "x.y", {})
        assert (await payments.post(body, signature=sign(body, secret=secret))).status_code == 200


_BODY = event_body("evt_hostile", COMPLETED, {})


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (_BODY, ""),
        (_BODY, "t=,v1="),
        (_BODY, "t=1,v1=\u00e9".encode()),
        (_BODY, b"t=1,v1=\xff\xfe"),
        (_BODY, "other secret"),
        (_BODY, "past"),
        (_BODY, "future"),
        (_BODY, "other body"),
        (_BODY, f"t={int(time.time())}," + ",".join(["v1=" + "0" * 64] * 3)),
        (b"\xff\xfe\x00", "good"),
        (b"not json", "good"),
        (b"[]", "good"),
        (b"[" * 100_000, "good"),
        (b"", "good"),
        (json.dumps({"object": "event", "id": "evt_hostile\0", "type": "x", "created": 1}).encode(), "good"),
        (json.dumps({"object": "v2.core.event", "id": "evt_hostile", "created": "x"}).encode(), "good"),
    ],
)
async def test_a_hostile_webhook_gets_400_and_leaves_no_row(
    payments: Payments, body: bytes, signature: str | bytes
) -> None:
    now = time.time()
    forged: dict[str | bytes, str] = {
        "other secret": sign(body, secret="whsec_guess"),
        "past": sign(body, at=now - 310),
        "future": sign(body, at=now + 310),
        "other body": sign(body + b" "),
        "good": sign(body),
    }
    before = await payments.sql("SELECT count(*) AS events FROM stripe_events")
    answer = await payments.post(body, signature=forged.get(signature, signature))
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    problem = answer.json()
    unreadable, unsigned = ("invalid_event", "Invalid payload"), ("invalid_signature", "Invalid signature")
    assert (problem["code"], problem["error"]) == (unreadable if signature == "good" else unsigned)
    assert await payments.sql("SELECT count(*) AS events FROM stripe_events") == before


async def test_a_body_of_more_than_512_kib_is_refused(payments: Payments) -> None:
    body = event_body("evt_big", "x.y", {"pad": "x" * 512 * 1024})
    answer = await payments.post(body)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")

    async def chunks() -> Any:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    headers = {"stripe-signature": sign(body)}
    answer = await payments.http.post("/api/webhooks/stripe", content=chunks(), headers=headers)
    assert answer.status_code == 413
    assert not await payments.sql("SELECT 1 FROM stripe_events WHERE id = 'evt_big'")


async def test_a_body_of_just_under_512_kib_is_kept(payments: Payments) -> None:
    body = event_body(f"evt_{uuid4().hex}", "x.y", {"pad": "x" * (511 * 1024)})
    assert (await payments.post(body)).status_code == 200


@pytest.mark.parametrize(
    "point", ["payments.event.received", "payments.event.applied", "payments.event.committed"]
)
async def test_a_crash_around_an_event_credits_once(
    process: PaymentsProcess, stripe_double: StripeDouble, payments: Payments, point: str
) -> None:
    checkout = await payments.points_checkout()
    body = event_body(f"evt_{uuid4().hex}", COMPLETED, payments.stripe.complete(checkout.session_id))
    # Alone on the database, so that it is this process that handles the event.
    async with payments_running(process, stripe_double, FAILPOINTS=f"{point}=kill") as doomed:
        with payments.paused():
            await asyncio.gather(doomed.post(body), return_exceptions=True)
            await asyncio.to_thread(doomed.started.process.wait, 10)
    # What the lease protects is dead: do not wait for it to run out.
    await payments.sql("UPDATE stripe_events SET lease_until = now() WHERE status = 'received'")
    await payments.until_status(checkout.id, "paid")
    assert (await payments.post(body)).status_code == 200
    assert len(await _grants(payments, checkout.id)) == 1
