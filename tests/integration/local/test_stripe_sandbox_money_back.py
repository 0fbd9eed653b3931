"""Refunds and disputes as the official client and a bank would have them."""

import re
from typing import Any

import pytest
import stripe

from tests.integration.local.conftest import Endpoint, Sandbox, eventually
from tests.integration.local.declared_types import fields_amiss, missing_fields, wrong_types

PAID = 4798


async def paid(sandbox: Sandbox) -> str:
    """The payment intent of a session that was paid."""
    session = await sandbox.open()
    await sandbox.press(session.id, "pay")
    return str((await sandbox.retrieve(session.id)).payment_intent)


async def charge_of(sandbox: Sandbox, intent: str) -> Any:
    [charge] = (await sandbox.client.v1.charges.list_async({"payment_intent": intent})).data
    return charge


async def refund(sandbox: Sandbox, intent: str, **more: Any) -> Any:
    return await create(sandbox, {"payment_intent": intent, **more})


async def create(sandbox: Sandbox, params: Any) -> Any:
    return await sandbox.client.v1.refunds.create_async(params)


def types_about(endpoint: Endpoint, object_id: str) -> list[str]:
    return sorted(endpoint.about(object_id))


async def test_refunds_and_disputes_have_every_field_that_their_types_declare(sandbox: Sandbox) -> None:
    intent = await paid(sandbox)
    made = await refund(sandbox, intent, amount=100, metadata={"refund_id": "7"})
    read = await sandbox.client.v1.refunds.retrieve_async(made.id)
    begun = await sandbox.control("disputes", {"payment_intent": intent})
    await sandbox.control(f"disputes/{begun['id']}", {"status": "won"})
    dispute = await sandbox.client.v1.disputes.retrieve_async(begun["id"])
    assert isinstance(read, stripe.Refund)
    assert isinstance(dispute, stripe.Dispute)
    assert made.to_dict() == read.to_dict()
    taken, given = dispute.balance_transactions
    assert (taken.net, given.net) == (-PAID - 1500, PAID)
    for value in (read, dispute, taken, given):
        assert missing_fields(value) == []
        assert wrong_types(value) == []
        assert fields_amiss(value) == set()


async def test_the_events_of_money_back_say_what_has_changed(sandbox: Sandbox) -> None:
    intent = await paid(sandbox)
    made = await refund(sandbox, intent, amount=100)
    await sandbox.control(f"refunds/{made.id}", {"status": "failed"})
    events = (await sandbox.client.v1.events.list_async({"limit": 5})).data[::-1]
    told = {event.type: event.data.to_dict().get("previous_attributes") for event in events}
    changes = {"failure_balance_transaction": None, "failure_reason": None, "status": "succeeded"}
    assert list(told.items()) == [
        ("refund.created", None),
        ("charge.refunded", {"amount_refunded": 0}),
        ("refund.updated", changes),
        ("charge.refund.updated", changes),
        ("refund.failed", None),
    ]
    for event in events:
        assert missing_fields(event) == []
        assert wrong_types(event.data.object) == []


async def test_metadata_is_added_to_and_taken_away(sandbox: Sandbox) -> None:
    made = await refund(sandbox, await paid(sandbox), metadata={"a": "1", "b": "2"})
    updates: list[tuple[Any, dict[str, str]]] = [
        ({"c": "3"}, {"a": "1", "b": "2", "c": "3"}),
        ({"a": ""}, {"b": "2", "c": "3"}),
        ("", {}),
    ]
    for sent, left in updates:
        changed = await sandbox.client.v1.refunds.update_async(made.id, {"metadata": sent})
        assert changed.to_dict()["metadata"] == left


async def test_a_charge_and_its_refunds_may_be_had_with_the_other(sandbox: Sandbox) -> None:
    intent = await paid(sandbox)
    made = [await refund(sandbox, intent, amount=1) for _ in range(11)]
    read = await sandbox.client.v1.refunds.retrieve_async(made[0].id, {"expand": ["charge.refunds"]})
    assert isinstance(read.charge, stripe.Charge)
    assert read.charge.refunds
    assert [each.id for each in read.charge.refunds.data] == [each.id for each in made[:0:-1]]
    assert (read.charge.refunds.has_more, read.charge.amount_refunded) == (True, 11)


