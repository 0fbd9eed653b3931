"""Invoices as dashboards, taxes, credit and banks make them, as the official client sees them."""

import time
from typing import Any

import pytest
import stripe

from tests.integration.local.conftest import Sandbox
from tests.integration.local.declared_types import fields_amiss, missing_fields, wrong_types
from tests.integration.local.test_stripe_sandbox_subscriptions import (
    DAY,
    PRICE,
    advance,
    again,
    invoices_of,
    on_a_clock,
    subscribed,
)


async def renewed(sandbox: Sandbox, subscription: Any, how: str = "renew", **terms: Any) -> Any:
    """The invoice that it leaves."""
    await sandbox.control(f"subscriptions/{subscription.id}/{how}", terms)
    return (await invoices_of(sandbox, subscription))[-1]


async def paid_by(sandbox: Sandbox, invoice: Any) -> list[Any]:
    return (await sandbox.client.v1.invoice_payments.list_async({"invoice": invoice.id})).data[::-1]


def sound(value: Any) -> bool:
    return (missing_fields(value), wrong_types(value)) == ([], [])


async def test_an_invoice_may_be_paid_outside_stripe(sandbox: Sandbox) -> None:
    subscription = await subscribed(sandbox)
    bill = await renewed(sandbox, subscription, by="out_of_band")
    [payment] = await paid_by(sandbox, bill)
    assert (bill.status, bill.amount_paid, bill.amount_paid_off_stripe) == ("paid", PRICE, PRICE)
    assert (payment.payment.type, payment.payment.payment_record[:3]) == ("payment_record", "pr_")
    assert sound(bill)
    assert sound(payment)
    await sandbox.control(f"subscriptions/{subscription.id}/next_payment", {"outcome": "fail"})
    late = await renewed(sandbox, subscription)
    paid = await sandbox.client.v1.invoices.pay_async(late.id, {"paid_out_of_band": True})
    assert (paid.status, paid.amount_paid_off_stripe) == ("paid", PRICE)
    assert (await again(sandbox, subscription)).status == "active"


async def test_an_invoice_may_be_paid_by_a_charge_without_an_intent(sandbox: Sandbox) -> None:
    bill = await renewed(sandbox, await subscribed(sandbox), by="charge")
    [payment] = await paid_by(sandbox, bill)
    charge = await sandbox.client.v1.charges.retrieve_async(payment.payment.charge)
    assert (payment.payment.type, charge.payment_intent, charge.amount) == ("charge", None, PRICE)
    made = await sandbox.client.v1.refunds.create_async({"charge": charge.id, "amount": 100})
    assert (made.payment_intent, made.charge) == (None, charge.id)
    assert (await sandbox.client.v1.charges.retrieve_async(charge.id)).amount_refunded == 100


@pytest.mark.parametrize(("balance", "paid"), [(PRICE, 0), (500, PRICE - 500), (PRICE + 1, 0)])
async def test_the_customers_credit_pays_an_invoice_or_a_part(
    sandbox: Sandbox, balance: int, paid: int
) -> None:
    bill = await renewed(sandbox, await subscribed(sandbox), balance=balance)
    assert (bill.status, bill.total, bill.amount_paid) == ("paid", PRICE, paid)
    assert (bill.starting_balance, bill.ending_balance) == (-balance, min(PRICE - balance, 0))
    assert len(await paid_by(sandbox, bill)) == (1 if paid else 0)
    types = {event.type for event in await sandbox.events_of(bill.id)}
    assert {"invoice.paid", "invoice.payment_succeeded"} <= types


async def test_an_invoice_may_be_paid_in_two_payments(sandbox: Sandbox) -> None:
    bill = await renewed(sandbox, await subscribed(sandbox), parts=[1000, 999])
    first, second = await paid_by(sandbox, bill)
    assert [each.amount_paid for each in (first, second)] == [1000, 999]
    assert (first.is_default, second.is_default) == (True, False)
    assert len({each.payment.payment_intent for each in (first, second)}) == 2
    assert bill.amount_paid == PRICE


async def test_tax_comes_on_top_and_prorations_are_lines_of_their_own(sandbox: Sandbox) -> None:
    bill = await renewed(sandbox, await subscribed(sandbox), tax=160, proration=-300)
    assert (bill.subtotal, bill.total, bill.amount_paid) == (PRICE - 300, PRICE - 140, PRICE - 140)
    assert [tax.amount for tax in bill.total_taxes] == [160]
    plain, proration = bill.lines.data
    assert (plain.parent.subscription_item_details.proration, plain.amount) == (False, PRICE)
    assert (proration.parent.subscription_item_details.proration, proration.amount) == (True, -300)
    assert sound(bill)


@pytest.mark.parametrize("reason", ["manual", "subscription_update"])
async def test_something_may_be_billed_in_the_middle_of_a_period(sandbox: Sandbox, reason: str) -> None:
    subscription = await subscribed(sandbox)
    bill = await renewed(sandbox, subscription, "invoice", billing_reason=reason, proration=1000)
    assert (bill.billing_reason, bill.total) == (reason, PRICE + 1000)
    after = await again(sandbox, subscription)
    item, before = after["items"].data[0], subscription["items"].data[0]
    assert item.current_period_end == before.current_period_end


