"""Buying images over REST, with points and by card."""

import asyncio
from typing import Any
from uuid import uuid4

from tests.e2e.rest_client import Customer, pay, until


async def product_of(customer: Customer, *, limited: bool = True) -> dict[str, Any]:
    """The cheapest picture for points."""
    items: list[dict[str, Any]] = (await customer.read("/api/products"))["items"]
    fitting = [item for item in items if item["pricePoints"] and (item["available"] is not None) == limited]
    return min(fitting, key=lambda item: int(item["pricePoints"]))


def line(product: dict[str, Any], quantity: int = 1) -> dict[str, Any]:
    return {"productId": product["id"], "quantity": quantity}


async def test_without_points_it_is_a_402_with_what_is_missing(customer: Customer) -> None:
    product = await product_of(customer)
    answer = await customer.buy("points", items=[line(product)])
    assert answer.status_code == 402
    problem = answer.json()
    assert (problem["code"], problem["needed"], problem["available"]) == (
        *("insufficient_points", product["pricePoints"]),
        0,
    )
    order = await customer.order(problem["orderId"])
    assert (order["status"], order["failureReason"]) == ("failed", "insufficient_points")
    assert (await customer.read(f"/api/products/{product['id']}"))["available"] == product["available"]


async def test_points_buy_the_cart_at_once(customer: Customer) -> None:
    points = await customer.top_up()
    product = await product_of(customer)
    await customer.http.put(f"/api/cart/items/{product['id']}", json={"quantity": 1})
    answer = await customer.buy("points")
    assert (answer.status_code, answer.json().keys()) == (201, {"orderId", "status"})
    assert answer.json()["status"] == "completed"
    order = await customer.order(answer.json()["orderId"])
    assert answer.headers["Location"] == f"/api/orders/{order['id']}"
    assert (order["paymentMethod"], order["totalPoints"], order["totalCents"]) == (
        *("points", product["pricePoints"]),
        0,
    )
    assert [(item["productId"], item["title"], item["quantity"]) for item in order["items"]] == [
        (product["id"], product["title"], 1)
    ]
    assert (await customer.read("/api/cart"))["items"] == []
    left = points - product["pricePoints"]
    await until(customer.profile, lambda profile: (profile["points"], profile["pointsHeld"]) == (left, 0))
    newest = (await customer.read("/api/points/transactions"))["items"][0]
    assert (newest["type"], newest["amount"], newest["orderId"]) == (
        *("spend", -product["pricePoints"]),
        order["id"],
    )


async def test_an_empty_cart_cannot_be_bought(customer: Customer) -> None:
    answer = await customer.buy("points")
    assert (answer.status_code, answer.json()["code"]) == (422, "cart_empty")


