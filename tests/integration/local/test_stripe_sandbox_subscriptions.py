"""Subscriptions, their invoices and test clocks, as the official client sees them."""

import time
from collections import Counter
from typing import Any

import pytest
import stripe

from tests.integration.local.conftest import Endpoint, Sandbox, eventually
from tests.integration.local.declared_types import fields_amiss, missing_fields, wrong_types

PRICE, DAY = 1999, 24 * 3600
METADATA = {"checkout_id": "7", "user_id": "8"}
# Only there when they are expanded or deleted, or a thing of the past.
_ABSENT = {
    "deleted",
    "cash_balance",
    "invoice_credit_balance",
    "payments",
    "sources",
    "subscriptions",
    "tax",
    "tax_ids",
}


def subscription_params(interval: str = "month", **more: Any) -> Any:
    price = {
        "currency": "usd",
        "unit_amount": PRICE,
        "product_data": {"name": "300 points"},
        "recurring": {"interval": interval},
    }
    return {
        "mode": "subscription",
        "success_url": "https://shop.test/ok",
        "line_items": [{"price_data": price, "quantity": 1}],
        "subscription_data": {"metadata": METADATA},
        **more,
    }


async def subscribed(sandbox: Sandbox, **more: Any) -> Any:
    session = await sandbox.sessions.create_async(subscription_params(**more))
    await sandbox.press(session.id, "pay")
    session = await sandbox.retrieve(session.id)
    return await sandbox.client.v1.subscriptions.retrieve_async(session.subscription)


async def on_a_clock(sandbox: Sandbox, start: int, *, clock: Any = None, **more: Any) -> tuple[Any, Any]:
    """A subscription of a customer who lives on a test clock (a new one unless given), and the clock."""
    clocks = sandbox.client.v1.test_helpers.test_clocks
    clock = clock or await clocks.create_async({"frozen_time": start})
    await sandbox.control("test_clock", {"id": clock.id})
    try:
        return await subscribed(sandbox, **more), clock
    finally:
        await sandbox.control("test_clock", {"id": None})


async def advance(sandbox: Sandbox, clock: Any, to: int) -> None:
    await sandbox.client.v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": to})


async def again(sandbox: Sandbox, subscription: Any) -> Any:
    return await sandbox.client.v1.subscriptions.retrieve_async(subscription.id)


async def invoices_of(sandbox: Sandbox, subscription: Any) -> list[Any]:
    """The oldest first."""
    listed = await sandbox.client.v1.invoices.list_async({"subscription": subscription.id})
    return listed.data[::-1]


async def test_objects_of_a_subscription_have_every_field_that_their_types_declare(sandbox: Sandbox) -> None:
    subscription, clock = await on_a_clock(sandbox, int(time.time()))
    v1 = sandbox.client.v1
    [invoice] = await invoices_of(sandbox, subscription)
    [payment] = (await v1.invoice_payments.list_async({"invoice": invoice.id})).data
    customer = await v1.customers.retrieve_async(subscription.customer)
    values: dict[Any, Any] = {
        stripe.Subscription: subscription,
        stripe.Invoice: invoice,
        stripe.InvoicePayment: payment,
        stripe.Customer: customer,
        stripe.test_helpers.TestClock: clock,
    }
    for kind, value in values.items():
        assert isinstance(value, kind)
        assert missing_fields(value) == []
        assert wrong_types(value) == []
        assert fields_amiss(value) <= _ABSENT


