"""What bad input gets: a clear problem with a stable code, before any service is asked."""

import json
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from tests.unit.gateway.conftest import TokenMaker

JSON = {"Content-Type": "application/json"}
PRODUCT = str(uuid4())
UNKNOWN = "01920000-0000-7000-8000-00000000ffff"


def line(**changes: object) -> dict[str, object]:
    return {"productId": PRODUCT, "quantity": 1, **changes}


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe\xfa",
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b"1" * 5_000,
        b'{"paymentMethod":"points"} trailing',
        b"\x00{}",
    ],
    ids=["cut", "no text", "nested lists", "nested objects", "long number", "trailing", "nul"],
)
async def test_what_is_not_json_is_a_400(
    client: httpx.AsyncClient, signed_in: dict[str, str], content: bytes
) -> None:
    answer = await client.post("/api/checkout", content=content, headers=signed_in | JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{}", "paymentMethod"),
        ("[]", "body"),
        ("null", "body"),
        ('{"paymentMethod":"gold"}', "paymentMethod"),
        ('{"paymentMethod":null}', "paymentMethod"),
        ('{"paymentMethod":"points","items":[]}', "items"),
        # Each would buy the whole cart otherwise.
        ('{"paymentMethod":"points","items":null}', "items"),
        ('{"paymentMethod":"points","item":[]}', "item"),
        ('{"paymentMethod":"points","Items":[]}', "Items"),
        ('{"paymentMethod":"points","items":{}}', "items"),
        ('{"paymentMethod":"points","items":[{"productId":"%s"}]}', "items.0.quantity"),
        ('{"paymentMethod":"points","items":[{"productId":"7","quantity":1}]}', "items.0.productId"),
        (r'{"paymentMethod":"points","items":[{"productId":"\ud800","quantity":1}]}', "items.0.productId"),
        (r'{"paymentMethod":"points","items":[{"productId":"%s\n","quantity":1}]}', "items.0.productId"),
        *(
            (
                f'{{"paymentMethod":"points","items":[{{"productId":"%s","quantity":{quantity}}}]}}',
                "items.0.quantity",
            )
            for quantity in ("0", "-1", "1001", "1e400", "1.0", "true", '"1"', "null", "NaN", "9" * 400)
        ),
    ],
)
async def test_a_checkout_that_is_not_valid_names_the_field(
    client: httpx.AsyncClient, signed_in: dict[str, str], body: str, field: str
) -> None:
    content = body.replace("%s", PRODUCT)
    answer = await client.post("/api/checkout", content=content, headers=signed_in | JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        # Each would give back or replay everything otherwise, or change nothing.
        ("orders/{}/refunds", {"item": [], "reason": "x"}, "item"),
        ("orders/{}/refunds", {"items": None, "reason": "x"}, "items"),
        (
            "stripe/events/replay",
            {"type": "x.*", "sinse": "2026-01-01T00:00:00Z", "reason": "x"},
            "sinse",
        ),
        *(
            ("stripe/events/replay", {"since": since, "reason": "x"}, "since")
            for since in (0, 0.0, "0", "1767225600", 1767225600, True, "1970-01-01T00:00:00Z", "2026-01-01")
        ),
        ("reconciliations", {"since": 0}, "since"),
        ("products", {"title": "x", "priceCents": 5, "assetKey": "x", "stok": 3}, "stok"),
        ("products/{}/stock", {"delta": 1, "reason": "received", "nte": "x"}, "nte"),
        ("points/adjustments", {"userId": UNKNOWN, "points": 1, "reason": "x", "pionts": 5}, "pionts"),
    ],
)
async def test_what_an_operator_misspells_is_not_taken_for_everything(
    client: httpx.AsyncClient, make_token: TokenMaker, path: str, body: dict[str, object], field: str
) -> None:
    headers = {"Authorization": f"Bearer {make_token(app_metadata={'role': 'operator'})}"}
    answer = await client.post(
        f"/api/admin/{path.format(PRODUCT)}", content=json.dumps(body), headers=headers | JSON
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("field", ["title", "description", "assetKey", "reason"])
async def test_half_a_surrogate_pair_is_no_text(
    client: httpx.AsyncClient, make_token: TokenMaker, field: str
) -> None:
    headers = {"Authorization": f"Bearer {make_token(app_metadata={'role': 'operator'})}"}
    product = {"title": "A picture", "priceCents": 500, "assetKey": "x", field: "\ud800"}
    answer = await client.post("/api/admin/products", content=json.dumps(product), headers=headers | JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "packageId"),
        ({"packageId": ""}, "packageId"),
        ({"packageId": "a\x00b"}, "packageId"),
        ({"packageId": "x" * 65}, "packageId"),
        ({"packageId": "basic", "points": "100"}, "points"),
        ({"packageId": "basic", "price": 9.99}, "price"),
        ({"packageId": "basic", "price": True}, "price"),
        ({"packageId": "basic", "points": 2**63}, "points"),
    ],
)
async def test_a_points_checkout_that_is_not_valid_names_the_field(
    client: httpx.AsyncClient, signed_in: dict[str, str], body: dict[str, object], field: str
) -> None:
    answer = await client.post("/api/checkout/points", json=body, headers=signed_in)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    "plan", [None, 0, 10**400, "", "a\x00b", "\u00e9", "x" * 65, ["monthly"], {}], ids=str
)
async def test_a_plan_that_cannot_be_one_is_refused(
    client: httpx.AsyncClient, signed_in: dict[str, str], plan: object
) -> None:
    content = json.dumps({"planId": plan})
    answer = await client.post("/api/subscriptions", content=content, headers=signed_in | JSON)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "planId")


