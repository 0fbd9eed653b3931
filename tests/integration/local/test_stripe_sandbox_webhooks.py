"""Webhooks: signed, repeated until taken, and what the control face does to them; the process itself."""

import asyncio
import json
import signal
import time

import pytest
import stripe

from tests.integration.local.conftest import SECRET, Endpoint, Sandbox, eventually

TOLERANCE_SECONDS = 300


async def test_every_event_arrives_signed_and_as_it_is_stored(sandbox: Sandbox, endpoint: Endpoint) -> None:
    session = await sandbox.open()
    await sandbox.press(session.id, "pay")
    await eventually(lambda: endpoint.about(session.id) == ["checkout.session.completed"], "it arrives")
    headers, body = next(each for each in endpoint.arrived if session.id.encode() in each[1])
    assert stripe.WebhookSignature.verify_header(
        body.decode(), headers["stripe-signature"], SECRET, TOLERANCE_SECONDS
    )
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(
            body.decode(), headers["stripe-signature"], "whsec_other", TOLERANCE_SECONDS
        )
    assert headers["user-agent"] == "Stripe/1.0 (+https://stripe.com/docs/webhooks)"
    arrived = json.loads(body)
    assert (arrived["api_version"], arrived["livemode"]) == ("2026-10-28.endive", False)
    assert arrived["request"] == {"id": None, "idempotency_key": None}
    assert arrived["pending_webhooks"] == 1

    async def is_settled() -> bool:
        stored = await sandbox.client.v1.events.retrieve_async(arrived["id"])
        return bool(stored.to_dict() == arrived | {"pending_webhooks": 0})

    await eventually(is_settled, "pending_webhooks goes down")


async def test_an_event_that_is_not_taken_is_sent_again(own_sandbox: Sandbox) -> None:
    endpoint = own_sandbox.endpoint
    session = await own_sandbox.open()
    endpoint.answers = [500, 302, 400, 503]
    await own_sandbox.control(f"sessions/{session.id}/expire_now")
    began = time.monotonic()
    await eventually(lambda: len(endpoint.arrived) == 5, "the fifth attempt")
    # 0.5 + 1 + 2 + 4 s of waiting.
    assert 7 <= time.monotonic() - began < 12
    assert len({body for _, body in endpoint.arrived}) == 1

    async def is_delivered() -> bool:
        return bool((await own_sandbox.state())["deliveries"]["delivered"] == 1)

    await eventually(is_delivered, "it counts as delivered")


async def test_a_killed_sandbox_loses_nothing_and_goes_on_delivering(own_sandbox: Sandbox) -> None:
    endpoint, key = own_sandbox.endpoint, "a-key"
    session = await own_sandbox.open(key=key)
    endpoint.answers = [500] * 4
    await own_sandbox.press(session.id, "pay")
    await eventually(lambda: len(endpoint.arrived) >= 4, "four refused events")
    before = (await own_sandbox.retrieve(session.id)).to_dict()
    assert own_sandbox.process.end(signal.SIGKILL) == -signal.SIGKILL
    await own_sandbox.process.start()
    assert (await own_sandbox.retrieve(session.id)).to_dict() == before
    replayed = await own_sandbox.open(key=key)
    assert replayed.to_dict() == session.to_dict()
    await eventually(lambda: len({body["id"] for body in endpoint.bodies()[4:]}) == 4, "all of them again")


async def test_held_webhooks_wait_for_the_flush_even_through_a_restart(own_sandbox: Sandbox) -> None:
    endpoint = own_sandbox.endpoint
    await own_sandbox.control("webhooks", {"mode": "hold"})
    session = await own_sandbox.open()
    await own_sandbox.press(session.id, "pay")
    own_sandbox.process.end(signal.SIGKILL)
    await own_sandbox.process.start()
    state = await own_sandbox.state()
    assert (state["webhooks"], state["deliveries"]["held"], endpoint.arrived) == ("hold", 4, [])
    assert await own_sandbox.control("webhooks/flush") == {"released": 4}
    await eventually(lambda: len(endpoint.arrived) == 4, "all four arrive")


async def test_dropped_webhooks_never_arrive_but_are_listed(own_sandbox: Sandbox) -> None:
    await own_sandbox.control("webhooks", {"mode": "drop"})
    session = await own_sandbox.open()
    await own_sandbox.press(session.id, "pay")
    await own_sandbox.control("webhooks", {"mode": "deliver"})
    await own_sandbox.control("webhooks/flush")
    other = await own_sandbox.open()
    await own_sandbox.control(f"sessions/{other.id}/expire_now")
    await eventually(lambda: len(own_sandbox.endpoint.arrived) == 1, "the next event arrives")
    assert own_sandbox.endpoint.about(session.id) == []
    assert [event.type for event in await own_sandbox.events_of(session.id)] == ["checkout.session.completed"]
    assert (await own_sandbox.state())["deliveries"]["dropped"] == 4


async def test_fifty_copies_of_one_event_at_once(sandbox: Sandbox, endpoint: Endpoint) -> None:
    await sandbox.control("webhooks", {"mode": "drop"})
    session = await sandbox.open()
    await sandbox.press(session.id, "pay")
    (event,) = await sandbox.events_of(session.id)
    answer = await sandbox.control(f"events/{event.id}/deliver?copies=50")
    assert answer == {"statuses": [200] * 50}
    assert endpoint.about(session.id) == ["checkout.session.completed"] * 50
    assert (await sandbox.client.v1.events.retrieve_async(event.id)).pending_webhooks == 0
    assert (await sandbox.http.post("/_control/events/evt_none/deliver")).status_code == 404
    assert (await sandbox.http.post(f"/_control/events/{event.id}/deliver?copies=0")).status_code == 400
    assert (await sandbox.http.post("/_control/webhooks", json={"mode": "x"})).status_code == 400


async def test_sigterm_ends_it_soon_even_while_a_call_hangs(own_sandbox: Sandbox) -> None:
    fault = {"path": "/v1/checkout/sessions", "kind": "timeout_before_effect", "delay_ms": 30_000}
    await own_sandbox.control("faults", fault)
    hanging = asyncio.create_task(own_sandbox.open())

    async def is_taken() -> bool:
        return bool((await own_sandbox.state())["faults"] == 0)

    await eventually(is_taken, "the call hangs")
    began = time.monotonic()
    assert await asyncio.to_thread(own_sandbox.process.end, signal.SIGTERM) == 0
    assert time.monotonic() - began < 10  # of the 30 s that the call hangs
    with pytest.raises(stripe.StripeError):
        await hanging
