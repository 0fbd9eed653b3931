"""What a dispute took and gave back by its balance transactions, and what may be refunded beside it."""

from typing import Any

import pytest
import stripe

from tests.integration.local.conftest import Sandbox
from tests.integration.local.declared_types import fields_amiss, missing_fields, wrong_types
from tests.integration.local.test_stripe_sandbox_money_back import PAID, paid, refund


async def disputed(sandbox: Sandbox, intent: str, **more: Any) -> str:
    return str((await sandbox.control("disputes", {"payment_intent": intent, **more}))["id"])


async def move(sandbox: Sandbox, dispute_id: str, status: str, **more: Any) -> None:
    await sandbox.control(f"disputes/{dispute_id}", {"status": status, **more})


async def amounts(sandbox: Sandbox, dispute_id: str) -> list[int]:
    read = await sandbox.client.v1.disputes.retrieve_async(dispute_id)
    return [moved.amount for moved in read.balance_transactions]


async def types_of(sandbox: Sandbox, object_id: str) -> list[str]:
    """The oldest first."""
    return [event.type for event in await sandbox.events_of(object_id)][::-1]


async def test_a_lost_dispute_may_be_won_after_all(sandbox: Sandbox) -> None:
    dispute_id = await disputed(sandbox, await paid(sandbox), amount=1000)
    noted = await sandbox.client.v1.disputes.update_async(dispute_id, {"metadata": {"note": "7"}})
    assert noted.metadata.to_dict() == {"note": "7"}
    for status in ("lost", "appeal_under_review", "won"):
        await move(sandbox, dispute_id, status)
    assert await amounts(sandbox, dispute_id) == [-1000, 1000]
    assert await types_of(sandbox, dispute_id) == [
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.updated",
        "charge.dispute.closed",
        "charge.dispute.updated",
        "charge.dispute.closed",
        "charge.dispute.funds_reinstated",
    ]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_part_of_a_lost_dispute_may_come_back(sandbox: Sandbox, at_once: bool) -> None:
    intent = await paid(sandbox)
    dispute_id = await disputed(sandbox, intent, amount=1000)
    if not at_once:
        await move(sandbox, dispute_id, "lost")
    await move(sandbox, dispute_id, "lost", reinstated=400)
    assert await amounts(sandbox, dispute_id) == [-1000, 400]
    assert (await types_of(sandbox, dispute_id))[-1] == "charge.dispute.funds_reinstated"
    answer = await sandbox.http.post(f"/_control/disputes/{dispute_id}", json={"status": "won"})
    assert answer.status_code == 400
    # 600 are lost, the rest is the shop's to refund.
    assert (await refund(sandbox, intent)).amount == PAID - 600


async def test_what_a_dispute_left_is_refunded_only_once_it_is_decided(sandbox: Sandbox) -> None:
    intent = await paid(sandbox)
    dispute_id = await disputed(sandbox, intent, amount=798)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await refund(sandbox, intent, amount=1)
    assert caught.value.code == "charge_disputed"
    await move(sandbox, dispute_id, "lost")
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded amount"):
        await refund(sandbox, intent, amount=4001)
    assert (await refund(sandbox, intent)).amount == 4000
    other = await paid(sandbox)
    await move(sandbox, await disputed(sandbox, other), "lost")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await refund(sandbox, other)
    assert caught.value.code == "charge_disputed"


async def test_a_bank_disputes_in_its_own_currency_and_the_balance_says_how_much(sandbox: Sandbox) -> None:
    intent = await paid(sandbox)
    jpy = {"amount": 2900, "currency": "jpy"}
    answer = await sandbox.http.post("/_control/disputes", json={"payment_intent": intent, **jpy})
    assert (answer.status_code, "settled_amount" in answer.text) == (400, True)
    dispute_id = await disputed(sandbox, intent, settled_amount=1900, **jpy)
    dispute = await sandbox.client.v1.disputes.retrieve_async(dispute_id)
    [taken] = dispute.balance_transactions
    assert (dispute.amount, dispute.currency) == (2900, "jpy")
    assert (taken.amount, taken.currency, taken.exchange_rate) == (-1900, "eur", 0.655172)


