"""Many at once on real servers: one credit for many copies, no order more than the points are worth."""

import asyncio
from collections import Counter

import httpx
import psycopg

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import Customer, pay, until

_COPIES = 50
_BUYERS = 50
_BUYERS_OF_THE_LAST = 100
_AFFORDABLE = 10


async def _control(stack: RunningStack, method: str, path: str, **body: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=stack.file.stripe_url, timeout=30, trust_env=False) as http:
        answer = await http.request(method, path, json=body or None)
    assert answer.is_success, answer.text
    return answer


def _paid_event_of(stack: RunningStack, session_id: str) -> str:
    events = httpx.get(
        f"{stack.file.stripe_url}/v1/events?type=checkout.session.completed&limit=100",
        headers={"Authorization": f"Bearer {stack.file.stripe_secret_key}"},
    ).json()["data"]
    return str(next(event["id"] for event in events if event["data"]["object"]["id"] == session_id))


def _rows(stack: RunningStack, database: str, query: str, *values: object) -> list[tuple[object, ...]]:
    with psycopg.connect(stack.file.database_urls[database]) as connection:
        return connection.execute(query.encode(), values).fetchall()


async def test_fifty_copies_of_one_webhook_give_one_credit(stack: RunningStack, customer: Customer) -> None:
    opened = await customer.http.post("/api/checkout/points", json={"packageId": "premium"})
    checkout = opened.json()
    await pay(await customer.page_of(checkout["checkoutId"]))
    event_id = _paid_event_of(stack, checkout["sessionId"])
    copies = await _control(stack, "POST", f"/_control/events/{event_id}/deliver?copies={_COPIES}")
    assert Counter(copies.json()["statuses"]) == {200: _COPIES}
    await until(customer.profile, lambda profile: profile["points"] > 0)
    assert _rows(stack, "payments", "SELECT count(*) FROM stripe_events WHERE id = %s", event_id) == [(1,)]
    # What the copies could have caused must have had its time: everything that was stored is settled.
    await until(lambda: asyncio.to_thread(_unsettled, stack), lambda left: left == {"events": 0, "unsent": 0})
    assert (await customer.profile())["points"] == 550
    credits = _rows(
        stack, "wallet", "SELECT amount FROM points_transactions WHERE user_id = %s", customer.user_id
    )
    assert credits == [(550,)]


def _unsettled(stack: RunningStack) -> dict[str, object]:
    [(events,)] = _rows(stack, "payments", "SELECT count(*) FROM stripe_events WHERE status = 'received'")
    [(unsent,)] = _rows(stack, "payments", "SELECT count(*) FROM outbox WHERE sent_at IS NULL")
    return {"events": events, "unsent": unsent}


async def test_fifty_checkouts_at_once_on_a_balance_for_ten_make_ten_orders(
    stack: RunningStack, customer: Customer
) -> None:
    products = (await customer.read("/api/products"))["items"]
    image = next(item for item in products if item["pricePoints"] == 50)
    items = [{"productId": image["id"], "quantity": 1}]
    await customer.top_up("premium")
    assert (await customer.buy("points", items=items)).status_code == 201
    stock_before = (await customer.read(f"/api/products/{image['id']}"))["available"]
    answers = await asyncio.gather(*(customer.buy("points", items=items) for _ in range(_BUYERS)))
    assert Counter(answer.status_code for answer in answers) == {201: _AFFORDABLE, 402: _BUYERS - _AFFORDABLE}
    profile = await until(customer.profile, lambda profile: profile["pointsHeld"] == 0)
    assert (profile["points"], profile["pointsAvailable"]) == (0, 0)
    stock_after = (await customer.read(f"/api/products/{image['id']}"))["available"]
    assert stock_before - stock_after == _AFFORDABLE
    orders = (await customer.read("/api/orders?limit=100"))["items"]
    assert Counter(order["status"] for order in orders) == {
        "completed": _AFFORDABLE + 1,
        "failed": _BUYERS - _AFFORDABLE,
    }


async def test_twenty_clicks_on_one_cart_buy_it_once(stack: RunningStack, customer: Customer) -> None:
    image = (await customer.read("/api/products"))["items"][0]
    await customer.top_up("premium")
    await customer.http.put(f"/api/cart/items/{image['id']}", json={"quantity": 1})
    answers = await asyncio.gather(*(customer.buy("points") for _ in range(20)))
    bought = {answer.json()["orderId"] for answer in answers if answer.status_code == 201}
    assert len(bought) == 1
    refused = {answer.json()["code"] for answer in answers if answer.status_code != 201}
    assert refused <= {"cart_empty", "request_in_flight"}
    profile = await until(customer.profile, lambda profile: profile["pointsHeld"] == 0)
    assert profile["points"] == 550 - image["pricePoints"]
    assert (await customer.read("/api/cart"))["items"] == []


async def test_twenty_copies_of_one_request_are_one_order(stack: RunningStack, customer: Customer) -> None:
    image = (await customer.read("/api/products"))["items"][0]
    await customer.top_up("premium")
    items = [{"productId": image["id"], "quantity": 1}]
    answers = await asyncio.gather(*(customer.buy("points", key="one", items=items) for _ in range(20)))
    assert len({answer.json()["orderId"] for answer in answers}) == 1
    assert Counter(answer.status_code for answer in answers).keys() <= {201, 409}
    assert len((await customer.read("/api/orders"))["items"]) == 1
    profile = await until(customer.profile, lambda profile: profile["pointsHeld"] == 0)
    assert profile["points"] == 550 - image["pricePoints"]


async def put_on_sale(operator: Customer, *, stock: int) -> str:
    """A new product's id."""
    body = {"title": "For a race", "priceCents": 500, "pricePoints": 10, "assetKey": "x", "stock": stock}
    answer = await operator.http.post("/api/admin/products", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def take_off_sale(operator: Customer, *product_ids: str) -> None:
    """Others who look for something cheap shall not find what is sold out."""
    for product_id in product_ids:
        assert (await operator.http.delete(f"/api/admin/products/{product_id}")).status_code == 200


async def test_a_hundred_buyers_of_the_last_piece_buy_it_once(customer: Customer, operator: Customer) -> None:
    last, plenty = [await put_on_sale(operator, stock=stock) for stock in (1, 1000)]
    await customer.top_up("premium")
    # Two lines, so that a refused order must not keep the other one's stock.
    items = [{"productId": product_id, "quantity": 1} for product_id in (last, plenty)]
    methods = ["points", "stripe"] * (_BUYERS_OF_THE_LAST // 2)
    answers = await asyncio.gather(*(customer.buy(method, items=items) for method in methods))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: _BUYERS_OF_THE_LAST - 1}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"out_of_stock"}
    left = [
        (await customer.read(f"/api/products/{product_id}"))["available"] for product_id in (last, plenty)
    ]
    assert left == [0, 999]
    await take_off_sale(operator, last, plenty)


async def test_two_lines_of_one_product_are_summed(customer: Customer, operator: Customer) -> None:
    three = await put_on_sale(operator, stock=3)
    await customer.top_up()
    lines = [{"productId": three, "quantity": quantity} for quantity in (1, 2)]
    too_many = await customer.buy("points", items=[*lines, lines[0]])
    assert (too_many.status_code, too_many.json()["code"], too_many.json()["available"]) == (
        *(409, "out_of_stock"),
        3,
    )
    bought = await customer.buy("points", items=lines)
    assert bought.status_code == 201
    [line] = (await customer.order(bought.json()["orderId"]))["items"]
    assert (line["quantity"], (await customer.read(f"/api/products/{three}"))["available"]) == (3, 0)
    await take_off_sale(operator, three)
