"""Stripe's webhooks through the gateway, and the gateway's own health."""

import hashlib
import hmac
import json
import time

import httpx
import psycopg
import pytest

from deploy.local.ephemeral import RunningStack

_EVENT = {"id": "evt_hostile", "object": "event", "type": "x.y", "created": 1, "livemode": False, "data": {}}
_BODY = json.dumps(_EVENT).encode()


def _sign(stack: RunningStack, body: bytes, *, late_seconds: int = 0, secret: str | None = None) -> bytes:
    at = str(int(time.time()) + late_seconds).encode()
    key = (secret or stack.file.stripe_webhook_secret).encode()
    return b"t=%s,v1=%s" % (at, hmac.new(key, at + b"." + body, hashlib.sha256).hexdigest().encode())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xff\xfe", "invalid_event"),
        (b"[" * 100_000, "invalid_event"),
        (b'"' + b"\\ud800" * 1000 + b'"', "invalid_event"),
        (json.dumps(_EVENT | {"id": "evt_hostile\ud800"}).encode(), "invalid_event"),
        (json.dumps(_EVENT | {"created": 1 << 64}).encode(), "invalid_event"),
        (json.dumps(_EVENT | {"odd": float("nan")}).encode(), "invalid_event"),
        (json.dumps(_EVENT | {"object": "v2.core.event"}).encode(), "invalid_event"),
        (json.dumps(_EVENT | {"livemode": True}).encode(), "wrong_livemode"),
        (json.dumps(_EVENT | {"pad": "x" * 512 * 1024}).encode(), "body_too_large"),
    ],
    ids=["bytes", "deep", "surrogates", "id", "created", "nan", "thin", "live", "large"],
)
async def test_what_stripe_would_never_sign_is_refused_through_the_gateway(
    stack: RunningStack, visitor: httpx.AsyncClient, body: bytes, code: str
) -> None:
    headers = {b"stripe-signature": _sign(stack, body)}
    answer = await visitor.post("/api/webhooks/stripe", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413 if code == "body_too_large" else 400, code)
    assert _kept(stack) == 0


async def test_what_stripe_did_not_sign_is_refused_through_the_gateway(
    stack: RunningStack, visitor: httpx.AsyncClient
) -> None:
    good = _sign(stack, _BODY)
    for signature in (
        _sign(stack, _BODY, late_seconds=400),
        _sign(stack, _BODY, late_seconds=-400),
        _sign(stack, _BODY, secret="whsec_guess"),
        b"\xff" + good,
        good + b"," + good,
        b"t=1," + good,
        b",".join([good.split(b",")[0], *[b"v1=" + b"0" * 64] * 20, good.split(b",")[1]]),
        b"t=" + b"9" * 5000 + b",v1=00",
        b"v1=" * 10_000,
    ):
        headers = {b"stripe-signature": signature}
        answer = await visitor.post("/api/webhooks/stripe", content=_BODY, headers=headers)
        assert answer.status_code == 400, (answer.text, signature[:80])
        assert answer.json()["error"] == "Invalid signature"
    assert _kept(stack) == 0


def _kept(stack: RunningStack) -> int:
    with psycopg.connect(stack.file.database_urls["payments"]) as connection:
        row = connection.execute("SELECT count(*) FROM stripe_events WHERE id LIKE 'evt_hostile%'").fetchone()
    return int(row[0]) if row else 0


async def test_a_bad_signature_is_refused_by_payments(visitor: httpx.AsyncClient) -> None:
    for headers in ({}, {"Stripe-Signature": "t=1,v1=00"}, {"Stripe-Signature": b"\xff"}):
        answer = await visitor.post("/api/webhooks/stripe", content=b'{"id":"evt_1"}', headers=headers)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["error"]) == (400, "Invalid signature")


async def test_a_running_shop_is_ready(visitor: httpx.AsyncClient) -> None:
    assert (await visitor.get("/healthz")).json() == {"status": "ok"}
    assert (await visitor.get("/readyz")).json() == {"status": "ready"}


async def test_the_pages_are_there(visitor: httpx.AsyncClient) -> None:
    for path, words in (
        ("/", "Images, for points or by card."),
        ("/checkout/success", "Your payment is on its way"),
        ("/checkout/cancel", "Nothing was charged."),
        ("/docs/errors", "insufficient_points"),
        ("/docs", "swagger"),
    ):
        answer = await visitor.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/html")
        assert words in answer.text
        assert "{{" not in answer.text