async def test_objects_stay_true_to_their_types_in_all_that_becomes_of_them(sandbox: Sandbox) -> None:
    session = await sandbox.sessions.create_async(subscription_params(interval="week"))
    await sandbox.press(session.id, "pay")
    session = await sandbox.retrieve(session.id)
    v1 = sandbox.client.v1
    subscription = await v1.subscriptions.retrieve_async(session.subscription)
    await v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})
    await v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": False})
    await sandbox.control(f"subscriptions/{subscription.id}/next_payment", {"outcome": "fail"})
    await sandbox.control(f"subscriptions/{subscription.id}/renew")
    await v1.subscriptions.cancel_async(subscription.id)
    events = (await v1.events.list_async({"limit": 100})).data
    last = next(place for place, event in enumerate(events) if event.type == "customer.created")
    seen = Counter(event.data.object["object"] for event in events[: last + 1])
    assert set(seen) == {
        "charge",
        "checkout.session",
        "customer",
        "invoice",
        "invoice_payment",
        "payment_intent",
        "subscription",
    }
    for value in [session, *(event.data.object for event in events[: last + 1])]:
        assert (value["object"], missing_fields(value), wrong_types(value)) == (value["object"], [], [])


async def test_paying_begins_a_subscription_with_a_paid_invoice(sandbox: Sandbox, endpoint: Endpoint) -> None:
    session = await sandbox.sessions.create_async(subscription_params(customer_email="b@shop.test"))
    assert (session.mode, session.amount_total, session.payment_intent) == ("subscription", PRICE, None)
    assert "per month" in (await sandbox.http.get(f"/c/pay/{session.id}")).text
    await sandbox.press(session.id, "pay")
    session = await sandbox.retrieve(session.id)
    assert (session.status, session.payment_status, session.payment_intent) == ("complete", "paid", None)
    subscription = await sandbox.client.v1.subscriptions.retrieve_async(session.subscription)
    assert (subscription.status, subscription.metadata.to_dict()) == ("active", METADATA)
    assert subscription.latest_invoice == session.invoice
    invoice: Any = await sandbox.client.v1.invoices.retrieve_async(session.invoice)
    assert (invoice.status, invoice.amount_paid, invoice.billing_reason) == (
        "paid",
        PRICE,
        "subscription_create",
    )
    details = invoice.parent.subscription_details
    assert (details.subscription, details.metadata.to_dict()) == (subscription.id, METADATA)
    assert not {"subscription", "payment_intent", "charge"} & set(invoice.to_dict())
    payment: Any = (await sandbox.client.v1.invoice_payments.list_async({"invoice": invoice.id})).data[0]
    intent = await sandbox.client.v1.payment_intents.retrieve_async(payment.payment.payment_intent)
    assert (intent.amount_received, intent.metadata.to_dict()) == (PRICE, {})
    params: Any = {"payment": {"type": "payment_intent", "payment_intent": intent.id}}
    found = await sandbox.client.v1.invoice_payments.list_async(params)
    assert [each.invoice for each in found.data] == [invoice.id]
    told = ["invoice.created", "invoice.finalized", "invoice.paid", "invoice.payment_succeeded"]
    await eventually(lambda: sorted(endpoint.about(invoice.id)) == told, "the invoice is told of")


async def test_a_clock_renews_on_the_day_of_the_first_period(sandbox: Sandbox) -> None:
    start = 1_769_817_600  # 2026-01-31
    subscription, clock = await on_a_clock(sandbox, start)
    assert subscription.created == start
    await advance(sandbox, clock, start + 65 * DAY)
    invoices = await invoices_of(sandbox, subscription)
    reasons = [invoice.billing_reason for invoice in invoices]
    assert reasons == ["subscription_create", "subscription_cycle", "subscription_cycle"]
    assert [time.strftime("%m-%d", time.gmtime(invoice.created)) for invoice in invoices] == [
        "01-31",
        "02-28",
        "03-31",
    ]
    item = (await again(sandbox, subscription))["items"].data[0]
    assert (item.current_period_start, item.current_period_end > start + 65 * DAY) == (
        invoices[-1].created,
        True,
    )
    assert len({invoice.number for invoice in invoices}) == 3


