"""The cart over REST: versions, merging, and whose it is."""

from typing import Any
from uuid import uuid4

import psycopg

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import Customer


async def some_products(customer: Customer, count: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await customer.read("/api/products?limit=50"))["items"]
    return [product for product in items if product["pricePoints"]][:count]


def lines(cart: dict[str, Any]) -> dict[str, int]:
    return {item["productId"]: item["quantity"] for item in cart["items"]}


async def test_a_cart_is_filled_changed_and_emptied(customer: Customer) -> None:
    first, second = await some_products(customer, 2)
    empty = await customer.read("/api/cart")
    assert (empty["items"], empty["totalCents"], empty["totalPoints"]) == ([], 0, 0)

    await customer.http.put(f"/api/cart/items/{first['id']}", json={"quantity": 2})
    answer = await customer.http.put(f"/api/cart/items/{second['id']}", json={"quantity": 1})
    cart = answer.json()
    assert answer.headers["ETag"] == f'"{cart["version"]}"'
    assert lines(cart) == {first["id"]: 2, second["id"]: 1}
    assert cart["totalCents"] == 2 * first["priceCents"] + second["priceCents"]
    assert cart["totalPoints"] == 2 * first["pricePoints"] + second["pricePoints"]
    assert cart["items"][0].keys() == {
        *("productId", "quantity", "title", "priceCents", "pricePoints", "priceChanged", "available")
    }

    removed = await customer.http.delete(f"/api/cart/items/{first['id']}")
    assert lines(removed.json()) == {second["id"]: 1}
    assert (await customer.http.delete("/api/cart")).json()["items"] == []


async def test_merging_keeps_the_larger_quantity(customer: Customer) -> None:
    first, second = await some_products(customer, 2)
    await customer.http.put(f"/api/cart/items/{first['id']}", json={"quantity": 5})
    merged = await customer.http.put(
        "/api/cart",
        json={
            "items": [{"productId": first["id"], "quantity": 2}, {"productId": second["id"], "quantity": 3}]
        },
    )
    assert lines(merged.json()) == {first["id"]: 5, second["id"]: 3}


async def test_a_stale_change_is_refused_and_changes_nothing(customer: Customer) -> None:
    [product] = await some_products(customer, 1)
    path = f"/api/cart/items/{product['id']}"
    tag = (await customer.http.put(path, json={"quantity": 1})).headers["ETag"]
    newer = await customer.http.put(path, json={"quantity": 2}, headers={"If-Match": tag})
    assert newer.status_code == 200
    for stale in (
        await customer.http.put(path, json={"quantity": 9}, headers={"If-Match": tag}),
        await customer.http.delete(path, headers={"If-Match": tag}),
        await customer.http.delete("/api/cart", headers={"If-Match": tag}),
        await customer.http.put("/api/cart", json={"items": []}, headers={"If-Match": tag}),
    ):
        assert (stale.status_code, stale.json()["code"]) == (412, "cart_changed")
        assert stale.json()["version"] == newer.json()["version"]
    assert await customer.read("/api/cart") == newer.json()
    assert (await customer.http.delete("/api/cart", headers={"If-Match": "*"})).status_code == 200


async def test_an_unknown_product_cannot_be_put_in(customer: Customer) -> None:
    answer = await customer.http.put(f"/api/cart/items/{uuid4()}", json={"quantity": 1})
    assert (answer.status_code, answer.json()["code"]) == (404, "product_not_found")


async def test_lines_that_sum_up_to_too_many_pieces_are_refused(customer: Customer) -> None:
    [product] = await some_products(customer, 1)
    line = {"productId": product["id"], "quantity": 600}
    answer = await customer.http.put("/api/cart", json={"items": [line, line]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_quantity")


async def test_carts_are_private(customer: Customer, other: Customer) -> None:
    [product] = await some_products(customer, 1)
    await customer.http.put(f"/api/cart/items/{product['id']}", json={"quantity": 1})
    assert (await other.read("/api/cart"))["items"] == []


async def test_an_empty_cart_has_the_shops_currency(customer: Customer) -> None:
    """Intl.NumberFormat takes no empty one."""
    [product] = await some_products(customer, 1)
    assert (await customer.read("/api/cart"))["currency"] == product["currency"]


async def test_a_cart_with_a_line_that_is_not_for_points_has_no_total_of_points(
    stack: RunningStack, customer: Customer
) -> None:
    [product] = await some_products(customer, 1)
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        [(by_card,)] = connection.execute(
            "WITH p AS (INSERT INTO products (title, type, price_cents, price_points, currency, asset_key)"
            " VALUES ('For money', 'digital', 499, 0, 'usd', 'samples/01.png') RETURNING id)"
            " INSERT INTO product_inventory (product_id) SELECT id FROM p RETURNING product_id"
        ).fetchall()
    await customer.http.put(f"/api/cart/items/{product['id']}", json={"quantity": 2})
    cart = (await customer.http.put(f"/api/cart/items/{by_card}", json={"quantity": 1})).json()
    assert (cart["totalPoints"], cart["totalCents"]) == (None, 2 * product["priceCents"] + 499)
    await customer.http.delete(f"/api/cart/items/{by_card}")
    assert (await customer.read("/api/cart"))["totalPoints"] == 2 * product["pricePoints"]


async def test_merging_leaves_out_what_is_not_sold_any_more(stack: RunningStack, customer: Customer) -> None:
    [product] = await some_products(customer, 1)
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        [(retired,)] = connection.execute(
            "INSERT INTO products (title, type, price_cents, price_points, currency, asset_key, active)"
            " VALUES ('Retired', 'digital', 499, 50, 'usd', 'samples/01.png', false) RETURNING id"
        ).fetchall()
    unknown = str(uuid4())
    wanted = [{"productId": each, "quantity": 1} for each in (str(retired), product["id"], unknown)]
    merged = await customer.http.put("/api/cart", json={"items": wanted})
    assert merged.status_code == 200
    assert lines(merged.json()) == {product["id"]: 1}
    assert {each["productId"]: each["code"] for each in merged.json()["leftOut"]} == {
        str(retired): "product_inactive",
        unknown: "product_not_found",
    }
