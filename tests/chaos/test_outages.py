"""A part that is away only delays: what was paid arrives, what was ordered ends."""

from collections.abc import AsyncIterator

import pytest

from deploy.local import audit
from deploy.local.ephemeral import RunningStack, wait_until
from deploy.local.quiet import is_quiet, open_work
from tests.chaos.shopping import insist, see, settled
from tests.e2e.rest_client import Customer, pay, sign_in, until

_BACK_SECONDS = 40.0


@pytest.fixture(scope="module")
def stack(stack_to_harm: RunningStack) -> RunningStack:
    return stack_to_harm


@pytest.fixture
async def customer(stack: RunningStack) -> AsyncIterator[Customer]:
    async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as signed_in:
        yield signed_in
    wait_until(lambda: is_quiet(stack.file.database_urls), seconds=_BACK_SECONDS, what="quiet")
    assert audit.audit(stack.file) == []


async def _page_for_points(customer: Customer) -> str:
    opened = await insist(customer, "POST", "/api/checkout/points", {"packageId": "premium"})
    return await customer.page_of(opened.json()["checkoutId"])


async def _arrived(customer: Customer, points: int) -> None:
    await until(
        lambda: see(customer, "/api/profile"),
        lambda profile: profile["points"] == points,
        seconds=_BACK_SECONDS,
    )


@pytest.mark.parametrize("part", ["nats", "wallet", "payments"])
async def test_points_paid_while_a_part_is_away_arrive_when_it_is_back(
    stack: RunningStack, customer: Customer, part: str
) -> None:
    page = await _page_for_points(customer)
    stack.hold(part)
    await pay(page)
    if part != "payments":
        # The webhook was taken and settled; the fact waits in the outbox or in the stream.
        wait_until(
            lambda: open_work(stack.file.database_urls)["payments"] == (1 if part == "nats" else 0),
            seconds=_BACK_SECONDS,
            what="payments settled the webhook",
        )
    if part != "wallet":
        assert (await see(customer, "/api/profile"))["points"] == 0
    stack.release(part)
    await _arrived(customer, 550)


@pytest.mark.parametrize("part", ["nats", "wallet", "payments", "postgres"])
async def test_points_paid_around_a_crash_arrive(stack: RunningStack, customer: Customer, part: str) -> None:
    page = await _page_for_points(customer)
    before = stack.file.pids
    dead = before[part]
    assert dead is not None
    stack.kill(part)
    await pay(page)
    stack.wait_restarted(part, dead)
    await _arrived(customer, 550)
    # Nobody else's process ended because of it.
    services = {"wallet", "orders", "payments", "gateway"} - {part}
    assert {name: stack.file.pids[name] for name in services} == {name: before[name] for name in services}


async def test_an_order_placed_while_wallet_is_away_is_pending_and_completes(
    stack: RunningStack, customer: Customer
) -> None:
    await pay(await _page_for_points(customer))
    await _arrived(customer, 550)
    image = (await see(customer, "/api/products"))["items"][0]
    body = {"paymentMethod": "points", "items": [{"productId": image["id"], "quantity": 1}]}
    stack.hold("wallet")
    answer = await insist(customer, "POST", "/api/checkout", body)
    assert (answer.status_code, answer.json()["status"]) == (201, "pending")
    stack.release("wallet")
    order = await settled(customer, answer.json()["orderId"], seconds=_BACK_SECONDS)
    assert order["status"] == "completed"
    await _arrived(customer, 550 - image["pricePoints"])


async def test_a_card_order_paid_while_orders_is_away_completes(
    stack: RunningStack, customer: Customer
) -> None:
    image = (await see(customer, "/api/products"))["items"][0]
    body = {"paymentMethod": "stripe", "items": [{"productId": image["id"], "quantity": 1}]}
    placed = (await insist(customer, "POST", "/api/checkout", body)).json()
    stack.hold("orders")
    await pay(placed["url"])
    stack.release("orders")
    order = await settled(customer, placed["orderId"], seconds=_BACK_SECONDS)
    assert order["status"] == "completed"