async def test_a_card_that_fails_is_tried_again_and_ends_the_subscription_at_last(
    sandbox: Sandbox, endpoint: Endpoint
) -> None:
    start = int(time.time())
    subscription, clock = await on_a_clock(sandbox, start, interval="year")
    await sandbox.control(f"subscriptions/{subscription.id}/next_payment", {"outcome": "fail"})
    renewal = subscription["items"].data[0].current_period_end
    await advance(sandbox, clock, renewal + DAY)
    late = await again(sandbox, subscription)
    [_, bill] = await invoices_of(sandbox, subscription)
    assert (late.status, bill.status, bill.next_payment_attempt) == ("past_due", "open", renewal + 3 * DAY)
    await advance(sandbox, clock, renewal + 16 * DAY)
    ended = await again(sandbox, subscription)
    assert (ended.status, ended.cancellation_details.reason) == ("canceled", "payment_failed")
    [_, bill] = await invoices_of(sandbox, subscription)
    assert (bill.status, bill.attempt_count) == ("open", 4)

    def told() -> Counter[str]:
        return Counter(endpoint.about(bill.id))

    await eventually(lambda: told()["invoice.payment_failed"] == 4, "each failure is told")


async def test_a_late_payment_makes_it_active_again(sandbox: Sandbox) -> None:
    subscription, clock = await on_a_clock(sandbox, int(time.time()))
    await sandbox.control(f"subscriptions/{subscription.id}/next_payment", {"outcome": "fail"})
    renewal = subscription["items"].data[0].current_period_end
    await advance(sandbox, clock, renewal)
    await sandbox.control(f"subscriptions/{subscription.id}/next_payment", {"outcome": "succeed"})
    await advance(sandbox, clock, renewal + 4 * DAY)
    assert (await again(sandbox, subscription)).status == "active"
    [_, bill] = await invoices_of(sandbox, subscription)
    assert (bill.status, bill.amount_paid, bill.created) == ("paid", PRICE, renewal)


async def test_it_ends_with_the_period_or_at_once(sandbox: Sandbox, endpoint: Endpoint) -> None:
    subscription, clock = await on_a_clock(sandbox, int(time.time()))
    ends = await sandbox.client.v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})
    renewal = subscription["items"].data[0].current_period_end
    assert (ends.status, ends.cancel_at) == ("active", renewal)
    await advance(sandbox, clock, renewal + DAY)
    ended = await again(sandbox, subscription)
    assert (ended.status, ended.ended_at) == ("canceled", renewal)
    assert len(await invoices_of(sandbox, subscription)) == 1
    deleted = "customer.subscription.deleted"
    await eventually(lambda: deleted in endpoint.about(subscription.id), "its end is told")
    with pytest.raises(stripe.InvalidRequestError, match="canceled subscription"):
        await sandbox.client.v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})
    other = await subscribed(sandbox)
    now = await sandbox.client.v1.subscriptions.cancel_async(other.id)
    assert now.status == "canceled"
    listed = await sandbox.client.v1.subscriptions.list_async({"customer": other.customer})
    assert listed.data == []


async def test_a_period_may_be_ended_by_hand(sandbox: Sandbox) -> None:
    subscription = await subscribed(sandbox)
    await sandbox.control(f"subscriptions/{subscription.id}/renew")
    assert len(await invoices_of(sandbox, subscription)) == 2


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"payment_intent_data": {"metadata": {"a": "b"}}}, "payment_intent_data"),
        ({"mode": "payment"}, "line_items"),
        ({"mode": "setup"}, "mode"),
        ({"customer": "cus_none"}, "customer"),
        ({"customer": "cus_none", "customer_email": "a@b.test"}, "customer"),
    ],
)
async def test_what_does_not_fit_the_mode_is_refused(
    sandbox: Sandbox, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await sandbox.sessions.create_async(subscription_params(**change))
    assert caught.value.param == param


async def test_a_clock_never_goes_back(sandbox: Sandbox) -> None:
    clock = await sandbox.client.v1.test_helpers.test_clocks.create_async({"frozen_time": 1000})
    with pytest.raises(stripe.InvalidRequestError, match="goes forward"):
        await advance(sandbox, clock, 1000)
