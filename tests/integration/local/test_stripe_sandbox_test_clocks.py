"""The time of subscriptions: what falls due on a test clock, in which order, and who lives on it."""

from typing import Any

import pytest
import stripe

from tests.integration.local.conftest import Sandbox
from tests.integration.local.test_stripe_sandbox_subscriptions import (
    DAY,
    PRICE,
    advance,
    again,
    invoices_of,
    on_a_clock,
    subscribed,
    subscription_params,
)

START = 1_769_817_600  # 2026-01-31 00:00 UTC


async def late(sandbox: Sandbox, **more: Any) -> tuple[Any, Any, Any]:
    """A subscription whose first renewal has just failed, its clock, and that renewal's invoice."""
    subscription, clock = await on_a_clock(sandbox, START, **more)
    await script(sandbox, subscription, "fail")
    await advance(sandbox, clock, subscription["items"].data[0].current_period_end)
    return subscription, clock, (await invoices_of(sandbox, subscription))[-1]


async def script(sandbox: Sandbox, subscription: Any, outcome: str) -> None:
    await sandbox.control(f"subscriptions/{subscription.id}/next_payment", {"outcome": outcome})


async def test_a_short_period_that_is_never_paid_ends_with_the_retries_of_its_first_invoice(
    sandbox: Sandbox,
) -> None:
    subscription, clock, _ = await late(sandbox, interval="day")
    await advance(sandbox, clock, START + 40 * DAY)
    ended = await again(sandbox, subscription)
    # Fails on day 1, and again 3, 5 and 7 days after each failure.
    assert (ended.status, ended.ended_at) == ("canceled", START + 16 * DAY)
    bills = (
        await sandbox.client.v1.invoices.list_async({"subscription": subscription.id, "limit": 100})
    ).data
    assert len(bills) == 16
    assert {bill.next_payment_attempt for bill in bills} == {None}


async def test_an_older_invoice_says_nothing_about_the_subscription(sandbox: Sandbox) -> None:
    subscription, clock, first = await late(sandbox, interval="day")
    await advance(sandbox, clock, START + 2 * DAY)
    await script(sandbox, subscription, "succeed")
    paid = await sandbox.client.v1.invoices.pay_async(first.id)
    assert (paid.status, (await again(sandbox, subscription)).status) == ("paid", "past_due")
    latest = (await invoices_of(sandbox, subscription))[-1]
    await sandbox.client.v1.invoices.pay_async(latest.id)
    assert (await again(sandbox, subscription)).status == "active"


async def test_a_card_that_fails_by_hand_is_a_402_and_counts(sandbox: Sandbox) -> None:
    _, _, bill = await late(sandbox)
    with pytest.raises(stripe.CardError) as caught:
        await sandbox.client.v1.invoices.pay_async(bill.id)
    assert (caught.value.http_status, caught.value.code) == (402, "card_declined")
    tried = await sandbox.client.v1.invoices.retrieve_async(bill.id)
    assert (tried.status, tried.attempt_count, tried.amount_paid) == ("open", 2, 0)


async def test_paying_late_does_not_wake_what_has_ended(sandbox: Sandbox) -> None:
    subscription, clock, bill = await late(sandbox)
    await advance(sandbox, clock, bill.created + 16 * DAY)
    ended = await again(sandbox, subscription)
    with pytest.raises(stripe.CardError):
        await sandbox.client.v1.invoices.pay_async(bill.id)
    await script(sandbox, subscription, "succeed")
    paid = await sandbox.client.v1.invoices.pay_async(bill.id)
    assert (paid.status, paid.amount_paid) == ("paid", PRICE)
    assert (await again(sandbox, subscription)).to_dict() == ended.to_dict()


