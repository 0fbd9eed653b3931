"""Events as older API versions render them, and what an account has forgotten."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import stripe

from tests.integration.local.conftest import VERSION, Endpoint, Sandbox, eventually
from tests.integration.local.test_stripe_sandbox_money_back import paid, refund
from tests.integration.local.test_stripe_sandbox_subscriptions import PRICE, again, invoices_of, subscribed

OLD, OLDER = "2025-02-24.acacia", "2020-08-27"


@asynccontextmanager
async def written_in(sandbox: Sandbox, **versions: Any) -> AsyncIterator[None]:
    await sandbox.control("api_versions", versions)
    try:
        yield
    finally:
        await sandbox.control("api_versions", {})


def sent(endpoint: Endpoint, object_id: str, event_type: str) -> dict[str, Any] | None:
    about = [body for body in endpoint.bodies() if body["data"]["object"]["id"] == object_id]
    return next((body for body in about if body["type"] == event_type), None)


async def test_an_invoice_had_its_subscription_at_the_top(sandbox: Sandbox, endpoint: Endpoint) -> None:
    subscription = await subscribed(sandbox)
    async with written_in(sandbox, account=OLD):
        await sandbox.control(f"subscriptions/{subscription.id}/renew", {"tax": 160})
    bill = (await invoices_of(sandbox, subscription))[-1]
    await eventually(lambda: sent(endpoint, bill.id, "invoice.paid") is not None, "it is told")
    event: Any = sent(endpoint, bill.id, "invoice.paid")
    shown = event["data"]["object"]
    assert (event["api_version"], shown["subscription"]) == (OLD, subscription.id)
    assert not {"parent", "total_taxes", "amount_paid_off_stripe"} & set(shown)
    intent = await sandbox.client.v1.payment_intents.retrieve_async(shown["payment_intent"])
    assert (shown["charge"], shown["paid"], shown["paid_out_of_band"]) == (intent.latest_charge, True, False)
    assert (shown["tax"], shown["total"], shown["total_tax_amounts"][0]["amount"]) == (160, PRICE + 160, 160)
    [line] = shown["lines"]["data"]
    assert (line["price"]["unit_amount"], line["proration"], "parent" in line) == (PRICE, False, False)
    listed = [each for each in await sandbox.events_of(bill.id) if each.type == "invoice.paid"]
    assert listed[0].api_version == OLD
    assert sent(endpoint, subscription.id, "customer.subscription.updated")["data"]["object"][  # type: ignore[index]
        "current_period_end"
    ]
    # Asked for in the version that the caller pins.
    assert bill.parent.subscription_details.subscription == subscription.id


async def test_only_the_endpoint_may_be_of_an_older_version(sandbox: Sandbox, endpoint: Endpoint) -> None:
    subscription = await subscribed(sandbox)
    async with written_in(sandbox, endpoint=OLD):
        await sandbox.control(f"subscriptions/{subscription.id}/renew", {"by": "out_of_band"})
    bill = (await invoices_of(sandbox, subscription))[-1]
    await eventually(lambda: sent(endpoint, bill.id, "invoice.paid") is not None, "it is told")
    event: Any = sent(endpoint, bill.id, "invoice.paid")
    shown = event["data"]["object"]
    assert (event["api_version"], shown["paid_out_of_band"], shown["payment_intent"]) == (OLD, True, None)
    listed = [each for each in await sandbox.events_of(bill.id) if each.type == "invoice.paid"]
    assert (listed[0].api_version, listed[0].id) == (VERSION, event["id"])
    assert "invoice_payment.paid" not in endpoint.about((await again(sandbox, subscription)).id)


async def test_an_intent_had_its_charges_and_a_charge_its_refunds(
    sandbox: Sandbox, endpoint: Endpoint
) -> None:
    async with written_in(sandbox, account=OLDER):
        intent = await paid(sandbox)
        made = await refund(sandbox, intent, amount=100)
    charge = str(made.charge)
    await eventually(lambda: sent(endpoint, charge, "charge.refunded") is not None, "it is told")
    refunded: Any = sent(endpoint, charge, "charge.refunded")
    assert [each["id"] for each in refunded["data"]["object"]["refunds"]["data"]] == [made.id]
    succeeded: Any = sent(endpoint, intent, "payment_intent.succeeded")
    assert [each["id"] for each in succeeded["data"]["object"]["charges"]["data"]] == [charge]


async def test_a_part_of_the_events_may_be_old(sandbox: Sandbox) -> None:
    async with written_in(sandbox, account=OLD, percent=50):
        intents = [await paid(sandbox) for _ in range(8)]
    events = await sandbox.client.v1.events.list_async({"limit": 32})
    assert {event.api_version for event in events.data} == {OLD, VERSION}
    assert len(intents) == 8


async def test_events_may_be_forgotten_one_payment_at_a_time(sandbox: Sandbox) -> None:
    intent, other = await paid(sandbox), await paid(sandbox)
    made = await refund(sandbox, intent, amount=100)
    told = (await sandbox.http.get(f"/_control/events?about={intent}")).json()["events"]
    assert [event["type"] for event in told] == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "checkout.session.completed",
        "refund.created",
        "charge.refunded",
    ]
    forgotten = await sandbox.control("forget_events", {"about": [intent]})
    assert forgotten == {"forgotten": 6}
    assert await sandbox.events_of(made.id) == []
    assert len(await sandbox.events_of(other)) == 2
    assert (await sandbox.client.v1.refunds.retrieve_async(made.id)).status == "succeeded"


async def test_test_data_may_be_deleted(sandbox: Sandbox) -> None:
    intent = await paid(sandbox)
    made = await refund(sandbox, intent, amount=100)
    await sandbox.control("forget_objects", {"about": [made.id]})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await sandbox.client.v1.refunds.retrieve_async(made.id)
    assert (caught.value.code, caught.value.http_status) == ("resource_missing", 404)
    assert (await sandbox.client.v1.refunds.list_async({"payment_intent": intent})).data == []


@pytest.mark.parametrize("is_first_told_failed", [True, False])
async def test_a_complete_session_may_never_be_paid(sandbox: Sandbox, is_first_told_failed: bool) -> None:
    session = await sandbox.open()
    await sandbox.press(session.id, "pay_later")
    if is_first_told_failed:
        await sandbox.control(f"sessions/{session.id}/delayed_payment", {"outcome": "failed"})
    await sandbox.control(f"sessions/{session.id}/delayed_payment", {"outcome": "canceled"})
    read = await sandbox.retrieve(session.id)
    intent = await sandbox.client.v1.payment_intents.retrieve_async(read.payment_intent)
    assert (read.status, read.payment_status, intent.status) == ("complete", "unpaid", "canceled")
    assert next(event.type for event in await sandbox.events_of(intent.id)) == "payment_intent.canceled"
    again_ = f"/_control/sessions/{session.id}/delayed_payment"
    assert (await sandbox.http.post(again_, json={"outcome": "canceled"})).status_code == 409
