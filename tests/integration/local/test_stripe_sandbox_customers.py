"""Customers: made by the shop or by Checkout, listed, and billed under their own name."""

import time
from typing import Any

import pytest
import stripe

from tests.integration.local.conftest import Sandbox
from tests.integration.local.declared_types import missing_fields
from tests.integration.local.test_stripe_sandbox_subscriptions import (
    again,
    invoices_of,
    subscribed,
    subscription_params,
)


async def test_a_customer_is_made_found_and_listed(sandbox: Sandbox) -> None:
    customers = sandbox.client.v1.customers
    email = f"c{time.time_ns()}@shop.test"
    params: Any = {"email": email, "name": "Ann", "description": "first", "metadata": {"user_id": "7"}}
    made = await customers.create_async(params)
    assert isinstance(made, stripe.Customer)
    assert missing_fields(made) == []
    assert (made.name, made.description) == ("Ann", "first")
    assert made.to_dict()["metadata"] == {"user_id": "7"}
    assert (await customers.retrieve_async(made.id)).to_dict() == made.to_dict()
    twin = await customers.create_async({"email": email})
    first = await customers.list_async({"email": email, "limit": 1})
    assert ([each.id for each in first.data], first.has_more) == ([twin.id], True)
    rest = await customers.list_async({"email": email, "starting_after": twin.id})
    assert ([each.id for each in rest.data], rest.has_more) == ([made.id], False)
    assert [event.type for event in await sandbox.events_of(made.id)] == ["customer.created"]


@pytest.mark.parametrize(
    ("params", "param", "code"),
    [
        ({"email": "nobody"}, "email", "email_invalid"),
        ({"test_clock": "clock_none"}, "test_clock", "resource_missing"),
        ({"nonsense": "1"}, "nonsense", "parameter_unknown"),
    ],
)
async def test_bad_parameters_of_a_customer_are_named(
    sandbox: Sandbox, params: Any, param: str, code: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await sandbox.client.v1.customers.create_async(params)
    assert (caught.value.http_status, caught.value.param, caught.value.code) == (400, param, code)


async def test_what_does_not_exist_is_404(sandbox: Sandbox) -> None:
    v1 = sandbox.client.v1
    for call in (
        v1.customers.retrieve_async("cus_none"),
        v1.subscriptions.retrieve_async("sub_none"),
        v1.subscriptions.cancel_async("sub_none"),
        v1.invoices.retrieve_async("in_none"),
        v1.invoices.pay_async("in_none"),
        v1.invoice_payments.retrieve_async("inpay_none"),
        v1.test_helpers.test_clocks.retrieve_async("clock_none"),
        v1.test_helpers.test_clocks.delete_async("clock_none"),
    ):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await call
        assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")


async def test_a_customer_of_the_shop_subscribes_again_and_again(sandbox: Sandbox) -> None:
    v1 = sandbox.client.v1
    customer = await v1.customers.create_async({"email": "ann@shop.test"})
    subscriptions = [await subscribed(sandbox, customer=customer.id) for _ in range(2)]
    assert {each.customer for each in subscriptions} == {customer.id}
    [session] = (await sandbox.sessions.list_async({"limit": 1})).data
    assert (session.customer, session.customer_details.email) == (customer.id, "ann@shop.test")
    bills = [bill for each in subscriptions for bill in await invoices_of(sandbox, each)]
    assert {bill.customer_email for bill in bills} == {"ann@shop.test"}
    # One row of numbers for each customer.
    assert [bill.number[-5:] for bill in bills] == ["-0001", "-0002"]
    listed = await v1.subscriptions.list_async({"customer": customer.id})
    assert [each.id for each in listed.data] == [each.id for each in reversed(subscriptions)]


async def test_the_money_of_an_invoice_bears_the_name_of_its_customer(sandbox: Sandbox) -> None:
    subscription = await subscribed(sandbox)
    [bill] = await invoices_of(sandbox, subscription)
    [line] = bill.lines.data
    assert (line.description, line.quantity, line.quantity_decimal) == ("1 × 300 points", 1, 1)
    payment = (await sandbox.client.v1.invoice_payments.list_async({"invoice": bill.id})).data[0]
    intent = await sandbox.client.v1.payment_intents.retrieve_async(str(payment.payment.payment_intent))
    charge = await sandbox.client.v1.charges.retrieve_async(str(intent.latest_charge))
    assert intent.customer == charge.customer == subscription.customer


async def test_subscriptions_are_listed_by_what_became_of_them(sandbox: Sandbox) -> None:
    v1 = sandbox.client.v1
    customer = await v1.customers.create_async({"email": "ann@shop.test"})
    gone, lives = [await subscribed(sandbox, customer=customer.id) for _ in range(2)]
    await v1.subscriptions.cancel_async(gone.id)
    found = {
        status: [
            each.id
            for each in (await v1.subscriptions.list_async({"customer": customer.id, "status": status})).data
        ]
        for status in ("active", "canceled", "ended", "past_due", "all")
    }
    of_all = [lives.id, gone.id]
    assert found == {
        "active": [lives.id],
        "canceled": [gone.id],
        "ended": [gone.id],
        "past_due": [],
        "all": of_all,
    }
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await v1.subscriptions.cancel_async(gone.id)
    assert caught.value.http_status == 404


@pytest.mark.parametrize("noun", ["subscriptions", "invoices", "invoice_payments"])
async def test_an_unknown_status_is_refused(sandbox: Sandbox, noun: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await getattr(sandbox.client.v1, noun).list_async({"status": "nonsense"})
    assert caught.value.param == "status"


async def test_a_canceled_subscription_takes_metadata_and_nothing_else(sandbox: Sandbox) -> None:
    subscriptions = sandbox.client.v1.subscriptions
    subscription = await subscribed(sandbox)
    await subscriptions.cancel_async(subscription.id)
    await subscriptions.update_async(subscription.id, {"metadata": {"note": "gone"}})
    after = await again(sandbox, subscription)
    assert (after.metadata["note"], after.status) == ("gone", "canceled")
    with pytest.raises(stripe.InvalidRequestError, match="canceled subscription"):
        await subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})


