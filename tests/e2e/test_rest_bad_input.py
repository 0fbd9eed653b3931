"""Whatever is sent, the answer is a problem that says so, and nothing of the customer's changes."""

import json
from itertools import product

import httpx
import pytest

from tests.e2e.rest_client import Customer

ID = "01920000-0000-7000-8000-000000000001"
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
}
VALID = {
    "paymentMethod": "points",
    "items": [{"productId": ID, "quantity": 1}],
    "packageId": "nothing",
    "quantity": 1,
}


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=" ".join)
async def test_odd_values_are_never_our_defect(customer: Customer, method: str, path: str) -> None:
    """None of these customers has points, so that even a valid order ends with 402."""
    for field, value in product(ROUTES[method, path], ODD):
        body = {name: VALID[name] for name in ROUTES[method, path] if name in VALID} | {field: value}
        answer = await customer.http.request(
            method, path, content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code < 500 or answer.json()["code"] != "internal_error", (body, answer.text)
        assert answer.status_code < 500, (body, answer.text)
    assert (await customer.profile())["points"] == 0


@pytest.mark.parametrize(
    "path", ["/api/orders/{}", "/api/checkouts/{}", "/api/products/{}", "/api/cart/items/{}"]
)
async def test_odd_ids_are_never_our_defect(customer: Customer, path: str) -> None:
    for odd in ("%00", "%ff", "..%2f..", "-1", "null", "%7B%7D", "x" * 5000, ID[:-1], ID + "0", f"{ID}%0a"):
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