async def test_what_is_canceled_is_not_charged_again(sandbox: Sandbox) -> None:
    subscription, clock, bill = await late(sandbox)
    await sandbox.client.v1.subscriptions.cancel_async(subscription.id)
    await advance(sandbox, clock, bill.created + 90 * DAY)
    left = await sandbox.client.v1.invoices.retrieve_async(bill.id)
    assert (left.status, left.attempt_count, left.auto_advance) == ("open", 1, False)
    with pytest.raises(stripe.CardError):
        await sandbox.client.v1.invoices.pay_async(bill.id)
    tried = await sandbox.client.v1.invoices.retrieve_async(bill.id)
    assert (tried.attempt_count, tried.next_payment_attempt) == (2, None)
    assert len(await invoices_of(sandbox, subscription)) == 2


async def test_two_subscriptions_on_one_clock_take_their_turns(sandbox: Sandbox) -> None:
    clock = await sandbox.client.v1.test_helpers.test_clocks.create_async({"frozen_time": START})
    owned = [await on_a_clock(sandbox, START, clock=clock, interval=each) for each in ("week", "day")]
    await advance(sandbox, clock, START + 8 * DAY)
    assert [len(await invoices_of(sandbox, subscription)) for subscription, _ in owned] == [2, 9]
    listed = await sandbox.client.v1.invoices.list_async({"created": {"gt": START}, "limit": 100})
    ours = {subscription.id for subscription, _ in owned}
    times = [bill.created for bill in listed.data if _subscription_of(bill) in ours]
    assert times == sorted(times, reverse=True)


def _subscription_of(bill: Any) -> str:
    return str(bill.parent.subscription_details.subscription)


async def test_events_carry_the_time_of_the_clock(sandbox: Sandbox) -> None:
    subscription, clock = await on_a_clock(sandbox, START)
    renewal = subscription["items"].data[0].current_period_end
    await advance(sandbox, clock, renewal + DAY)
    [_, bill] = await invoices_of(sandbox, subscription)
    about = await sandbox.events_of(bill.id)
    assert {event.created for event in about} == {renewal}


async def test_a_customer_lives_on_the_time_of_the_clock(sandbox: Sandbox) -> None:
    v1 = sandbox.client.v1
    clock = await v1.test_helpers.test_clocks.create_async({"frozen_time": START, "name": "spring"})
    customer = await v1.customers.create_async({"email": "ann@shop.test", "test_clock": clock.id})
    assert (customer.created, customer.test_clock) == (START, clock.id)
    listed = await v1.customers.list_async({"test_clock": clock.id})
    assert [each.id for each in listed.data] == [customer.id]
    clocks = await v1.test_helpers.test_clocks.list_async({"limit": 1})
    assert [(each.id, each.name) for each in clocks.data] == [(clock.id, "spring")]


async def test_with_a_clock_go_all_who_live_on_it(sandbox: Sandbox) -> None:
    v1 = sandbox.client.v1
    subscription, clock, bill = await late(sandbox)
    open_session = await sandbox.sessions.create_async(subscription_params(customer=subscription.customer))
    gone = await v1.test_helpers.test_clocks.delete_async(clock.id)
    assert (gone.id, gone.deleted) == (clock.id, True)
    with pytest.raises(stripe.InvalidRequestError, match=clock.id):
        await v1.test_helpers.test_clocks.retrieve_async(clock.id)
    assert (await again(sandbox, subscription)).status == "canceled"
    assert (await v1.customers.retrieve_async(subscription.customer)).deleted is True
    assert (await v1.customers.list_async({"limit": 1})).data[0].id != subscription.customer
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        await sandbox.sessions.create_async(subscription_params(customer=subscription.customer))
    assert (await sandbox.retrieve(open_session.id)).status == "expired"
    await script(sandbox, subscription, "succeed")
    assert (await v1.invoices.pay_async(bill.id)).status == "paid"


async def test_checkout_forgets_a_clock_that_is_deleted(sandbox: Sandbox) -> None:
    clocks = sandbox.client.v1.test_helpers.test_clocks
    clock = await clocks.create_async({"frozen_time": START})
    await sandbox.control("test_clock", {"id": clock.id})
    await clocks.delete_async(clock.id)
    assert (await subscribed(sandbox)).test_clock is None