@pytest.mark.parametrize("action", ["decline", "abandon"])
async def test_a_session_that_is_not_paid_begins_nothing(sandbox: Sandbox, action: str) -> None:
    customer = await sandbox.client.v1.customers.create_async({"email": "ann@shop.test"})
    params = subscription_params(customer=customer.id, cancel_url="https://shop.test/cancel")
    session = await sandbox.sessions.create_async(params)
    answer = await sandbox.press(session.id, action)
    assert answer.status_code == {"decline": 402, "abandon": 303}[action]
    after = await sandbox.retrieve(session.id)
    assert (after.status, after.subscription, after.invoice) == ("open", None, None)
    await sandbox.press(session.id, "pay")
    assert (await sandbox.retrieve(session.id)).payment_status == "paid"
    assert len((await sandbox.client.v1.subscriptions.list_async({"customer": customer.id})).data) == 1


async def test_metadata_is_changed_key_by_key(sandbox: Sandbox) -> None:
    subscription = await subscribed(sandbox)
    params: Any = {"metadata": {"user_id": "", "note": "new"}}
    changed = await sandbox.client.v1.subscriptions.update_async(subscription.id, params)
    assert changed.to_dict()["metadata"] == {"checkout_id": "7", "note": "new"}
    event = (await sandbox.events_of(subscription.id))[0]
    assert event.type == "customer.subscription.updated"
    assert event.data.to_dict()["previous_attributes"] == {"metadata": {"user_id": "8", "note": None}}


async def test_ids_become_objects_when_they_are_expanded(sandbox: Sandbox) -> None:
    v1 = sandbox.client.v1
    plain = await subscribed(sandbox)
    params: Any = {"expand": ["customer", "latest_invoice.parent.subscription_details.subscription"]}
    subscription: Any = await v1.subscriptions.retrieve_async(plain.id, params)
    assert (subscription.customer.id, subscription.latest_invoice.id) == (
        plain.customer,
        plain.latest_invoice,
    )
    assert subscription.latest_invoice.parent.subscription_details.subscription.id == plain.id
    params = {"invoice": plain.latest_invoice, "expand": ["data.invoice", "data.payment.payment_intent"]}
    payment: Any = (await v1.invoice_payments.list_async(params)).data[0]
    assert (payment.invoice.id, payment.payment.payment_intent.customer) == (
        plain.latest_invoice,
        plain.customer,
    )
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        await v1.subscriptions.retrieve_async(plain.id, {"expand": ["metadata.user_id"]})
