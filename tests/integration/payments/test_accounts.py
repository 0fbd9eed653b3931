"""The shop's account of Stripe: what another's key may not do, and what becomes of the old one's objects."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import grpc
import pytest
from pydantic import SecretStr

from deploy.local.operator.client import operator_id
from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from services.chassis.db import Database
from services.payments.commands import reconciliations
from tests.integration.payments.conftest import Payments, PaymentsProcess, payments_running, refused
from tests.integration.payments.in_process import create_database
from tests.integration.payments.stripe_double import ACCOUNT, StripeDouble, running_double

COMPLETED, OTHER = "checkout.session.completed", "acct_other"
UNAVAILABLE, CONFLICT = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED


PAST = "expires_at = now() - interval '2 min', attempt_until = now() - interval '1 h'"


@pytest.fixture(scope="module")
def stripe() -> Iterator[StripeDouble]:
    with running_double() as double:
        yield double


@pytest.fixture(scope="module")
def moving(process: PaymentsProcess) -> PaymentsProcess:
    """A database of its own: its account changes."""
    moving = replace(process, name="payments_moving")
    create_database(moving)
    return moving


def adopt(process: PaymentsProcess, account_id: str) -> None:
    command = ["stripe", "adopt-account", account_id, "--reason", "we move"]
    subprocess.run(
        [sys.executable, "-m", "deploy.local.cli", *command], env=process.environment(), check=True
    )


async def refuses(process: PaymentsProcess, stripe: StripeDouble, **more: str) -> str:
    """What is said when the process does not start; one that runs beside it says something, too."""
    log = process.logs / "payments.log"
    before = log.stat().st_size if log.exists() else 0
    with process.running(stripe.url, **more) as started:
        assert await asyncio.to_thread(started.process.wait, 30) == 2
    return log.read_bytes()[before:].decode()


async def begin_subscription(payments: Payments) -> pb.Checkout:
    request = pb.CreateSubscriptionCheckoutRequest(
        user_id=str(payments.user_id), idempotency_key=str(uuid4()), plan_id="monthly"
    )
    return (await payments.stub.CreateSubscriptionCheckout(request)).checkout


@pytest.fixture(scope="module")
async def made(moving: PaymentsProcess, stripe: StripeDouble) -> dict[str, pb.Checkout]:
    """What the first account made: a paid order, two that are open, and points."""
    async with payments_running(moving, stripe) as payments:
        paid = await payments.order_checkout()
        await payments.deliver(COMPLETED, stripe.complete(paid.session_id))
        opened = {name: await payments.order_checkout() for name in ("cancelled", "overdue")}
        plan = await begin_subscription(payments)
        return {"paid": paid, "points": await payments.points_checkout(), "plan": plan, **opened}


@pytest.fixture(scope="module")
async def moved(
    moving: PaymentsProcess, stripe: StripeDouble, made: dict[str, pb.Checkout]
) -> AsyncIterator[Payments]:
    """payments with the key of another account, after an operator adopted it."""
    stripe.account_id = OTHER
    stripe.sessions.clear()
    said = await refuses(moving, stripe)
    assert f"made by {ACCOUNT} (test mode)" in said
    assert f"aishop stripe adopt-account {OTHER} --reason" in said
    adopt(moving, OTHER)
    async with payments_running(moving, stripe) as payments:
        yield payments


async def test_what_is_made_at_stripe_bears_its_account(
    moved: Payments, made: dict[str, pb.Checkout]
) -> None:
    fresh = await moved.points_checkout()
    joined = "JOIN stripe_accounts a ON a.id = stripe_account"
    query = f"SELECT a.account_id FROM checkouts c {joined} WHERE c.id = %s"
    assert await moved.sql(query, made["paid"].id) == [{"account_id": ACCOUNT}]
    assert await moved.sql(query, fresh.id) == [{"account_id": OTHER}]
    assert await moved.sql(f"SELECT a.account_id FROM payments {joined}") == [{"account_id": ACCOUNT}]
    audited = (
        "SELECT actor, subject, reason FROM audit_log WHERE action = 'stripe_account.adopted' ORDER BY seq"
    )
    assert [tuple(row.values()) for row in await moved.sql(audited)] == [
        ("payments", ACCOUNT, "the first start"),
        (str(operator_id(os.getuid())), OTHER, "we move"),
    ]


async def test_a_card_order_of_the_account_that_was_left_ends_when_its_page_does(
    moved: Payments, made: dict[str, pb.Checkout]
) -> None:
    checkout = made["cancelled"]
    [row] = await moved.sql("SELECT user_id FROM checkouts WHERE id = %s", checkout.id)
    moved.user_id = row["user_id"]
    # Under the old account the page can still be paid.
    with refused("CHECKOUT_UNCONFIRMED", UNAVAILABLE):
        await moved.expire(checkout.order_id)
    await moved.change(checkout.id, PAST)
    ended = await moved.expire(checkout.order_id)
    assert ended.status == pb.CHECKOUT_STATUS_EXPIRED
    assert (await moved.row(checkout.id))["unknown_since"] is not None
    [fact] = await moved.facts("payments.checkout.changed", events_pb2.OrderCheckoutChanged, checkout.id)
    assert fact.state == events_pb2.ORDER_CHECKOUT_STATE_EXPIRED


async def test_a_subscription_begins_on_a_page_of_the_account_that_was_adopted(
    moved: Payments, made: dict[str, pb.Checkout]
) -> None:
    """The page of the other one leads nowhere, or to a payment that nobody hears of."""
    moved.user_id = (await moved.row(made["plan"].id))["user_id"]
    fresh = await begin_subscription(moved)
    assert (fresh.id == made["plan"].id, fresh.status) == (False, pb.CHECKOUT_STATUS_OPEN)
    # And it is the one page from now on.
    assert (await begin_subscription(moved)).id == fresh.id


async def test_nobody_is_asked_about_what_another_account_made(
    moving: PaymentsProcess, moved: Payments, made: dict[str, pb.Checkout]
) -> None:
    """Reconciliation would call each of them missing, for ever; what bears no account is the first one's."""
    [was] = await moved.sql("SELECT stripe_account FROM payments")
    await moved.sql("UPDATE payments SET dispute = 'open', stripe_account = NULL")
    fresh = await moved.points_checkout()
    url = SecretStr(moving.environment()["DATABASE_WORKER_URL"])
    database = Database(app_url=url, worker_url=url, pool_size=1, name="test")
    async with database.worker() as connection:
        unfinished = await reconciliations.unfinished_sessions(connection)
        _, disputed = await reconciliations.contested_intents(connection)
    await database.dispose()
    await moved.sql("UPDATE payments SET dispute = 'none', stripe_account = %s", was["stripe_account"])
    assert fresh.session_id in unfinished
    assert not {checkout.session_id for checkout in made.values()} & unfinished.keys()
    assert disputed == []


