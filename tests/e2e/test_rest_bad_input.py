"""Whatever is sent, the answer is a problem that says so, and nothing of the customer's changes."""

import json
from itertools import product

import httpx
import pytest

from tests.e2e.rest_client import Customer

ID = "01920000-0000-7000-8000-000000000001"
UNKNOWN = "01920000-0000-7000-8000-00000000ffff"
ODD: list[object] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        2**31,
        2**63,
        -(2**63),
        10**400,
        "",
        "points",
        "stripe",
        "\x00",
        "é" * 300,
    ),
    *("' OR 1=1 --", "../../etc/passwd", ID, ID.upper(), f"{{{ID}}}", [], [[]], {}, [None], [{}]),
    [{"productId": ID}],
    [{"productId": ID, "quantity": 0}],
    [{"productId": ID, "quantity": 10**9}],
    [{"productId": ID, "quantity": 1, "price": -1}],
    [{"productId": ID, "quantity": 1}] * 101,
    {"productId": ID, "quantity": 1},
]
ROUTES = {
    ("POST", "/api/checkout"): ("paymentMethod", "items"),
    ("POST", "/api/checkout/points"): ("packageId", "points", "price"),
    ("PUT", "/api/cart"): ("items",),
    ("PUT", f"/api/cart/items/{ID}"): ("quantity",),
    ("POST", "/api/subscriptions"): ("planId",),
}
OPERATORS_ROUTES = {
    ("POST", "/api/admin/points/adjustments"): ("userId", "points", "reason"),
    ("POST", "/api/admin/stripe/events/evt_unknown/replay"): ("reason",),
    ("POST", "/api/admin/stripe/events/replay"): ("ids", "reason"),
    ("POST", "/api/admin/stripe/events/replay?"): ("type", "status", "since", "reason"),
    ("POST", f"/api/admin/quarantine/{ID}/fulfil"): ("reason",),
    ("POST", f"/api/admin/quarantine/{ID}/refund"): ("reason",),
    ("POST", "/api/admin/reconciliations"): ("since",),
    ("PATCH", f"/api/admin/products/{UNKNOWN}"): (
        *("title", "description", "priceCents", "pricePoints", "assetKey", "active", "reason"),
    ),
    ("POST", f"/api/admin/products/{UNKNOWN}/stock"): ("delta", "reason", "note"),
}
VALID = {
    "paymentMethod": "points",
    "items": [{"productId": ID, "quantity": 1}],
    "packageId": "nothing",
    "quantity": 1,
    "planId": "nothing",
    "userId": ID,
    "points": 1,
    "reason": "a test",
    "ids": ["evt_unknown"],
    "type": "nothing.*",
    "status": "ignored",
    "since": "2026-01-01T00:00:00Z",
    "title": "A picture",
    "description": "",
    "priceCents": 100,
    "pricePoints": 1,
    "assetKey": "x",
    "delta": 1,
    "note": "a test",
}
ODD_IDS = ("%00", "%ff", "..%2f..", "-1", "null", "%7B%7D", "x" * 5000, ID[:-1], ID + "0", f"{ID}%0a")
ODD_QUERIES = {
    "type": ("\0", "*", "%", "x" * 300, "\ud7ff", "' OR 1=1 --"),
    "status": ("", "\0", "PARKED", "1", "unspecified"),
    "search": ("\0", "%", "x" * 300, "\n", "é"),
    "since": (
        *("", "\0", "now", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00"),
        *("9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z", "1e400", "NaN", "9" * 400, "-1"),
    ),
    "limit": ("0", "101", "x", "9" * 400),
    "cursor": ("x", "\0", "b" * 600, "AA", "ZXZ0X3g"),
}


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=" ".join)
async def test_odd_values_are_never_our_defect(customer: Customer, method: str, path: str) -> None:
    """None of these customers has points, so that even a valid order ends with 402."""
    await send_odd_values(customer, method, path, ROUTES[method, path])
    assert (await customer.profile())["points"] == 0


@pytest.mark.parametrize(("method", "path"), OPERATORS_ROUTES)
async def test_odd_values_of_operators_are_never_our_defect(
    operator: Customer, method: str, path: str
) -> None:
    await send_odd_values(operator, method, path, OPERATORS_ROUTES[method, path])


async def send_odd_values(somebody: Customer, method: str, path: str, fields: tuple[str, ...]) -> None:
    """Each field with each odd value, the others valid."""
    for field, value in product(fields, ODD):
        body = {name: VALID[name] for name in fields if name in VALID} | {field: value}
        answer = await somebody.http.request(
            method, path, content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code < 500, (body, answer.text)


async def test_odd_filters_of_operators_are_never_our_defect(operator: Customer) -> None:
    for path, names in (
        ("/api/admin/stripe/events", ODD_QUERIES.keys()),
        ("/api/admin/quarantine", ("status", "limit", "cursor")),
        ("/api/admin/products", ("search", "limit", "cursor")),
        (f"/api/admin/products/{ID}/stock/movements", ("limit", "cursor")),
        ("/api/products", ("search", "type", "limit", "cursor")),
        ("/api/admin/sagas", ("status", "limit", "cursor")),
    ):
        for name in names:
            for odd in ODD_QUERIES[name]:
                answer = await operator.http.get(path, params={name: odd})
                assert answer.status_code in (200, 422), (path, name, odd, answer.text)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/admin/stripe/events/{}"),
        ("POST", "/api/admin/stripe/events/{}/replay"),
        ("POST", "/api/admin/quarantine/{}/fulfil"),
        ("POST", "/api/admin/quarantine/{}/refund"),
        ("GET", "/api/admin/reconciliations/{}"),
        ("GET", "/api/admin/products/{}"),
        ("DELETE", "/api/admin/products/{}"),
        ("POST", "/api/admin/products/{}/stock"),
        ("GET", "/api/admin/orders/{}"),
        ("POST", "/api/admin/orders/{}/refunds"),
    ],
)
async def test_odd_ids_of_operators_are_never_our_defect(operator: Customer, method: str, path: str) -> None:
    for odd in (*ODD_IDS, "evt_", "evt_x%00", "evt_x%0a", "evt_" + "x" * 252, "evt_%C3%A9"):
        answer = await operator.http.request(method, path.format(odd))
        assert answer.status_code == 404, (odd, answer.text)


@pytest.mark.parametrize(
    "path",
    [
        *("/api/orders/{}", "/api/checkouts/{}", "/api/products/{}", "/api/cart/items/{}"),
        "/api/subscriptions/{}",
    ],
)
async def test_odd_ids_are_never_our_defect(customer: Customer, path: str) -> None:
    for odd in ODD_IDS:
        method = "DELETE" if "cart" in path else "GET"
        answer = await customer.http.request(method, path.format(odd))
        assert answer.status_code == 404, (odd, answer.text)


async def test_a_stranger_sees_nothing_of_anybody(visitor: httpx.AsyncClient, customer: Customer) -> None:
    for path in ("/api/profile", "/api/cart", "/api/orders", "/api/points/transactions", f"/api/orders/{ID}"):
        answer = await visitor.get(path)
        assert (answer.status_code, answer.json()["code"]) == (401, "missing_token")
        forged = await visitor.get(path, headers={"Authorization": f"Bearer {'x' * 50}.e30.x"})
        assert (forged.status_code, forged.json()["code"]) == (401, "invalid_token")
        assert (await customer.http.get(path)).status_code in (200, 404)
