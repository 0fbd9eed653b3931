"""Webhooks in trouble on purpose, delayed payments, and payments out of nowhere."""

import asyncio
from collections import Counter
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.local.stripe_sandbox.events import MODE, TROUBLE, Origin, Trouble, emit, release
from deploy.local.stripe_sandbox.store import Store
from deploy.local.stripe_sandbox.webhooks import Sender
from services.chassis.http_server import serving
from tests.integration.local.conftest import SECRET, Sandbox, eventually, free_port
from tests.integration.local.declared_types import missing_fields, wrong_types


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


async def test_some_are_sent_twice(own_sandbox: Sandbox) -> None:
    trouble = {"mode": "deliver", "duplicate_percent": 100, "shuffle": True, "seed": 3}
    await own_sandbox.control("webhooks", trouble)
    events = await pay_many(own_sandbox, 8)
    await settled(own_sandbox)
    arrived = Counter(body["id"] for body in own_sandbox.endpoint.bodies())
    assert (len(arrived), set(arrived.values())) == (events, {2})
    assert (await own_sandbox.state())["taken"] == arrived.total()


@pytest.mark.parametrize("mode", ["deliver", "hold"])
def test_shuffled_events_are_due_in_an_order_of_their_own(tmp_path: Path, mode: str) -> None:
    """When they are emitted or let go, all at once: those that are due together overtake each other anyway,
    and between two purchases a slow machine takes longer than any event waits."""
    store = Store(tmp_path)
    with store.transaction():
        store.set_switch(MODE, mode)
        store.set_switch(TROUBLE, Trouble(shuffle=True, seed=3).model_dump_json())
        emitted = [emit(store, "refund.updated", {"id": "re_1"}, now=1, origin=Origin()) for _ in range(32)]
        if mode == "hold":
            assert release(store) == len(emitted)
    due = store.execute("SELECT event_id FROM deliveries ORDER BY due_at").fetchall()
    store.close()
    assert disorder(emitted, [event_id for (event_id,) in due]) > 0.25


async def test_what_was_held_goes_out_when_it_is_flushed(own_sandbox: Sandbox) -> None:
    trouble = {"drop_percent": 0, "duplicate_percent": 0, "shuffle": True, "seed": 3}
    await own_sandbox.control("webhooks", {"mode": "hold", **trouble})
    await pay_many(own_sandbox, 8)
    state = await own_sandbox.state()
    assert (state["webhooks"], state["trouble"], state["deliveries"]["held"]) == ("hold", trouble, 32)
    assert own_sandbox.endpoint.arrived == []
    assert await own_sandbox.control("webhooks/flush") == {"released": 32}
    assert (await settled(own_sandbox))["delivered"] == 32
    assert len({body["id"] for body in own_sandbox.endpoint.bodies()}) == 32


@pytest.mark.parametrize("status", [200, 500])
async def test_what_is_forgotten_on_its_way_does_not_stop_the_next(tmp_path: Path, status: int) -> None:
    store = Store(tmp_path)
    arrived: list[str] = []

    async def forget(request: Request) -> Response:
        arrived.append((await request.json())["id"])
        store.execute("DELETE FROM deliveries")
        store.execute("DELETE FROM objects")
        return Response(status_code=status)

    listen = f"127.0.0.1:{free_port()}"
    sender = Sender(store, urls=[f"http://{listen}/hooks"], secret=SECRET)
    app = Starlette(routes=[Route("/hooks", forget, methods=["POST"])])
    async with serving(app, listen, stop_seconds=1):
        running = asyncio.create_task(sender.run())
        for count in (1, 2):
            emit(store, "refund.updated", {"id": "re_1"}, now=1, origin=Origin())
            sender.wake()
            await eventually(partial(has_length, arrived, count), f"{count} of 2 arrive")
        running.cancel()
        await asyncio.wait([running])
    await sender.close()
    store.close()
    assert running.cancelled()
    assert len(set(arrived)) == 2


def has_length(what: list[str], length: int) -> bool:
    return len(what) == length