async def test_a_charge_that_failed_cannot_be_refunded(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    await sandbox.press(session.id, "decline")
    charge = await charge_of(sandbox, (await sandbox.retrieve(session.id)).payment_intent)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await create(sandbox, {"charge": charge.id})
    assert caught.value.code == "charge_not_refundable"


async def test_parts_add_up_to_the_whole_and_not_a_cent_more(sandbox: Sandbox, endpoint: Endpoint) -> None:
    intent = await paid(sandbox)
    first = await refund(sandbox, intent, amount=1000, reason="duplicate")
    assert (first.status, first.amount, first.reason) == ("succeeded", 1000, "duplicate")
    limits = {
        PAID - 999: "Refund amount (€37.99) is greater than unrefunded amount on charge (€37.98)",
        PAID + 1: "Refund amount (€47.99) is greater than charge amount (€47.98)",
    }
    for amount, message in limits.items():
        with pytest.raises(stripe.InvalidRequestError, match=re.escape(message)) as caught:
            await refund(sandbox, intent, amount=amount)
        assert caught.value.param == "amount"
    rest = await refund(sandbox, intent)
    assert rest.amount == PAID - 1000
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await refund(sandbox, intent, amount=1)
    assert caught.value.code == "charge_already_refunded"
    charge = await charge_of(sandbox, intent)
    assert (charge.amount_refunded, charge.refunded) == (PAID, True)
    listed = await sandbox.client.v1.refunds.list_async({"payment_intent": intent})
    assert [each.id for each in listed.data] == [rest.id, first.id]
    await eventually(lambda: types_about(endpoint, charge.id).count("charge.refunded") == 2, "both are told")
    assert types_about(endpoint, first.id) == ["refund.created"]


async def test_a_pending_refund_holds_its_amount_until_it_fails(sandbox: Sandbox, endpoint: Endpoint) -> None:
    intent = await paid(sandbox)
    await sandbox.control("refunds", {"status": "pending"})
    pending = await refund(sandbox, intent)
    assert (pending.status, pending.pending_reason) == ("pending", "processing")
    assert (await charge_of(sandbox, intent)).amount_refunded == PAID
    failed = await sandbox.control(f"refunds/{pending.id}", {"status": "failed"})
    assert (failed["status"], failed["failure_reason"]) == ("failed", "lost_or_stolen_card")
    charge = await charge_of(sandbox, intent)
    assert (charge.amount_refunded, charge.refunded) == (0, False)
    again = await refund(sandbox, intent)
    assert again.status == "succeeded"
    told = ["charge.refund.updated", "refund.created", "refund.failed", "refund.updated"]
    await eventually(lambda: types_about(endpoint, pending.id) == told, "the failure is told")


async def test_what_succeeded_may_still_come_back_and_nothing_else_moves(sandbox: Sandbox) -> None:
    intent = await paid(sandbox)
    await sandbox.control("refunds", {"status": "failed"})
    bounced = await refund(sandbox, intent)
    assert (bounced.status, (await charge_of(sandbox, intent)).amount_refunded) == ("failed", 0)
    answer = await sandbox.http.post(f"/_control/refunds/{bounced.id}", json={"status": "succeeded"})
    assert answer.status_code == 400
    with pytest.raises(stripe.InvalidRequestError, match="cannot cancel"):
        await sandbox.client.v1.refunds.cancel_async(bounced.id)
    await sandbox.control("refunds", {"status": "requires_action"})
    waiting = await refund(sandbox, intent, amount=5)
    assert (await sandbox.client.v1.refunds.cancel_async(waiting.id)).status == "canceled"


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"payment_intent": "pi_none"}, "payment_intent"),
        ({"charge": "ch_none"}, "charge"),
        ({"charge": "ch_none", "payment_intent": "pi_none"}, "charge"),
        ({}, None),
        ({"payment_intent": "pi_none", "nonsense": "1"}, "payment_intent"),
    ],
)
async def test_a_refund_of_nothing_is_refused(
    sandbox: Sandbox, params: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await create(sandbox, params)
    assert caught.value.param == param


async def test_a_dispute_takes_the_money_and_a_won_one_gives_it_back(
    sandbox: Sandbox, endpoint: Endpoint
) -> None:
    intent = await paid(sandbox)
    dispute = await sandbox.control("disputes", {"payment_intent": intent, "reason": "product_not_received"})
    assert (dispute["amount"], dispute["reason"]) == (PAID, "product_not_received")
    assert (await charge_of(sandbox, intent)).disputed
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await refund(sandbox, intent)
    assert caught.value.code == "charge_disputed"
    for status in ("under_review", "won"):
        await sandbox.control(f"disputes/{dispute['id']}", {"status": status})
    assert not (await charge_of(sandbox, intent)).disputed
    told = [
        "charge.dispute.closed",
        "charge.dispute.created",
        "charge.dispute.funds_reinstated",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.updated",
    ]
    await eventually(lambda: types_about(endpoint, dispute["id"]) == told, "all of it is told")
    answer = await sandbox.http.post(f"/_control/disputes/{dispute['id']}", json={"status": "lost"})
    assert answer.status_code == 400


async def test_an_inquiry_moves_no_money_until_it_is_escalated(sandbox: Sandbox) -> None:
    intent = await paid(sandbox)
    warning = {"payment_intent": intent, "status": "warning_needs_response"}
    dispute = await sandbox.control("disputes", warning)
    assert not (await charge_of(sandbox, intent)).disputed
    assert dispute["is_charge_refundable"]
    await sandbox.control(f"disputes/{dispute['id']}", {"status": "needs_response"})
    assert (await charge_of(sandbox, intent)).disputed
    closed = await sandbox.client.v1.disputes.close_async(dispute["id"])
    assert closed.status == "lost"
    listed = await sandbox.client.v1.disputes.list_async({"payment_intent": intent})
    assert [each.status for each in listed.data] == ["lost"]


async def test_a_charge_is_disputed_until_its_last_dispute_is_won(sandbox: Sandbox) -> None:
    intent = await paid(sandbox)
    first, second = [
        await sandbox.control("disputes", {"payment_intent": intent, "amount": 100}) for _ in range(2)
    ]
    await sandbox.control(f"disputes/{first['id']}", {"status": "won"})
    assert (await charge_of(sandbox, intent)).disputed
    await sandbox.control(f"disputes/{second['id']}", {"status": "won"})
    assert not (await charge_of(sandbox, intent)).disputed
    types = [event.type for event in await sandbox.events_of(second["id"])]
    # Newest first.
    assert types == [
        "charge.dispute.funds_reinstated",
        "charge.dispute.closed",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.created",
    ]
