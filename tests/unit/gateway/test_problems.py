"""Domain errors of the services on the wire."""

import httpx
import pytest
from fastapi import FastAPI

from gateway.errors import KINDS
from services.chassis.errors import (
    Conflict,
    DomainError,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Rejected,
    Unavailable,
)
from services.chassis.http_protocol import REFUSALS

ORDER = "018f0c3e-0000-7000-8000-00000000abcd"


async def answer_to(api: FastAPI, client: httpx.AsyncClient, error: Exception) -> httpx.Response:
    async def fail() -> None:
        raise error

    api.add_api_route("/api/fail", fail)
    return await client.get("/api/fail")


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (
            Rejected("INSUFFICIENT_POINTS", "m", needed=90, available=7, order_id=ORDER),
            402,
            {"code": "insufficient_points", "needed": 90, "available": 7, "orderId": ORDER},
        ),
        (
            Rejected("OUT_OF_STOCK", "m", product_id="42", available=0),
            409,
            {"code": "out_of_stock", "productId": "42", "available": 0},
        ),
        (
            Conflict("PRICE_CHANGED", "m", points=550, price_cents=3999),
            409,
            {"code": "price_changed", "points": 550, "priceCents": 3999},
        ),
        (Conflict("CART_CHANGED", "m", version=8), 412, {"code": "cart_changed", "version": 8}),
        (
            Conflict("ORDER_NOT_CANCELLABLE", "m", status="completed"),
            409,
            {"code": "order_not_cancellable", "currentStatus": "completed", "status": 409},
        ),
        (Invalid("IDEMPOTENCY_KEY_REUSED", "m"), 422, {"code": "idempotency_key_reused"}),
        (Rejected("CART_EMPTY", "m"), 422, {"code": "cart_empty"}),
        (NotFound("ORDER_NOT_FOUND", "m"), 404, {"code": "order_not_found"}),
        (
            Invalid("INVALID_FIELD", "quantity must be 1 to 9", field="product_id"),
            422,
            {
                "code": "invalid_request",
                "errors": [{"field": "productId", "message": "quantity must be 1 to 9"}],
            },
        ),
        # Reasons that the table does not know yet answer by their category.
        (Invalid("NEW_A", "why"), 422, {"code": "new_a", "title": "why"}),
        (Rejected("NEW_B", "why"), 409, {"code": "new_b"}),
        (NotFound("NEW_C", "why"), 404, {"code": "new_c"}),
        (Conflict("NEW_D", "why", limit_cents=5), 409, {"code": "new_d", "limitCents": 5}),
    ],
    ids=lambda value: value.reason if isinstance(value, DomainError) else "",
)
async def test_a_domain_error_keeps_its_reason_and_its_fields(
    api: FastAPI, client: httpx.AsyncClient, error: DomainError, status: int, expected: dict[str, object]
) -> None:
    answer = await answer_to(api, client, error)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert {name: answer.json().get(name) for name in expected} == expected
    assert answer.json()["type"] == f"/docs/errors#{expected['code']}"


async def test_a_detail_that_only_repeats_the_title_is_left_out(
    api: FastAPI, client: httpx.AsyncClient
) -> None:
    error = NotFound("ORDER_NOT_FOUND", "there is no such order")
    problem = (await answer_to(api, client, error)).json()
    assert (problem["title"], "detail" in problem) == ("There is no such order", False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("UNAVAILABLE", "ipv4:10.0.0.7:15051: refused", why="secret"), "service_unavailable"),
        (Unavailable("DATABASE_UNAVAILABLE", "ipv4:10.0.0.7"), "service_unavailable"),
        (Unavailable("BUSY", "ipv4:10.0.0.7"), "busy"),
        (OutcomeUnknown("DEADLINE_EXCEEDED", "ipv4:10.0.0.7"), "outcome_unknown"),
        (OutcomeUnknown("INTERNAL", "KeyError", why="secret"), "outcome_unknown"),
    ],
)
async def test_what_is_away_says_when_to_repeat_and_nothing_of_the_inside(
    api: FastAPI, client: httpx.AsyncClient, error: DomainError, code: str
) -> None:
    answer = await answer_to(api, client, error)
    assert (answer.status_code, answer.json()["code"]) == (503, code)
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json().keys() == {"type", "title", "status", "code", "traceId"}
    assert answer.json()["traceId"] == answer.headers["X-Trace-Id"]


async def test_a_twin_in_flight_says_when_to_repeat(api: FastAPI, client: httpx.AsyncClient) -> None:
    answer = await answer_to(api, client, Conflict("REQUEST_IN_FLIGHT", "m"))
    assert (answer.status_code, answer.headers["Retry-After"]) == (409, "1")


async def test_a_defect_of_ours_is_a_500_that_tells_nothing(api: FastAPI, client: httpx.AsyncClient) -> None:
    answer = await answer_to(api, client, KeyError("secret"))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


def test_every_503_and_only_what_may_be_repeated_says_when() -> None:
    repeatable = {code for code, kind in KINDS.items() if kind.retry_after_seconds}
    others = {"request_in_flight", "too_many_at_once", "too_many_connections"}
    assert repeatable == {code for code, kind in KINDS.items() if kind.status == 503} | others


def test_what_the_server_refuses_by_itself_is_in_the_table() -> None:
    assert {(code, KINDS[code].status, KINDS[code].title) for code, _ in REFUSALS.values()} == {
        (code, status, title) for status, (code, title) in REFUSALS.items()
    }
