"""Idempotency keys and the accidents that the control face scripts."""

import asyncio
import time
from typing import Any
from uuid import uuid4

import pytest
import stripe

from tests.integration.local.conftest import Endpoint, Sandbox, eventually

CREATE = "/v1/checkout/sessions"


def replayed(answer: Any) -> bool:
    return bool(answer.last_response.headers.get("idempotent-replayed") == "true")


def error_of(error: stripe.StripeError) -> Any:
    """The error object as it came: the client reads the code of some statuses only."""
    body: Any = error.json_body
    return body["error"]


async def fault(sandbox: Sandbox, kind: str, **more: Any) -> None:
    await sandbox.control("faults", {"path": CREATE, "method": "POST", "kind": kind, **more})


async def sessions_of(sandbox: Sandbox, reference: str) -> list[Any]:
    listed = await sandbox.sessions.list_async({"limit": 100})
    return [session for session in listed.data if session.client_reference_id == reference]


async def test_the_same_key_and_parameters_replay_the_answer(sandbox: Sandbox) -> None:
    key = str(uuid4())
    first = await sandbox.open(key=key, client_reference_id=key)
    await sandbox.press(first.id, "pay")
    again = await sandbox.open(key=key, client_reference_id=key)
    assert again.to_dict() == first.to_dict()
    assert (replayed(first), replayed(again)) == (False, True)
    assert len(await sessions_of(sandbox, key)) == 1


async def test_the_same_key_with_other_parameters_or_elsewhere_is_refused(sandbox: Sandbox) -> None:
    key = str(uuid4())
    session = await sandbox.open(key=key, client_reference_id="one")
    for call in (
        sandbox.open(key=key, client_reference_id="two"),
        sandbox.sessions.expire_async(session.id, None, {"idempotency_key": key}),
    ):
        with pytest.raises(stripe.IdempotencyError) as caught:
            await call
        assert (caught.value.http_status, error_of(caught.value)["type"]) == (400, "idempotency_error")
    assert (await sandbox.retrieve(session.id)).status == "open"


async def test_refused_parameters_do_not_use_the_key_up(sandbox: Sandbox) -> None:
    key = str(uuid4())
    with pytest.raises(stripe.InvalidRequestError):
        await sandbox.open(key=key, nonsense="1")
    assert not replayed(await sandbox.open(key=key))


async def test_a_refusal_past_the_parameters_is_kept(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    await sandbox.sessions.expire_async(session.id)
    for expected in (None, "true"):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await sandbox.sessions.expire_async(session.id, None, {"idempotency_key": f"e-{session.id}"})
        assert caught.value.http_status == 400
        assert (caught.value.headers or {}).get("idempotent-replayed") == expected


async def test_a_key_of_more_than_255_characters_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(stripe.IdempotencyError):
        await sandbox.open(key="k" * 256)


async def test_forgotten_keys_create_again(sandbox: Sandbox) -> None:
    key = str(uuid4())
    first = await sandbox.open(key=key)
    await sandbox.control("forget_idempotency_keys")
    second = await sandbox.open(key=key)
    assert first.id != second.id
    assert not replayed(second)


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (409, stripe.APIError, "idempotency_key_in_use"),
        (429, stripe.RateLimitError, "rate_limit"),
        (503, stripe.APIError, None),
        (402, stripe.CardError, "card_declined"),
    ],
)
async def test_a_scripted_status_has_no_effect(
    sandbox: Sandbox, status: int, error: type[stripe.StripeError], code: str | None
) -> None:
    key = str(uuid4())
    await fault(sandbox, "status", status=status, count=2)
    for _ in range(2):
        with pytest.raises(error) as caught:
            await sandbox.open(key=key if status != 402 else None, client_reference_id=key)
        assert (caught.value.http_status, error_of(caught.value).get("code")) == (status, code)
    assert await sessions_of(sandbox, key) == []
    assert not replayed(await sandbox.open(key=key, client_reference_id=key))