async def test_a_price_an_interval_and_a_second_item_are_changed_in_the_dashboard(sandbox: Sandbox) -> None:
    subscription = await subscribed(sandbox)
    changes = {"unit_amount": 2999, "interval": "week", "add_unit_amount": 500}
    await sandbox.control(f"subscriptions/{subscription.id}/items", changes)
    changed = await again(sandbox, subscription)
    first, second = changed["items"].data
    assert (first.price.unit_amount, first.price.recurring.interval) == (2999, "week")
    assert second.price.unit_amount == 500
    assert sound(changed)
    bill = await renewed(sandbox, subscription)
    assert (bill.total, [line.amount for line in bill.lines.data]) == (3499, [2999, 500])
    later = (await again(sandbox, subscription))["items"].data[0]
    assert later.current_period_end - later.current_period_start == 7 * DAY


async def test_a_credit_note_gives_back_of_what_was_paid(sandbox: Sandbox) -> None:
    bill = await renewed(sandbox, await subscribed(sandbox))
    note = await sandbox.control(f"invoices/{bill.id}/credit_note", {"amount": 500, "how": "refund"})
    assert (note["type"], note["post_payment_amount"]) == ("post_payment", 500)
    made = await sandbox.client.v1.refunds.retrieve_async(note["refunds"][0]["refund"])
    assert (made.amount, made.status) == (500, "succeeded")
    await sandbox.control(f"invoices/{bill.id}/credit_note", {"amount": 200, "how": "balance"})
    owner = await sandbox.client.v1.customers.retrieve_async(bill.customer)
    read = await sandbox.client.v1.invoices.retrieve_async(bill.id)
    assert (owner.balance, read.post_payment_credit_notes_amount, read.amount_paid) == (-200, 700, PRICE)
    events = await sandbox.events_of(note["id"])
    assert isinstance(events[0].data.object, stripe.CreditNote)
    assert sound(events[0])
    assert fields_amiss(events[0].data.object) == set()


async def test_a_credit_note_lowers_what_is_due_down_to_nothing(sandbox: Sandbox) -> None:
    subscription = await subscribed(sandbox)
    await sandbox.control(f"subscriptions/{subscription.id}/next_payment", {"outcome": "fail"})
    bill = await renewed(sandbox, subscription)
    await sandbox.control(f"invoices/{bill.id}/credit_note", {"amount": 500})
    await sandbox.control(f"subscriptions/{subscription.id}/next_payment", {"outcome": "succeed"})
    paid = await sandbox.client.v1.invoices.pay_async(bill.id)
    [payment] = await paid_by(sandbox, bill)
    assert (paid.amount_paid, paid.total, payment.amount_paid) == (PRICE - 500, PRICE, PRICE - 500)
    await sandbox.control(f"subscriptions/{subscription.id}/next_payment", {"outcome": "fail"})
    other = await renewed(sandbox, subscription)
    await sandbox.control(f"invoices/{other.id}/credit_note", {"amount": PRICE})
    read = await sandbox.client.v1.invoices.retrieve_async(other.id)
    assert (read.status, read.amount_paid, read.total) == ("paid", 0, PRICE)


async def test_a_subscription_ends_at_a_time(sandbox: Sandbox) -> None:
    subscription, clock = await on_a_clock(sandbox, int(time.time()))
    end = subscription["items"].data[0].current_period_end + 10 * DAY
    params: Any = {"cancel_at": end}
    ends = await sandbox.client.v1.subscriptions.update_async(subscription.id, params)
    assert (ends.cancel_at, ends.cancel_at_period_end, ends.status) == (end, False, "active")
    await advance(sandbox, clock, end + DAY)
    ended = await again(sandbox, subscription)
    assert (ended.status, ended.ended_at) == ("canceled", end)
    assert len(await invoices_of(sandbox, subscription)) == 2
    other = await subscribed(sandbox)
    params = {"cancel_at": other["items"].data[0].current_period_end}
    await sandbox.client.v1.subscriptions.update_async(other.id, params)
    params = {"cancel_at": ""}
    stays = await sandbox.client.v1.subscriptions.update_async(other.id, params)
    assert (stays.cancel_at, stays.canceled_at) == (None, None)
    gone = await sandbox.client.v1.subscriptions.cancel_async(other.id, {"prorate": False})
    assert gone.status == "canceled"


async def test_invoices_are_listed_by_the_time_they_were_created(sandbox: Sandbox) -> None:
    subscription = await subscribed(sandbox)
    for _ in range(2):
        bill = await renewed(sandbox, subscription)
    since: Any = {"created": {"gte": subscription.created}, "limit": 2}
    page = await sandbox.client.v1.invoices.list_async(since)
    assert (page.data[0].id, page.has_more) == (bill.id, True)