async def test_what_nobody_asks_about_ends_by_itself_as_unknown(
    moved: Payments, made: dict[str, pb.Checkout]
) -> None:
    for name in ("overdue", "points"):
        await moved.change(made[name].id, PAST)
        row = await moved.until_status(made[name].id, "expired")
        assert row["unknown_since"] is not None


async def test_money_that_comes_after_all_still_counts(moved: Payments, made: dict[str, pb.Checkout]) -> None:
    """The old account was adopted again, say, and tells of a page that was paid."""
    checkout = made["points"]
    await moved.until_status(checkout.id, "expired")
    [row] = await moved.sql("SELECT * FROM checkouts WHERE id = %s", checkout.id)
    session: Any = {
        "id": checkout.session_id,
        "object": "checkout.session",
        "mode": "payment",
        "status": "complete",
        "payment_status": "paid",
        "amount_total": row["amount_cents"],
        "currency": "usd",
        "payment_intent": f"pi_{uuid4().hex}",
        "client_reference_id": checkout.id,
        "metadata": {
            "user_id": str(row["user_id"]),
            "points_amount": str(row["points"]),
            "package_id": row["package_id"],
            "checkout_id": checkout.id,
        },
    }
    await moved.deliver(COMPLETED, session)
    assert (await moved.row(checkout.id))["status"] == "paid"


