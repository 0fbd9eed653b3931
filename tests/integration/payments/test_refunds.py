"""Refunds that orders ask for: once each, never more than was paid, whatever Stripe's answer was."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from services.chassis.grpc_client import as_domain_error
from tests.integration.payments.conftest import (
    Payments,
    PaymentsProcess,
    free_port,
    payments_running,
    refused,
)
from tests.integration.payments.sandbox import REFUNDS, Sandbox, sandbox_of

NOT_FOUND = grpc.StatusCode.NOT_FOUND
REJECTED = grpc.StatusCode.FAILED_PRECONDITION
CONFLICT = grpc.StatusCode.ABORTED
INVALID = grpc.StatusCode.INVALID_ARGUMENT
# Two lines of 700 and one of 100 (conftest).
PAID = 1500


@pytest.fixture
def payments(sandboxed: Payments) -> Payments:
    return sandboxed


@pytest.fixture
def stripe(payments: Payments) -> Sandbox:
    return sandbox_of(payments)


async def paid_order(payments: Payments) -> tuple[str, str]:
    """An order that was paid by card, and its payment intent."""
    checkout = await payments.order_checkout()
    await sandbox_of(payments).pay(checkout.url)
    await payments.until_status(checkout.id, "paid")
    return checkout.order_id, await sandbox_of(payments).intent_of(checkout.session_id)


async def give_back(
    payments: Payments, order_id: str, amount_cents: int, *, refund_id: UUID | None = None
) -> pb.Refund:
    request = pb.CreateRefundRequest(
        order_id=order_id,
        refund_id=str(refund_id or uuid4()),
        amount_cents=amount_cents,
        reason="does not fit the wall",
    )
    return (await payments.stub.CreateRefund(request)).refund


async def until_refund(payments: Payments, refund_id: str, status: str) -> dict[str, Any]:
    [row] = await payments.until("SELECT * FROM refunds WHERE id = %s AND status = %s", refund_id, status)
    return row


async def told(payments: Payments, refund_id: str) -> list[events_pb2.RefundChanged]:
    rows = await payments.sql(
        "SELECT payload FROM outbox WHERE subject = 'payments.refund.changed' ORDER BY id"
    )
    facts = [events_pb2.RefundChanged.FromString(row["payload"]) for row in rows]
    return [fact for fact in facts if fact.refund_id == refund_id]


async def refunds_at(stripe: Sandbox, intent: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await stripe.get("refunds", payment_intent=intent, limit=100))["data"]
    return listed


async def test_a_part_and_the_rest_are_given_back_and_told(payments: Payments, stripe: Sandbox) -> None:
    order_id, intent = await paid_order(payments)
    part = await give_back(payments, order_id, 400)
    assert (part.status, part.amount_cents, part.order_id) == (pb.REFUND_STATUS_SUCCEEDED, 400, order_id)
    [at_stripe] = await refunds_at(stripe, intent)
    assert (at_stripe["id"], at_stripe["metadata"]) == (part.stripe_refund_id, {"refund_id": part.id})
    await give_back(payments, order_id, PAID - 400)
    with refused("REFUND_EXCEEDS_PAYMENT", REJECTED, requested="1", refundable="0"):
        await give_back(payments, order_id, 1)
    [fact] = await told(payments, part.id)
    assert (fact.order_id, fact.amount_cents, fact.state) == (
        order_id,
        400,
        events_pb2.REFUND_STATE_SUCCEEDED,
    )
    assert (await payments.stub.GetRefund(pb.GetRefundRequest(refund_id=part.id))).refund == part


async def test_the_same_refund_is_made_once(payments: Payments, stripe: Sandbox) -> None:
    order_id, intent = await paid_order(payments)
    refund_id = uuid4()
    answers = await asyncio.gather(
        *(give_back(payments, order_id, 700, refund_id=refund_id) for _ in range(10))
    )
    assert {answer.id for answer in answers} == {str(refund_id)}
    await until_refund(payments, str(refund_id), "succeeded")
    assert len(await refunds_at(stripe, intent)) == 1
    assert len(await told(payments, str(refund_id))) == 1
    with refused("REFUND_MISMATCH", CONFLICT):
        await give_back(payments, order_id, 701, refund_id=refund_id)


async def test_twenty_at_once_and_each_of_them_twice_never_exceed_what_was_paid(
    payments: Payments, stripe: Sandbox
) -> None:
    order_id, intent = await paid_order(payments)

    async def attempt(refund_id: UUID) -> str:
        try:
            return (await give_back(payments, order_id, 400, refund_id=refund_id)).id
        except grpc.aio.AioRpcError as error:
            return as_domain_error(error).reason

    ids = [uuid4() for _ in range(20)]
    outcomes = await asyncio.gather(*(attempt(refund_id) for refund_id in ids * 2))
    won = set(outcomes) & {str(refund_id) for refund_id in ids}
    # A lock that is waited for too long is "again", not "no".
    assert set(outcomes) - won <= {"REFUND_EXCEEDS_PAYMENT", "BUSY", "DATABASE_UNAVAILABLE"}
    assert 1 <= len(won) <= 3
    await payments.until(
        "SELECT 1 FROM payments WHERE payment_intent_id = %s AND requested_cents = refunded_cents", intent
    )
    given = await refunds_at(stripe, intent)
    assert sorted(refund["metadata"]["refund_id"] for refund in given) == sorted(won)
    assert sum(refund["amount"] for refund in given) == 400 * len(won) <= PAID


async def test_what_was_refunded_in_the_dashboard_is_not_refunded_again(
    payments: Payments, stripe: Sandbox
) -> None:
    order_id, intent = await paid_order(payments)
    await stripe.post("refunds", payment_intent=intent, amount=1000)
    await payments.until(
        "SELECT 1 FROM payments WHERE payment_intent_id = %s AND refunded_cents = 1000", intent
    )
    with refused("REFUND_EXCEEDS_PAYMENT", REJECTED, requested="501", refundable="500"):
        await give_back(payments, order_id, 501)


async def test_a_pending_refund_is_followed_until_it_fails_and_is_free_again(
    payments: Payments, stripe: Sandbox
) -> None:
    order_id, _ = await paid_order(payments)
    await stripe.control("refunds", status="pending")
    pending = await give_back(payments, order_id, PAID)
    assert pending.status == pb.REFUND_STATUS_PENDING
    with refused("REFUND_EXCEEDS_PAYMENT", REJECTED):
        await give_back(payments, order_id, 1)
    await stripe.control(f"refunds/{pending.stripe_refund_id}", status="failed")
    failed = await until_refund(payments, pending.id, "failed")
    assert failed["failure_reason"] == "lost_or_stolen_card"
    states = [fact.state for fact in await told(payments, pending.id)]
    assert states == [events_pb2.REFUND_STATE_PENDING, events_pb2.REFUND_STATE_FAILED]
    assert (await give_back(payments, order_id, PAID)).status == pb.REFUND_STATUS_SUCCEEDED


async def test_a_refund_that_stripe_refuses_fails_and_is_free_again(
    payments: Payments, stripe: Sandbox
) -> None:
    order_id, intent = await paid_order(payments)
    await stripe.control("webhooks", mode="hold")
    await stripe.post("refunds", payment_intent=intent, amount=1400)
    # payments has not heard of it yet.
    refund = await give_back(payments, order_id, 200)
    assert (refund.status, refund.stripe_refund_id) == (pb.REFUND_STATUS_FAILED, "")
    [row] = await payments.sql("SELECT * FROM payments WHERE payment_intent_id = %s", intent)
    assert (row["requested_cents"], row["refunded_cents"]) == (0, 1400)
    assert (await give_back(payments, order_id, 100)).status == pb.REFUND_STATUS_SUCCEEDED


async def test_a_disputed_payment_is_not_refunded(payments: Payments, stripe: Sandbox) -> None:
    order_id, intent = await paid_order(payments)
    await stripe.control("disputes", payment_intent=intent)
    await payments.until("SELECT 1 FROM payments WHERE payment_intent_id = %s AND dispute = 'open'", intent)
    with refused("PAYMENT_DISPUTED", CONFLICT):
        await give_back(payments, order_id, 100)


@pytest.mark.parametrize(
    "kind",
    ["timeout_after_effect", "timeout_before_effect", "error_after_effect", "stored_500", "409", "429"],
)
async def test_whatever_the_answer_was_it_is_one_refund(
    payments: Payments, stripe: Sandbox, kind: str
) -> None:
    order_id, intent = await paid_order(payments)
    faults: dict[str, dict[str, Any]] = {
        "stored_500": {"kind": "status", "status": 500},
        "409": {"kind": "status", "status": 409, "count": 2},
        "429": {"kind": "status", "status": 429, "count": 2},
    }
    await stripe.fault(REFUNDS, **faults.get(kind, {"kind": kind}))
    # No webhook spares us the second call.
    await stripe.control("webhooks", mode="hold")
    refund = await give_back(payments, order_id, 600)
    await until_refund(payments, refund.id, "succeeded")
    assert [each["amount"] for each in await refunds_at(stripe, intent)] == [600]


async def test_a_key_that_stripe_forgot_makes_no_second_refund(payments: Payments, stripe: Sandbox) -> None:
    order_id, intent = await paid_order(payments)
    await stripe.control("webhooks", mode="hold")
    await stripe.fault(REFUNDS, "timeout_after_effect")
    refund = await give_back(payments, order_id, 600)
    assert refund.status == pb.REFUND_STATUS_CREATING
    await payments.sql("UPDATE refunds SET attempt_until = now() WHERE id = %s", refund.id)
    await stripe.control("forget_idempotency_keys")
    await until_refund(payments, refund.id, "succeeded")
    assert len(await refunds_at(stripe, intent)) == 1


@pytest.mark.parametrize(
    "failpoint",
    ["payments.refund.written", "payments.stripe.refund_created", "payments.refund.recorded"],
)
async def test_a_crash_leaves_one_refund(
    process: PaymentsProcess, payments: Payments, stripe: Sandbox, failpoint: str
) -> None:
    order_id, intent = await paid_order(payments)
    refund_id = uuid4()
    webhooks = f"127.0.0.1:{free_port()}"
    async with payments_running(
        process, stripe, FAILPOINTS=f"{failpoint}=kill", WEBHOOK_LISTEN=webhooks
    ) as doomed:
        with pytest.raises(grpc.aio.AioRpcError):
            await give_back(doomed, order_id, 500, refund_id=refund_id)
    await until_refund(payments, str(refund_id), "succeeded")
    assert [each["amount"] for each in await refunds_at(stripe, intent)] == [500]


async def test_bad_input_is_named(payments: Payments) -> None:
    order_id, _ = await paid_order(payments)
    with refused("PAYMENT_NOT_FOUND", NOT_FOUND):
        await give_back(payments, str(uuid4()), 1)
    with refused("INVALID_FIELD", INVALID, field="amount_cents"):
        await give_back(payments, order_id, 0)
    with refused("REFUND_NOT_FOUND", NOT_FOUND):
        await payments.stub.GetRefund(pb.GetRefundRequest(refund_id=str(uuid4())))
