"""The catalogue over REST: what operators do to it, and what customers see of that at once."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import JSON, Customer, pay, until

PRODUCTS = "/api/admin/products"


async def create(operator: Customer, *, key: str | None = None, **more: Any) -> httpx.Response:
    body = {"title": "A picture", "priceCents": 500, "pricePoints": 50, "assetKey": "x.png", "stock": 10}
    headers = {"Idempotency-Key": key} if key else {}
    return await operator.http.post(PRODUCTS, json=body | more, headers=headers)


@pytest.mark.parametrize("price_cents", [1, 49])
async def test_a_price_that_stripe_would_not_charge_is_refused_where_it_is_set(
    operator: Customer, price_cents: int
) -> None:
    sold = await create(operator, priceCents=50)
    assert sold.status_code == 201
    changed = await operator.http.patch(f"{PRODUCTS}/{sold.json()['id']}", json={"priceCents": price_cents})
    for refused in (await create(operator, priceCents=price_cents), changed):
        assert (refused.status_code, refused.json()["code"]) == (422, "price_below_minimum")
        assert (refused.json()["priceCents"], refused.json()["minimum"]) == (price_cents, 50)


async def move(operator: Customer, product_id: str, *, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await operator.http.post(f"{PRODUCTS}/{product_id}/stock", json=body, headers=headers)


async def found(somebody: Customer, **query: str) -> list[str]:
    answer = await somebody.http.get("/api/products", params=query)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


async def test_a_product_is_created_once_under_its_key(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    key, title = f"spring-{uuid4()}", f"Spring {uuid4()}"
    answers = await asyncio.gather(*(create(operator, key=key, title=title) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    product = answers[0].json()
    assert [answer.json() for answer in answers] == [product] * 5
    assert answers[0].headers["Location"] == f"{PRODUCTS}/{product['id']}"
    assert answers[0].headers["Idempotency-Key"] == key
    assert (product["version"], answers[0].headers["ETag"]) == (1, '"1"')
    assert (product["stockQuantity"], product["reservedQuantity"], product["available"]) == (10, 0, 10)
    for other in ({"title": "Another"}, {"stock": None}, {"reason": "another"}):
        reused = await create(operator, key=key, **{"title": title, **other})
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")

    seen = await customer.read(f"/api/products/{product['id']}")
    assert seen == {name: product[name] for name in seen}
    assert "assetKey" not in seen
    assert await found(customer, search=title.upper()) == [product["id"]]
    assert await found(customer, search=title, type="digital") == [product["id"]]
    assert await found(customer, search=title, type="physical") == []
    assert await found(customer, search=f"{title}%") == []
    assert (await operator.read(f"{PRODUCTS}?search={title}"))["items"] == [product]
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        audited = connection.execute(
            "SELECT action, actor, reason FROM audit_log WHERE subject = %s", [product["id"]]
        ).fetchall()
    assert audited == [("product.created", str(operator.user_id), "created")]


async def test_a_stale_change_of_a_product_is_refused(operator: Customer) -> None:
    path = f"{PRODUCTS}/{(await create(operator)).json()['id']}"
    tag = (await operator.http.get(path)).headers["ETag"]
    changed = await operator.http.patch(path, json={"title": "Another"}, headers={"If-Match": tag})
    assert (changed.status_code, changed.json()["title"], changed.headers["ETag"]) == (200, "Another", '"2"')
    for stale in (
        await operator.http.patch(path, json={"title": "Stale"}, headers={"If-Match": tag}),
        await operator.http.delete(path, headers={"If-Match": tag}),
    ):
        assert (stale.status_code, stale.json()["code"], stale.json()["version"]) == (
            *(412, "product_changed"),
            2,
        )
    assert await operator.read(path) == changed.json()
    vague = await operator.http.patch(path, json={"title": "Stale"}, headers={"If-Match": 'W/"2"'})
    assert (vague.status_code, vague.json()["code"]) == (422, "invalid_if_match")
    nothing = await operator.http.patch(path, json={"reason": "nothing"})
    assert (nothing.status_code, nothing.json()["code"]) == (422, "invalid_request")


async def test_a_new_price_is_seen_at_once_and_touches_no_order(
    operator: Customer, customer: Customer
) -> None:
    title = f"Dearer {uuid4()}"
    product_id = (await create(operator, title=title)).json()["id"]
    line = f"/api/cart/items/{product_id}"
    await customer.http.put(line, json={"quantity": 2})
    placed = (await customer.buy("stripe", items=[{"productId": product_id, "quantity": 1}])).json()

    async def prices() -> set[int]:
        one = await customer.read(f"/api/products/{product_id}")
        listed = (await customer.http.get("/api/products", params={"search": title})).json()["items"]
        return {one["priceCents"], *(item["priceCents"] for item in listed)}

    assert await prices() == {500}
    await operator.http.patch(f"{PRODUCTS}/{product_id}", json={"priceCents": 700})
    assert await prices() == {700}
    cart = await customer.read("/api/cart")
    [item] = cart["items"]
    assert (item["priceCents"], item["priceChanged"], cart["totalCents"]) == (700, True, 1400)
    order = await customer.order(placed["orderId"])
    assert (order["totalCents"], order["items"][0]["priceCents"]) == (500, 500)
    # Who puts the line in again has seen the price.
    [item] = (await customer.http.put(line, json={"quantity": 2})).json()["items"]
    assert item["priceChanged"] is False


async def test_a_retired_product_is_sold_no_more_and_its_open_orders_go_on(
    operator: Customer, customer: Customer
) -> None:
    title = f"Retired {uuid4()}"
    product_id = (await create(operator, title=title)).json()["id"]
    await customer.top_up()
    await customer.http.put(f"/api/cart/items/{product_id}", json={"quantity": 1})
    open_order = (await customer.buy("stripe", items=[{"productId": product_id, "quantity": 1}])).json()
    assert await found(customer, search=title) == [product_id]
    for _ in range(2):
        retired = await operator.http.delete(f"{PRODUCTS}/{product_id}", params={"reason": "out of print"})
        assert (retired.status_code, retired.json()["active"], retired.json()["version"]) == (200, False, 2)
    assert await found(customer, search=title) == []
    assert (await operator.read(f"{PRODUCTS}?search={title}"))["items"] == [retired.json()]
    [item] = (await customer.read("/api/cart"))["items"]
    assert item["available"] is False
    refused = await customer.buy("points")
    assert (refused.status_code, refused.json()["code"]) == (409, "product_inactive")
    assert (await customer.order(open_order["orderId"]))["status"] == "pending"
    await operator.http.patch(f"{PRODUCTS}/{product_id}", json={"active": True})
    assert (await customer.buy("points")).status_code == 201


async def test_stock_is_received_and_corrected_and_customers_see_what_is_left(
    operator: Customer, customer: Customer
) -> None:
    product_id = (await create(operator, stock=2)).json()["id"]

    async def available() -> int:
        return int((await customer.read(f"/api/products/{product_id}"))["available"])

    assert await available() == 2
    key = str(uuid4())
    answers = await asyncio.gather(
        *(move(operator, product_id, key=key, delta=3, reason="received") for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["movement"]["id"] for answer in answers} == {answers[0].json()["movement"]["id"]}
    assert (answers[-1].json()["product"]["stockQuantity"], await available()) == (5, 5)
    reused = await move(operator, product_id, key=key, delta=4, reason="received")
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")

    order = (await customer.buy("stripe", items=[{"productId": product_id, "quantity": 4}])).json()
    assert await available() == 1
    lost: JSON = {"reason": "corrected", "note": "lost in the mail"}
    below = await move(operator, product_id, delta=-2, **lost)
    assert (below.status_code, below.json()["code"]) == (409, "stock_reserved")
    assert (below.json()["reserved"], below.json()["stock"]) == (4, 5)
    corrected = (await move(operator, product_id, delta=-1, **lost)).json()
    assert (corrected["product"]["available"], await available()) == (0, 0)
    await customer.http.post(f"/api/orders/{order['orderId']}/cancel")

    unexplained = await move(operator, product_id, delta=-1, reason="corrected")
    assert (unexplained.status_code, unexplained.json()["code"]) == (422, "invalid_request")
    first = await operator.read(f"{PRODUCTS}/{product_id}/stock/movements?limit=2")
    assert first["items"] == [corrected["movement"], answers[0].json()["movement"]]
    rest = await operator.read(f"{PRODUCTS}/{product_id}/stock/movements?cursor={first['nextCursor']}")
    assert [(item["delta"], item["reason"]) for item in rest["items"]] == [(2, "received")]
    unlimited = (await create(operator, stock=None)).json()
    assert (unlimited["stockQuantity"], unlimited["available"]) == (None, None)
    uncounted = await move(operator, unlimited["id"], delta=1, reason="received")
    assert (uncounted.status_code, uncounted.json()["code"]) == (409, "stock_unlimited")


async def test_a_purchase_takes_only_what_was_bought_out_of_the_cart_and_happens_once(
    operator: Customer, customer: Customer
) -> None:
    bought, added = [(await create(operator)).json()["id"] for _ in range(2)]
    await customer.http.put(f"/api/cart/items/{bought}", json={"quantity": 1})
    clicks = await asyncio.gather(*(customer.buy("stripe") for _ in range(2)))
    again = await customer.buy("stripe")
    answers = {click.json().get("orderId") for click in (*clicks, again)}
    assert (again.status_code, len(answers)) == (201, 1)
    order_id = answers.pop()
    await customer.http.put(f"/api/cart/items/{bought}", json={"quantity": 3})
    await customer.http.put(f"/api/cart/items/{added}", json={"quantity": 1})
    order = await until(lambda: customer.order(order_id), lambda order: order["url"] is not None)
    await pay(order["url"])
    await until(lambda: customer.order(order_id), lambda order: order["status"] == "completed")
    left = (await customer.read("/api/cart"))["items"]
    assert {item["productId"]: item["quantity"] for item in left} == {bought: 2, added: 1}
