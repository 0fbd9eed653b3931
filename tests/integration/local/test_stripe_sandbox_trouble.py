"""Webhooks in trouble on purpose, delayed payments, and payments out of nowhere."""

from collections import Counter
from typing import Any

import pytest

from tests.integration.local.conftest import Sandbox, eventually


async def pay_many(sandbox: Sandbox, count: int) -> int:
    """Returns how many events there are then."""
    for _ in range(count):
        session = await sandbox.open()
        await sandbox.press(session.id, "pay")
    return int((await sandbox.state())["events"])


async def settled(sandbox: Sandbox) -> dict[str, int]:
    """The deliveries once nothing is on its way."""
    states: dict[str, int] = {}

    async def is_quiet() -> bool:
        states.update((await sandbox.state())["deliveries"])
        return states["pending"] == 0

    await eventually(is_quiet, "nothing is on its way")
    return states


async def test_some_are_dropped_and_can_be_listed(own_sandbox: Sandbox) -> None:
    await own_sandbox.control("webhooks", {"mode": "deliver", "drop_percent": 50, "seed": 7})
    events = await pay_many(own_sandbox, 10)
    states = await settled(own_sandbox)
    assert 0 < states["dropped"] < events
    assert states["dropped"] + states["delivered"] == events == 40
    listed = await own_sandbox.client.v1.events.list_async({"delivery_success": False, "limit": 100})
    assert len(listed.data) == states["dropped"]
    assert len(own_sandbox.endpoint.arrived) == states["delivered"]


async def test_the_same_seed_is_the_same_trouble(own_sandbox: Sandbox) -> None:
    trouble = {"mode": "deliver", "drop_percent": 30, "duplicate_percent": 30, "seed": 5}
    await own_sandbox.control("webhooks", trouble)
    await pay_many(own_sandbox, 8)
    await settled(own_sandbox)
    sent = Counter(body["id"] for body in own_sandbox.endpoint.bodies())
    # Of the 32 events; another seed sends others.
    assert (len(sent), list(sent.values()).count(2)) == (23, 12)


async def test_some_are_sent_twice_and_all_of_them_out_of_order(own_sandbox: Sandbox) -> None:
    trouble = {"mode": "deliver", "duplicate_percent": 100, "shuffle": True, "seed": 3}
    await own_sandbox.control("webhooks", trouble)
    events = await pay_many(own_sandbox, 8)
    await settled(own_sandbox)
    arrived = [body["id"] for body in own_sandbox.endpoint.bodies()]
    assert set(Counter(arrived).values()) == {2}
    listed = await own_sandbox.client.v1.events.list_async({"limit": 100})
    emitted = [event.id for event in reversed(listed.data)]
    first = list(dict.fromkeys(arrived))
    assert len(first) == events
    assert first != emitted


@pytest.mark.parametrize(
    "body",
    [{"mode": "deliver", "drop_percent": 101}, {"mode": "loud"}, {"mode": "deliver", "nonsense": 1}, {}],
)
async def test_trouble_that_makes_no_sense_is_refused(sandbox: Sandbox, body: Any) -> None:
    assert (await sandbox.http.post("/_control/webhooks", json=body)).status_code == 400


@pytest.mark.parametrize(
    ("outcome", "payment_status", "intent_status"),
    [("succeeded", "paid", "succeeded"), ("failed", "unpaid", "requires_payment_method")],
)
async def test_a_bank_debit_takes_its_time(
    sandbox: Sandbox, outcome: str, payment_status: str, intent_status: str
) -> None:
    session = await sandbox.open()
    assert (await sandbox.press(session.id, "pay_later")).status_code == 303
    waiting = await sandbox.retrieve(session.id)
    assert (waiting.status, waiting.payment_status) == ("complete", "unpaid")
    await sandbox.control(f"sessions/{session.id}/delayed_payment", {"outcome": outcome})
    ended = await sandbox.retrieve(session.id)
    intent = await sandbox.client.v1.payment_intents.retrieve_async(ended.payment_intent)
    assert (ended.payment_status, intent.status) == (payment_status, intent_status)
    types = [event.type for event in await sandbox.events_of(session.id)]
    assert types == [f"checkout.session.async_payment_{outcome}", "checkout.session.completed"]
    again = f"/_control/sessions/{session.id}/delayed_payment"
    assert (await sandbox.http.post(again, json={"outcome": outcome})).status_code == 409


async def test_a_payment_may_come_out_of_nowhere(sandbox: Sandbox) -> None:
    paid = await sandbox.control("payments", {"amount": 500, "metadata": {"user_id": "7"}})
    intent = await sandbox.client.v1.payment_intents.retrieve_async(paid["id"])
    assert (intent.status, intent.amount_received, intent.metadata.to_dict()) == (
        "succeeded",
        500,
        {"user_id": "7"},
    )
    sessions = await sandbox.client.v1.checkout.sessions.list_async({"payment_intent": intent.id})
    assert sessions.data == []