async def test_a_refund_of_a_payment_that_the_account_does_not_know_fails(
    moved: Payments, made: dict[str, pb.Checkout]
) -> None:
    request = pb.CreateRefundRequest(
        refund_id=str(uuid4()), order_id=made["paid"].order_id, amount_cents=500, reason="torn"
    )
    refund = (await moved.stub.CreateRefund(request)).refund
    assert (refund.status, refund.failure_reason) == (pb.REFUND_STATUS_FAILED, "payment_unknown_to_stripe")
    query = "SELECT requested_cents FROM payments WHERE order_id = %s"
    assert await moved.sql(query, made["paid"].order_id) == [{"requested_cents": 0}]
    assert await moved.sql("SELECT 1 FROM outbox WHERE subject = 'payments.refund.changed'")


@pytest.mark.parametrize("livemode", [False, True])
async def test_a_subscription_of_the_account_that_was_left_bills_on_only_in_live_mode(
    moved: Payments, livemode: bool
) -> None:
    moved.user_id = uuid4()
    checkout = await begin_subscription(moved)
    account = f"acct_{uuid4().hex}"
    await moved.sql(
        "INSERT INTO stripe_accounts (account_id, livemode, is_current, left_at, adopted_by)"
        " VALUES (%s, %s, false, now(), 'a test')",
        account,
        livemode,
    )
    await moved.sql(
        "INSERT INTO subscriptions (id, user_id, plan_id, stripe_subscription_id, stripe_customer_id, status,"
        " points, price_cents, currency, interval, current_period_end, cancel_at_period_end, observed_at,"
        " created_at, stripe_account) SELECT %s, %s, 'monthly', %s, 'cus_1', 'active', 300, 1999, 'usd',"
        " 'month', now() + interval '9 days', false, now(), now(), id FROM stripe_accounts"
        " WHERE account_id = %s",
        checkout.id,
        str(moved.user_id),
        f"sub_{uuid4().hex}",
        account,
    )
    cancel = pb.CancelSubscriptionRequest(user_id=str(moved.user_id), subscription_id=checkout.id)
    if livemode:
        with refused("SUBSCRIPTION_ELSEWHERE", CONFLICT, account_id=account):
            await moved.stub.CancelSubscription(cancel)
    else:
        ended = (await moved.stub.CancelSubscription(cancel)).subscription
        assert (ended.status, ended.HasField("ended_at")) == (pb.SUBSCRIPTION_STATUS_CANCELED, True)


@pytest.mark.parametrize(
    ("status", "says"), [(401, "Stripe does not know this key"), (403, "set STRIPE_ACCOUNT_ID=acct_")]
)
async def test_a_key_that_cannot_tell_its_account_says_what_to_do(
    moving: PaymentsProcess, moved: Payments, stripe: StripeDouble, status: int, says: str
) -> None:
    stripe.account_refusal = status
    try:
        assert says in await refuses(moving, stripe)
        if status == 403:
            told = {"STRIPE_ACCOUNT_ID": OTHER}
            async with payments_running(moving, stripe, **told):
                pass
    finally:
        stripe.account_refusal = 0


async def test_while_stripe_is_away_a_key_that_is_known_starts(
    moving: PaymentsProcess, moved: Payments, stripe: StripeDouble
) -> None:
    stripe.account_refusal = 503
    try:
        async with payments_running(moving, stripe):
            pass
    finally:
        stripe.account_refusal = 0


async def test_a_process_ends_when_another_account_is_adopted(
    moving: PaymentsProcess, moved: Payments
) -> None:
    """The last test: it leaves no payments behind."""
    await asyncio.to_thread(adopt, moving, "acct_third")
    assert await asyncio.to_thread(moved.started.process.wait, 30) == 0
