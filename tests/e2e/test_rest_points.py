"""Buying points over REST, and the balance and ledger that they end in."""

import asyncio
from uuid import uuid4

import pytest

from tests.e2e.rest_client import Customer, pay, until


async def package(customer: Customer, name: str = "premium") -> dict[str, int]:
    packages = (await customer.read("/api/points/packages"))["items"]
    return next(found for found in packages if found["id"] == name)


async def test_the_packages_are_those_of_the_catalogue(customer: Customer) -> None:
    packages = (await customer.read("/api/points/packages"))["items"]
    assert {found["id"] for found in packages} >= {"basic", "premium", "pro"}
    premium = await package(customer)
    assert premium.keys() == {"id", "name", "points", "priceCents", "currency"}
    assert (premium["points"], premium["priceCents"]) == (550, 3999)


async def test_paid_points_arrive_with_their_line_in_the_ledger(customer: Customer) -> None:
    assert await customer.profile() == {
        "id": str(customer.user_id),
        "email": f"{customer.user_id}@example.com",
        "points": 0,
        "pointsHeld": 0,
        "pointsAvailable": 0,
        "pointsDebt": 0,
    }
    premium = await package(customer)
    opened = await customer.http.post(
        "/api/checkout/points",
        json={"packageId": "premium", "points": premium["points"], "price": premium["priceCents"]},
    )
    assert opened.status_code == 201
    assert opened.json().keys() == {"checkoutId", "status", "sessionId", "url"}
    assert opened.headers["Location"] == f"/api/checkouts/{opened.json()['checkoutId']}"
    assert opened.headers["Idempotency-Key"]
    state = await customer.read(opened.headers["Location"])
    assert (state["packageId"], state["points"], state["amountCents"], state["orderId"]) == (
        *("premium", premium["points"], premium["priceCents"]),
        None,
    )

    await pay(await customer.page_of(opened.json()["checkoutId"]))
    profile = await until(customer.profile, lambda profile: profile["points"] > 0)
    assert (profile["points"], profile["pointsAvailable"]) == (premium["points"],) * 2
    paid = await until(
        lambda: customer.read(opened.headers["Location"]), lambda state: state["status"] == "paid"
    )
    assert paid["url"] is None
    [line] = (await customer.read("/api/points/transactions"))["items"]
    assert (line["type"], line["amount"], line["balanceAfter"]) == ("purchase", *[premium["points"]] * 2)


@pytest.mark.parametrize("belief", [{"points": 551}, {"price": 1}, {"points": -5, "price": 3999}])
async def test_a_tampered_price_hears_the_real_one(customer: Customer, belief: dict[str, int]) -> None:
    premium = await package(customer)
    answer = await customer.http.post("/api/checkout/points", json={"packageId": "premium", **belief})
    assert (answer.status_code, answer.json()["code"]) == (409, "price_changed")
    assert answer.json()["points"] == premium["points"]
    assert answer.json()["priceCents"] == premium["priceCents"]


async def test_an_unknown_package_is_not_found(customer: Customer) -> None:
    answer = await customer.http.post("/api/checkout/points", json={"packageId": "platinum"})
    assert (answer.status_code, answer.json()["code"]) == (404, "package_not_found")


async def test_one_key_opens_one_checkout(customer: Customer) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    answers = await asyncio.gather(
        *(
            customer.http.post("/api/checkout/points", json={"packageId": "basic"}, headers=key)
            for _ in range(8)
        )
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    again = await customer.http.post("/api/checkout/points", json={"packageId": "basic"}, headers=key)
    opened = {answer.json()["checkoutId"] for answer in [*answers, again] if answer.status_code == 201}
    assert opened == {again.json()["checkoutId"]}
    other = await customer.http.post("/api/checkout/points", json={"packageId": "pro"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_the_checkout_of_another_customer_is_not_found(customer: Customer, other: Customer) -> None:
    opened = await customer.http.post("/api/checkout/points", json={"packageId": "basic"})
    answer = await other.http.get(f"/api/checkouts/{opened.json()['checkoutId']}")
    assert (answer.status_code, answer.json()["code"]) == (404, "checkout_not_found")
    assert (await other.http.get(f"/api/checkouts/{uuid4()}")).status_code == 404


async def test_the_ledger_pages_from_the_newest_to_the_oldest(customer: Customer) -> None:
    for _ in range(3):
        await customer.top_up()
    seen, cursor = [], ""
    while True:
        page = await customer.read(f"/api/points/transactions?limit=2&cursor={cursor}")
        seen += [line["seq"] for line in page["items"]]
        if not (cursor := page["nextCursor"]):
            break
    assert seen == [3, 2, 1]


@pytest.mark.parametrize(
    "cursor", ["x", "%00", "%ff", "MTIz", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "é", "-"]
)
@pytest.mark.parametrize("path", ["/api/points/transactions", "/api/orders", "/api/products"])
async def test_a_strange_cursor_is_never_our_defect(customer: Customer, path: str, cursor: str) -> None:
    answer = await customer.http.get(f"{path}?cursor={cursor}")
    assert answer.status_code in (200, 422)
    if answer.status_code == 422:
        assert answer.json()["code"] == "invalid_cursor"