async def test_too_many_lines_are_refused(client: httpx.AsyncClient, signed_in: dict[str, str]) -> None:
    answer = await client.put("/api/cart", json={"items": [line() for _ in range(101)]}, headers=signed_in)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "items")


async def test_fields_that_we_do_not_know_are_ignored(
    client: httpx.AsyncClient, signed_in: dict[str, str]
) -> None:
    answer = await client.put("/api/cart", json={"items": [line(title="x")], "total": 3}, headers=signed_in)
    assert answer.json()["code"] == "service_unavailable"


@pytest.mark.parametrize(
    "media_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
async def test_a_body_that_is_not_declared_as_json_is_a_415(
    client: httpx.AsyncClient, signed_in: dict[str, str], media_type: str | None
) -> None:
    headers = signed_in | ({"Content-Type": media_type} if media_type else {})
    answer = await client.post("/api/checkout", content=b'{"paymentMethod":"points"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "Application/JSON", "application/merge-patch+json"]
)
async def test_json_may_be_declared_in_any_of_its_ways(
    client: httpx.AsyncClient, signed_in: dict[str, str], media_type: str
) -> None:
    headers = signed_in | {"Content-Type": media_type}
    answer = await client.post("/api/checkout", content=b"{}", headers=headers)
    assert answer.json()["code"] == "invalid_request"


@pytest.mark.parametrize(
    ("path", "limit"), [("/api/checkout", 64 * 1024), ("/api/webhooks/stripe", 512 * 1024)]
)
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_an_oversize_body_is_a_413(
    client: httpx.AsyncClient, signed_in: dict[str, str], path: str, limit: int, chunked: bool
) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, 10_000):
            yield b"[" * min(10_000, size - start)

    def content(size: int) -> bytes | AsyncIterator[bytes]:
        return chunks(size) if chunked else b"[" * size

    over = await client.post(path, content=content(limit + 1), headers=signed_in | JSON)
    assert (over.status_code, over.json()["code"]) == (413, "body_too_large")
    fits = await client.post(path, content=content(limit), headers=signed_in | JSON)
    assert fits.status_code != 413


async def test_a_body_that_is_declared_too_large_is_not_even_read(
    client: httpx.AsyncClient, signed_in: dict[str, str]
) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    headers = signed_in | JSON | {"Content-Length": "65537"}
    answer = await client.post("/api/checkout", content=never(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "ключ"])
async def test_an_unusable_idempotency_key_is_refused(
    client: httpx.AsyncClient, signed_in: dict[str, str], key: str
) -> None:
    headers = {**signed_in, "Idempotency-Key": key.encode()}
    for path, body in (
        ("/api/checkout", {"paymentMethod": "points"}),
        ("/api/checkout/points", {"packageId": "x"}),
    ):
        answer = await client.post(path, json=body, headers=headers)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_idempotency_key")


async def test_an_answer_names_the_key_that_is_in_use(
    client: httpx.AsyncClient, signed_in: dict[str, str]
) -> None:
    """A client that heard "unknown" must be able to repeat, also when it sent no key."""
    body = {"paymentMethod": "points"}
    given = await client.post("/api/checkout", json=body, headers=signed_in | {"Idempotency-Key": "my key"})
    assert (given.status_code, given.headers["Idempotency-Key"]) == (503, "my key")
    minted = [
        (await client.post("/api/checkout", json=body, headers=signed_in)).headers["Idempotency-Key"]
        for _ in range(2)
    ]
    assert len(set(minted)) == 2
    assert all(minted)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/orders/7", "order_not_found"),
        ("POST", "/api/orders/7/cancel", "order_not_found"),
        ("GET", "/api/checkouts/cs_test", "checkout_not_found"),
        ("GET", "/api/products/7", "product_not_found"),
        ("PUT", "/api/cart/items/7", "product_not_found"),
        ("DELETE", "/api/cart/items/%00", "route_not_found"),
        ("GET", "/api/nothing", "route_not_found"),
        ("GET", "/api/cart/", "route_not_found"),
    ],
)
async def test_what_cannot_be_an_id_is_not_found_before_the_body_is_looked_at(
    client: httpx.AsyncClient, signed_in: dict[str, str], method: str, path: str, code: str
) -> None:
    answer = await client.request(method, path, content=b"{", headers=signed_in | JSON)
    assert (answer.status_code, answer.json()["code"]) == (404, code)


async def test_a_wrong_method_lists_the_right_ones(client: httpx.AsyncClient) -> None:
    answer = await client.patch("/api/cart")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "DELETE, GET, PUT"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        *((f"limit={limit}", "invalid_limit") for limit in ("0", "101", "-1", "x", "", "1.5", "9" * 30)),
        (f"cursor={'x' * 513}", "invalid_cursor"),
    ],
)
@pytest.mark.parametrize("path", ["/api/orders", "/api/points/transactions", "/api/products"])
async def test_a_page_that_cannot_be_is_refused(
    client: httpx.AsyncClient, signed_in: dict[str, str], path: str, query: str, code: str
) -> None:
    answer = await client.get(f"{path}?{query}", headers=signed_in)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


@pytest.mark.parametrize("tag", ["7", 'W/"7"', '"x"', '""', '"7", "8"', '"' + "9" * 30 + '"'])
async def test_an_if_match_that_names_no_version_is_refused(
    client: httpx.AsyncClient, signed_in: dict[str, str], tag: str
) -> None:
    answer = await client.delete("/api/cart", headers=signed_in | {"If-Match": tag})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_if_match")
