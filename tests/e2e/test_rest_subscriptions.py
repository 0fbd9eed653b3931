"""A plan over REST: bought on the hosted page, renewed, and ended with what is paid for."""

from uuid import uuid4

import httpx

from deploy.local.ephemeral import RunningStack
from deploy.local.stackfile import StackFile
from tests.e2e.rest_client import JSON, Customer, control, pay, until


async def plan(customer: Customer, name: str = "monthly") -> JSON:
    plans: list[JSON] = (await customer.read("/api/plans"))["items"]
    return next(found for found in plans if found["id"] == name)


async def subscribe(customer: Customer, **more: str) -> httpx.Response:
    return await customer.http.post("/api/subscriptions", json={"planId": "monthly"}, headers=more)


async def subscribed(customer: Customer) -> JSON:
    """A subscription whose first period is paid, and its points."""
    opened = (await subscribe(customer)).json()
    await pay(await customer.page_of(opened["checkoutId"]))
    await until(customer.profile, lambda profile: profile["points"] > 0)
    subscription = await customer.read(f"/api/subscriptions/{opened['checkoutId']}")
    return {**subscription, "sessionId": opened["sessionId"]}


async def renew(shop: StackFile, subscription: JSON) -> None:
    """The period ends now. Only Stripe knows the subscription by the name that its strings take."""
    async with httpx.AsyncClient(base_url=shop.stripe_url, trust_env=False) as stripe:
        session = await stripe.get(
            f"/v1/checkout/sessions/{subscription['sessionId']}",
            headers={"Authorization": f"Bearer {shop.stripe_secret_key}"},
        )
    await control(shop.stripe_url, f"subscriptions/{session.json()['subscription']}/renew")


async def test_a_stranger_may_read_the_plans(visitor: httpx.AsyncClient) -> None:
    plans = (await visitor.get("/api/plans")).json()
    assert plans["nextCursor"] is None
    assert {found["interval"] for found in plans["items"]} == {"month", "year"}
    for found in plans["items"]:
        assert found.keys() == {"id", "name", "points", "priceCents", "currency", "interval"}
        assert found["points"] > 0
        assert found["priceCents"] > 0


async def test_each_paid_period_gives_points_until_the_customer_ends_it(
    stack: RunningStack, customer: Customer, other: Customer
) -> None:
    monthly = await plan(customer)
    begun = await subscribed(customer)
    path = f"/api/subscriptions/{begun['id']}"
    assert (begun["planId"], begun["status"], begun["points"]) == ("monthly", "active", monthly["points"])
    assert (begun["cancelAtPeriodEnd"], begun["endedAt"]) == (False, None)
    assert (begun["cancelAt"], begun["changedOutside"]) == (None, False)
    checkout = await customer.read(f"/api/checkouts/{begun['id']}")
    assert (checkout["planId"], checkout["packageId"], checkout["points"]) == (
        *("monthly", None),
        monthly["points"],
    )

    again = await subscribe(customer)
    assert (again.status_code, again.json()["code"]) == (409, "subscription_exists")
    assert again.json()["subscriptionId"] == begun["id"]

    await renew(stack.file, begun)
    twice = 2 * monthly["points"]
    await until(customer.profile, lambda profile: profile["points"] == twice)
    renewed = await until(
        lambda: customer.read(path), lambda now: now["currentPeriodEnd"] > begun["currentPeriodEnd"]
    )
    assert (await customer.read("/api/subscriptions"))["items"] == [renewed]
    assert (await other.read("/api/subscriptions"))["items"] == []
    for method in ("GET", "DELETE"):
        refused = await other.http.request(method, path)
        assert (refused.status_code, refused.json()["code"]) == (404, "subscription_not_found")

    for _ in range(2):
        cancelled = await customer.http.delete(path)
        ending = renewed | {"cancelAtPeriodEnd": True, "cancelAt": renewed["currentPeriodEnd"]}
        assert (cancelled.status_code, cancelled.json()) == (200, ending)
    await renew(stack.file, begun)
    ended = await until(lambda: customer.read(path), lambda now: now["status"] == "canceled")
    assert ended["endedAt"] is not None
    ledger = (await customer.read("/api/points/transactions"))["items"]
    assert [(line["type"], line["amount"]) for line in ledger] == [("purchase", monthly["points"])] * 2
    assert (await subscribe(customer)).status_code == 201


async def test_one_key_opens_one_checkout(customer: Customer) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    first, again = await subscribe(customer, **key), await subscribe(customer, **key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["checkoutId"] == again.json()["checkoutId"]
    assert first.headers["Location"] == f"/api/checkouts/{first.json()['checkoutId']}"
    other_plan = await customer.http.post("/api/subscriptions", json={"planId": "yearly"}, headers=key)
    assert (other_plan.status_code, other_plan.json()["code"]) == (422, "idempotency_key_reused")
    unknown = await customer.http.post("/api/subscriptions", json={"planId": "hourly"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "plan_not_found")