async def test_one_key_is_one_order(customer: Customer) -> None:
    points = await customer.top_up()
    product, key = await product_of(customer), str(uuid4())
    answers = await asyncio.gather(
        *(customer.buy("points", key=key, items=[line(product)]) for _ in range(10))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    again = await customer.buy("points", key=key, items=[line(product)])
    assert (again.status_code, again.headers["Idempotency-Key"]) == (201, key)
    assert {answer.json()["orderId"] for answer in answers} == {again.json()["orderId"]}
    other = await customer.buy("points", key=key, items=[line(product, 2)])
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    left = points - product["pricePoints"]
    await until(customer.profile, lambda profile: (profile["points"], profile["pointsHeld"]) == (left, 0))
    assert len((await customer.read("/api/orders"))["items"]) == 1


async def test_a_402_is_heard_again_under_its_key(customer: Customer) -> None:
    product, key = await product_of(customer), str(uuid4())
    first = await customer.buy("points", key=key, items=[line(product)])
    await customer.top_up()
    again = await customer.buy("points", key=key, items=[line(product)])
    # Each request has a trace of its own.
    assert again.status_code == 402
    assert again.json() | {"traceId": ""} == first.json() | {"traceId": ""}


async def test_more_than_there_is_is_out_of_stock(customer: Customer) -> None:
    items: list[dict[str, Any]] = (await customer.read("/api/products"))["items"]
    rare = min(
        (item for item in items if item["available"] is not None), key=lambda item: int(item["available"])
    )
    answer = await customer.buy("stripe", items=[line(rare, rare["available"] + 1)])
    assert (answer.status_code, answer.json()["code"]) == (409, "out_of_stock")
    assert (answer.json()["productId"], answer.json()["available"]) == (rare["id"], rare["available"])
    assert (await customer.order(answer.json()["orderId"]))["failureReason"] == "out_of_stock"


async def test_a_product_for_money_only_is_not_for_points(customer: Customer) -> None:
    items: list[dict[str, Any]] = (await customer.read("/api/products"))["items"]
    product = next(item for item in items if not item["pricePoints"])
    answer = await customer.buy("points", items=[line(product)])
    assert (answer.status_code, answer.json()["code"]) == (409, "not_for_points")


async def test_an_unknown_product_is_not_found(customer: Customer) -> None:
    answer = await customer.buy("points", items=[{"productId": str(uuid4()), "quantity": 1}])
    assert (answer.status_code, answer.json()["code"]) == (404, "product_not_found")


async def test_a_card_buys_through_the_hosted_page(customer: Customer) -> None:
    product = await product_of(customer)
    placed = await customer.buy("stripe", items=[line(product)])
    assert placed.status_code == 201
    order = await until(
        lambda: customer.order(placed.json()["orderId"]), lambda order: order["url"] is not None
    )
    assert order["status"] == "pending"
    await pay(order["url"], "decline")
    assert (await customer.order(order["id"]))["status"] == "pending"
    await pay(order["url"])
    done = await until(lambda: customer.order(order["id"]), lambda order: order["status"] == "completed")
    assert (done["totalCents"], done["totalPoints"]) == (product["priceCents"], 0)
    assert (done["sessionId"], done["url"]) == (None, None)


async def test_a_pending_order_is_cancelled_and_a_completed_one_is_not(customer: Customer) -> None:
    product = await product_of(customer)
    placed = (await customer.buy("stripe", items=[line(product)])).json()
    await until(lambda: customer.order(placed["orderId"]), lambda order: order["url"] is not None)
    await customer.http.post(f"/api/orders/{placed['orderId']}/cancel")
    await until(lambda: customer.order(placed["orderId"]), lambda order: order["status"] == "cancelled")

    await customer.top_up()
    bought = (await customer.buy("points", items=[line(product)])).json()
    refused = await customer.http.post(f"/api/orders/{bought['orderId']}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "order_not_cancellable")
    assert refused.json()["currentStatus"] == "completed"


async def test_a_cart_has_one_checkout_at_a_time(customer: Customer) -> None:
    product = await product_of(customer)
    await customer.http.put(f"/api/cart/items/{product['id']}", json={"quantity": 1})
    placed = await customer.buy("stripe")
    assert placed.status_code == 201
    second = await customer.buy("points")
    assert (second.status_code, second.json()["code"]) == (409, "checkout_in_progress")
    assert second.json()["orderId"] == placed.json()["orderId"]


async def test_orders_of_another_customer_are_not_found(customer: Customer, other: Customer) -> None:
    product = await product_of(customer)
    placed = (await customer.buy("stripe", items=[line(product)])).json()
    for answer in (
        await other.http.get(f"/api/orders/{placed['orderId']}"),
        await other.http.post(f"/api/orders/{placed['orderId']}/cancel"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "order_not_found")
    assert (await other.read("/api/orders"))["items"] == []
    assert (await customer.order(placed["orderId"]))["status"] == "pending"


async def test_orders_page_from_the_newest_to_the_oldest(customer: Customer) -> None:
    product = await product_of(customer)
    failed = [(await customer.buy("points", items=[line(product)])).json()["orderId"] for _ in range(5)]
    seen, cursor = [], ""
    while True:
        page = await customer.read(f"/api/orders?limit=2&cursor={cursor}")
        seen += [order["id"] for order in page["items"]]
        if not (cursor := page["nextCursor"]):
            break
    assert seen == failed[::-1]


async def test_a_product_is_read_by_its_id(customer: Customer) -> None:
    product = await product_of(customer)
    assert await customer.read(f"/api/products/{product['id']}") == product
    answer = await customer.http.get(f"/api/products/{uuid4()}")
    assert (answer.status_code, answer.json()["code"]) == (404, "product_not_found")


async def test_products_page_without_gaps(customer: Customer) -> None:
    everything = [item["id"] for item in (await customer.read("/api/products?limit=100"))["items"]]
    seen, cursor = [], ""
    while True:
        page = await customer.read(f"/api/products?limit=5&cursor={cursor}")
        seen += [item["id"] for item in page["items"]]
        if not (cursor := page["nextCursor"]):
            break
    assert seen == everything
    assert len(set(seen)) == len(seen)