@pytest.mark.parametrize(("kind", "sessions"), [("status", 0), ("error_after_effect", 1)])
async def test_a_stored_500_replays(sandbox: Sandbox, kind: str, sessions: int) -> None:
    key = str(uuid4())
    await fault(sandbox, kind, status=500)
    for expected in (None, "true"):
        with pytest.raises(stripe.APIError) as caught:
            await sandbox.open(key=key, client_reference_id=key)
        assert caught.value.http_status == 500
        assert (caught.value.headers or {}).get("idempotent-replayed") == expected
    assert len(await sessions_of(sandbox, key)) == sessions


async def test_an_answer_that_breaks_off_leaves_its_effect(sandbox: Sandbox) -> None:
    key, before = str(uuid4()), (await sandbox.state())["fired"].get("cut_after_effect", 0)
    await fault(sandbox, "cut_after_effect")
    with pytest.raises(stripe.APIConnectionError):
        await sandbox.open(key=key, client_reference_id=key)
    assert len(await sessions_of(sandbox, key)) == 1
    answer = await sandbox.open(key=key, client_reference_id=key)
    assert (replayed(answer), answer.client_reference_id) == (True, key)
    assert len(await sessions_of(sandbox, key)) == 1
    assert (await sandbox.state())["fired"]["cut_after_effect"] == before + 1


@pytest.mark.parametrize(("kind", "sessions"), [("timeout_before_effect", 0), ("timeout_after_effect", 1)])
async def test_after_a_timeout_the_same_key_settles_it(sandbox: Sandbox, kind: str, sessions: int) -> None:
    key = str(uuid4())
    await fault(sandbox, kind)
    began = time.monotonic()
    with pytest.raises(stripe.APIConnectionError):
        await sandbox.open(key=key, client_reference_id=key)
    assert time.monotonic() - began > 4
    assert len(await sessions_of(sandbox, key)) == sessions
    answer = await sandbox.open(key=key, client_reference_id=key)
    assert replayed(answer) == bool(sessions)
    assert len(await sessions_of(sandbox, key)) == 1


async def test_a_webhook_can_overtake_the_answer(sandbox: Sandbox, endpoint: Endpoint) -> None:
    key = str(uuid4())
    await fault(sandbox, "webhook_before_answer")
    session = await sandbox.open(key=key, client_reference_id=key)
    # The answer is of the moment before the customer paid, and the webhook is there already.
    assert session.status == "open"
    assert endpoint.about(session.id) == ["checkout.session.completed"]
    assert (await sandbox.retrieve(session.id)).payment_status == "paid"


async def test_a_key_in_use_is_409(sandbox: Sandbox) -> None:
    key = str(uuid4())
    await sandbox.control("webhooks", {"mode": "hold"})
    await fault(sandbox, "webhook_before_answer", delay_ms=3_000)
    running = asyncio.create_task(sandbox.open(key=key, client_reference_id=key))

    async def exists() -> bool:
        return bool(await sessions_of(sandbox, key))

    await eventually(exists, "the session is made")
    with pytest.raises(stripe.APIError) as caught:
        await sandbox.open(key=key, client_reference_id=key)
    assert (caught.value.http_status, error_of(caught.value).get("code")) == (409, "idempotency_key_in_use")
    await sandbox.control("webhooks/flush")
    session = await running
    assert replayed(await sandbox.open(key=key, client_reference_id=key))
    assert [found.id for found in await sessions_of(sandbox, key)] == [session.id]


async def test_faults_match_a_pattern_and_can_be_cleared(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    await sandbox.control(
        "faults", {"path": f"{CREATE}/*/expire", "kind": "status", "status": 429, "count": 9}
    )
    with pytest.raises(stripe.RateLimitError):
        await sandbox.sessions.expire_async(session.id)
    assert (await sandbox.state())["faults"] == 8
    await sandbox.http.delete("/_control/faults")
    assert (await sandbox.sessions.expire_async(session.id)).status == "expired"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{}", b'{"path":"/","kind":"nonsense"}', b'{"path":"/","kind":"status","x":1}']
)
async def test_a_fault_that_makes_no_sense_is_400(sandbox: Sandbox, body: bytes) -> None:
    assert (await sandbox.http.post("/_control/faults", content=body)).status_code == 400