async def test_an_account_may_be_settled_in_another_currency(sandbox: Sandbox) -> None:
    await sandbox.control("settlement", {"currency": "usd", "exchange_rate": 1.5})
    try:
        intent = await paid(sandbox)
    finally:
        await sandbox.control("settlement", {})
    expanded: Any = {"payment_intent": intent, "expand": ["data.balance_transaction"]}
    [charge] = (await sandbox.client.v1.charges.list_async(expanded)).data
    booked: Any = charge.balance_transaction
    assert isinstance(booked, stripe.BalanceTransaction)
    assert (booked.amount, booked.currency, booked.exchange_rate) == (PAID * 3 // 2, "usd", 1.5)
    made = await refund(sandbox, intent, amount=1000)
    await sandbox.control(
        f"refunds/{made.id}", {"status": "failed", "failure_reason": "expired_or_canceled_card"}
    )
    failed = await sandbox.client.v1.refunds.retrieve_async(made.id)
    assert failed.failure_reason == "expired_or_canceled_card"
    moved = sandbox.client.v1.balance_transactions
    gone = await moved.retrieve_async(str(failed.balance_transaction))
    back = await moved.retrieve_async(str(failed.failure_balance_transaction))
    assert [(each.amount, each.type) for each in (gone, back)] == [
        (-1500, "refund"),
        (1500, "refund_failure"),
    ]
    for value in (booked, gone, back):
        assert (missing_fields(value), wrong_types(value), fields_amiss(value)) == ([], [], set())
    dispute_id = await disputed(sandbox, intent, amount=1000)
    assert await amounts(sandbox, dispute_id) == [-1500]
    listed = await moved.list_async({"source": made.id})
    assert {each.id for each in listed.data} == {gone.id, back.id}


@pytest.mark.parametrize("lacks_all", [True, False])
async def test_a_listing_may_lack_what_is_there(sandbox: Sandbox, lacks_all: bool) -> None:
    intent, other = await paid(sandbox), await paid(sandbox)
    first, second = [await refund(sandbox, intent, amount=1) for _ in range(2)]
    theirs = await refund(sandbox, other, amount=1)
    fault = {"method": "GET", "path": "/v1/refunds", "kind": "listing_lacks", "count": 2}
    about = {"params": {"payment_intent": intent}, "lacks": [] if lacks_all else [first.id]}
    added = await sandbox.control("faults", {**fault, **about})

    async def listed(of: str) -> list[str]:
        return [each.id for each in (await sandbox.client.v1.refunds.list_async({"payment_intent": of})).data]

    assert await listed(other) == [theirs.id]
    assert await listed(intent) == ([] if lacks_all else [second.id])
    await sandbox.http.delete(f"/_control/faults/{added['id']}")
    assert await listed(intent) == [second.id, first.id]


async def test_money_back_is_listed_by_the_time_it_was_created(sandbox: Sandbox) -> None:
    intents = [await paid(sandbox) for _ in range(3)]
    made = [await refund(sandbox, intent, amount=1) for intent in intents]
    for intent in intents:
        await disputed(sandbox, intent)
    since: Any = {"created": {"gte": made[0].created}, "limit": 2}
    v1 = sandbox.client.v1
    for listing in (v1.refunds, v1.disputes, v1.charges):
        page: Any = await listing.list_async(since)
        assert (len(page.data), page.has_more) == (2, True)
        everything = [each.created async for each in page.auto_paging_iter()]
        assert len(everything) >= 3
        assert min(everything) >= made[0].created
        later: Any = {"created": {"gt": made[-1].created + 60}}
        assert (await listing.list_async(later)).data == []
