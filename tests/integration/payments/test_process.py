"""The process as the supervisor sees it, and the work that goes on without anybody asking."""

import asyncio
import signal
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import Payments, PaymentsProcess, payments_running
from tests.integration.payments.stripe_double import StripeDouble, event_body

_LATE = (
    "created_at = now() - interval '1 hour', expires_at = now() - interval '2 minutes',"
    " attempt_until = now() - interval '3 minutes'"
)


async def test_health_reflection_and_the_webhook_port_answer(payments: Payments) -> None:
    async with grpc.aio.insecure_channel(payments.started.grpc_address) as channel:
        health: Any = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="")
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers: Any = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
        [answer] = [answer async for answer in answers]
        names = {service.name for service in answer.list_services_response.service}
        assert "aishop.payments.v1.PaymentsService" in names
    answer = await payments.http.get("/healthz")
    assert answer.status_code == 200


async def test_sigterm_ends_the_process_cleanly(
    process: PaymentsProcess, stripe_double: StripeDouble
) -> None:
    async with payments_running(process, stripe_double) as payments:
        payments.started.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(payments.started.process.wait, 10) == 0


async def test_sigterm_lets_a_running_request_finish(
    process: PaymentsProcess, stripe_double: StripeDouble
) -> None:
    loop, entered = asyncio.get_running_loop(), asyncio.Event()
    async with payments_running(process, stripe_double) as payments:

        def terminate(_: object) -> None:
            payments.started.process.send_signal(signal.SIGTERM)
            loop.call_soon_threadsafe(entered.set)

        stripe_double.before_answer = terminate
        try:
            checkout = await payments.points_checkout()
        finally:
            stripe_double.before_answer = None
        assert entered.is_set()
        assert checkout.status == pb.CHECKOUT_STATUS_OPEN
        assert await asyncio.to_thread(payments.started.process.wait, 10) == 0


async def test_a_lost_expired_webhook_is_made_up_for(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    payments.stripe.sessions[checkout.session_id] |= {"status": "expired", "url": None}
    await payments.change(checkout.id, _LATE)
    await payments.until_status(checkout.id, "expired")
    [fact] = await payments.facts("payments.checkout.changed", events_pb2.OrderCheckoutChanged, checkout.id)
    assert fact.state == events_pb2.ORDER_CHECKOUT_STATE_EXPIRED


async def test_a_lost_completed_webhook_is_made_up_for(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    session = payments.stripe.complete(checkout.session_id)
    await payments.change(checkout.id, _LATE)
    await payments.until_status(checkout.id, "paid")
    # The webhook comes after all.
    await payments.deliver("checkout.session.completed", session)
    grants = await payments.facts("payments.points.grant_changed", events_pb2.PointsGrantChanged, checkout.id)
    assert len(grants) == 1


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_delayed_payment_that_is_canceled_ends_its_checkout(
    payments: Payments, is_told: bool
) -> None:
    """Its session stays complete and unpaid for ever: the event tells, and so does the payment when asked."""
    checkout = await payments.order_checkout()
    session = payments.stripe.complete(checkout.session_id, paid=False)
    await payments.deliver("checkout.session.completed", session)
    assert (await payments.row(checkout.id))["status"] == "processing"
    session["intent_status"] = "canceled"
    if is_told:
        await payments.deliver("payment_intent.canceled", payments.stripe.intent_of_session(session))
    else:
        await payments.change(checkout.id, _LATE)
    await payments.until_status(checkout.id, "failed")
    facts = await payments.facts("payments.checkout.changed", events_pb2.OrderCheckoutChanged, checkout.id)
    assert [fact.state for fact in facts] == [
        events_pb2.ORDER_CHECKOUT_STATE_PROCESSING,
        events_pb2.ORDER_CHECKOUT_STATE_FAILED,
    ]


async def test_a_delayed_payment_on_its_way_is_waited_for(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    session = payments.stripe.complete(checkout.session_id, paid=False)
    await payments.deliver("checkout.session.completed", session)
    await payments.change(checkout.id, _LATE)
    await payments.until(
        "SELECT 1 FROM checkouts WHERE id = %s AND tries > 0 AND lease_token IS NULL", checkout.id
    )
    assert (await payments.row(checkout.id))["status"] == "processing"


async def test_a_checkout_that_has_not_ended_is_left_alone(payments: Payments) -> None:
    """Stripe still says open: asked again later, never expired on our own."""
    checkout = await payments.points_checkout()
    await payments.change(checkout.id, _LATE)
    [row] = await payments.until(
        "SELECT * FROM checkouts WHERE id = %s AND tries > 0 AND lease_token IS NULL", checkout.id
    )
    assert row["status"] == "open"


async def test_events_that_could_not_be_kept_are_asked_for_again(
    process: PaymentsProcess, stripe_double: StripeDouble, payments: Payments
) -> None:
    """While the table is away Stripe hears 503, and delivers again."""
    body = event_body("evt_kept_later", "x.y", {})
    await payments.sql("ALTER TABLE stripe_events RENAME TO elsewhere")
    try:
        answer = await payments.post(body)
    finally:
        await payments.sql("ALTER TABLE elsewhere RENAME TO stripe_events")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (await payments.post(body)).status_code == 200
    await payments.until("SELECT 1 FROM stripe_events WHERE id = 'evt_kept_later' AND status = 'ignored'")
