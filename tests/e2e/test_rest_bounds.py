"""What one customer may hold unpaid, as it is told over REST: with how to pay it and how to let it go."""

from tests.e2e.rest_client import Customer
from tests.e2e.test_rest_orders import line, product_of


async def test_a_sixth_unpaid_order_is_refused_with_the_open_ones(customer: Customer) -> None:
    product = await product_of(customer)
    answers = [await customer.buy("stripe", items=[line(product)]) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [201] * 5, [answer.text for answer in answers]
    opened = [answer.json()["orderId"] for answer in answers]
    refused = await customer.buy("stripe", items=[line(product)])
    told = refused.json()
    assert (refused.status_code, told["code"], told["limit"]) == (409, "too_many_open_orders", 5)
    assert sorted(order["orderId"] for order in told["openOrders"]) == sorted(opened)
    assert all(order["url"] and order["totalCents"] == product["priceCents"] for order in told["openOrders"])
    freed = await customer.http.post(told["openOrders"][0]["cancel"])
    assert freed.json()["status"] == "cancelled"
    assert (await customer.buy("stripe", items=[line(product)])).status_code == 201


async def test_too_many_pieces_name_what_keeps_them(customer: Customer) -> None:
    product = await product_of(customer)
    placed = (await customer.buy("stripe", items=[line(product, 80)])).json()["orderId"]
    refused = await customer.buy("stripe", items=[line(product, 21)])
    told = refused.json()
    assert (refused.status_code, told["code"]) == (409, "too_many_pieces")
    assert (told["productId"], told["reserved"], told["requested"], told["limit"]) == (
        *(product["id"], 80, 21, 100),
    )
    assert [order["orderId"] for order in told["openOrders"]] == [placed]
    await customer.http.post(told["openOrders"][0]["cancel"])


async def test_an_eleventh_open_page_is_refused_with_the_open_ones(customer: Customer) -> None:
    opened = []
    for _ in range(10):
        answer = await customer.http.post("/api/checkout/points", json={"packageId": "basic"})
        assert answer.status_code == 201, answer.text
        opened.append(answer.json()["checkoutId"])
    refused = await customer.http.post("/api/checkout/points", json={"packageId": "basic"})
    told = refused.json()
    assert (refused.status_code, told["code"], told["limit"]) == (409, "too_many_open_checkouts", 10)
    assert sorted(page["checkoutId"] for page in told["openCheckouts"]) == sorted(opened)
    assert all(page["expiresAt"] for page in told["openCheckouts"])