def disorder(emitted: list[str], due: list[str]) -> float:
    """The share of pairs that are the other way round: 0 in order, about a half when shuffled."""
    pairs = list(combinations([emitted.index(event_id) for event_id in due], 2))
    return sum(first > second for first, second in pairs) / len(pairs)


@pytest.mark.parametrize(
    "body",
    [{"mode": "deliver", "drop_percent": 101}, {"mode": "loud"}, {"mode": "deliver", "nonsense": 1}, {}],
)
async def test_trouble_that_makes_no_sense_is_refused(sandbox: Sandbox, body: Any) -> None:
    assert (await sandbox.http.post("/_control/webhooks", json=body)).status_code == 400


async def newest_types(sandbox: Sandbox, count: int) -> list[str]:
    """What was told last, oldest first."""
    listed = await sandbox.client.v1.events.list_async({"limit": count})
    return [event.type for event in reversed(listed.data)]


@pytest.mark.parametrize(
    ("outcome", "payment_status", "intent_status", "told"),
    [
        ("succeeded", "paid", "succeeded", "payment_intent.succeeded"),
        ("failed", "unpaid", "requires_payment_method", "payment_intent.payment_failed"),
    ],
)
async def test_a_bank_debit_takes_its_time(
    sandbox: Sandbox, outcome: str, payment_status: str, intent_status: str, told: str
) -> None:
    session = await sandbox.open()
    assert (await sandbox.press(session.id, "pay_later")).status_code == 303
    waiting = await sandbox.retrieve(session.id)
    assert (waiting.status, waiting.payment_status) == ("complete", "unpaid")
    assert await newest_types(sandbox, 3) == [
        "payment_intent.created",
        "payment_intent.processing",
        "checkout.session.completed",
    ]
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await sandbox.client.v1.refunds.create_async({"payment_intent": waiting.payment_intent})
    assert caught.value.code == "payment_intent_unexpected_state"
    await sandbox.control(f"sessions/{session.id}/delayed_payment", {"outcome": outcome})
    ended = await sandbox.retrieve(session.id)
    intent = await sandbox.client.v1.payment_intents.retrieve_async(ended.payment_intent)
    assert (ended.payment_status, intent.status) == (payment_status, intent_status)
    assert await newest_types(sandbox, 3) == [
        f"charge.{outcome}",
        told,
        f"checkout.session.async_payment_{outcome}",
    ]
    again = f"/_control/sessions/{session.id}/delayed_payment"
    assert (await sandbox.http.post(again, json={"outcome": outcome})).status_code == 409


async def test_a_subscription_is_not_paid_by_bank_debit(sandbox: Sandbox) -> None:
    monthly = {
        "currency": "eur",
        "unit_amount": 999,
        "product_data": {"name": "A plan"},
        "recurring": {"interval": "month"},
    }
    line = {"price_data": monthly, "quantity": 1}
    session = await sandbox.open(mode="subscription", line_items=[line])
    before = await sandbox.state()
    assert (await sandbox.press(session.id, "pay_later")).status_code == 400
    assert (await sandbox.http.post(f"/_control/sessions/{session.id}/pay_later")).status_code == 400
    assert await sandbox.state() == before
    assert (await sandbox.retrieve(session.id)).status == "open"


async def test_a_payment_may_come_out_of_nowhere(sandbox: Sandbox) -> None:
    paid = await sandbox.control("payments", {"amount": 500, "metadata": {"user_id": "7"}})
    intent = await sandbox.client.v1.payment_intents.retrieve_async(paid["id"])
    assert (intent.status, intent.amount_received, intent.metadata.to_dict()) == (
        "succeeded",
        500,
        {"user_id": "7"},
    )
    assert await newest_types(sandbox, 3) == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
    ]
    charge = await sandbox.client.v1.charges.retrieve_async(str(intent.latest_charge))
    for value in (intent, charge):
        assert (missing_fields(value), wrong_types(value)) == ([], [])
    sessions = await sandbox.client.v1.checkout.sessions.list_async({"payment_intent": intent.id})
    assert sessions.data == []
