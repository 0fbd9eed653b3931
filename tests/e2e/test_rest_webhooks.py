"""Stripe's webhooks through the gateway, and the gateway's own health."""

import httpx


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
