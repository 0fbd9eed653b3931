"""Two replicas of wallet, orders, payments and gateway at work on the same databases, and what of them may
die or be replaced while customers buy."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack
from uuid import uuid4

import pytest

from deploy.local import audit
from deploy.local.ephemeral import RunningStack, wait_until
from deploy.local.quiet import is_quiet
from tests.chaos.shopping import insist, see
from tests.chaos.twins import OURS, Shopper, Twins, shopping, twins_of
from tests.e2e.rest_client import pay
from tests.e2e.test_rest_following import following
from tests.support.collector import Collector

_SHOPPERS = 4
_QUIET_SECONDS = 40.0
_COPIES = 20
# Work that is done for a customer, or for a fact: by service, the spans that tell of it.
_WORK = {
    "gateway": {"POST /api/checkout"},
    "orders": {"PlaceOrder"},
    "wallet": {"ReservePoints"},
    "payments": {"CreateOrderCheckout"},
}


@pytest.fixture(scope="module")
def stack(fresh_stack: Callable[[], AbstractContextManager[RunningStack]]) -> Iterator[RunningStack]:
    with fresh_stack() as running:
        yield running


@pytest.fixture(scope="module")
async def twins(stack: RunningStack) -> AsyncIterator[Twins]:
    async with twins_of(stack) as running:
        yield running


@pytest.fixture(autouse=True)
def books(stack: RunningStack, twins: Twins) -> Iterator[None]:
    yield
    wait_until(lambda: is_quiet(stack.file.database_urls), seconds=_QUIET_SECONDS, what="quiet")
    assert audit.audit(stack.file) == []


def work_of(collector: Collector) -> Counter[str]:
    return Counter(span.service for span in collector.spans if span.name in _WORK.get(span.service, ()))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("orders", "gateway"), id="once"),
        pytest.param(OURS * 20, id="twenty times", marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(1500)
async def test_replicas_that_are_replaced_one_after_the_other_refuse_nobody(
    twins: Twins, names: tuple[str, ...], record_property: Callable[[str, object], None]
) -> None:
    """What meets a gateway that stops is repeated, under its key; nothing else fails."""
    async with shopping(twins, _SHOPPERS) as crowd:
        for name in names:
            await twins.replace(name)
            await crowd.buys(5)
    record_property("proof", {"orders": crowd.promised, "answers": dict(crowd.answers)})
    assert crowd.answers.keys() <= {200, 201, 402, 503, "lost"}


async def test_copies_of_a_request_at_both_gateways_are_one_order(twins: Twins) -> None:
    shopper = Shopper(twins)
    async with shopper.customer.http as http:
        image = (await see(shopper.customer, "/api/products"))["items"][0]
        body = {"paymentMethod": "stripe", "items": [{"productId": image["id"], "quantity": 1}]}
        headers = {"Idempotency-Key": str(uuid4())}
        answers = await asyncio.gather(
            *(http.post("/api/checkout", json=body, headers=headers) for _ in range(_COPIES))
        )
        assert {answer.status_code for answer in answers} <= {201, 409}
        assert len({answer.json()["orderId"] for answer in answers if answer.status_code == 201}) == 1
        assert len((await see(shopper.customer, "/api/orders"))["items"]) == 1


async def test_who_follows_an_order_at_one_replica_hears_what_the_other_did(twins: Twins) -> None:
    """Four streams: each gateway follows at both replicas of orders, and one of these completes the order."""
    shopper = Shopper(twins)
    async with shopper.customer.http, AsyncExitStack() as streams:
        image = (await see(shopper.customer, "/api/products"))["items"][0]
        body = {"paymentMethod": "stripe", "items": [{"productId": image["id"], "quantity": 1}]}
        placed = (await insist(shopper.customer, "POST", "/api/checkout", body)).json()
        path = f"/api/orders/{placed['orderId']}/events"
        told = [await streams.enter_async_context(following(shopper.customer, path)) for _ in range(4)]
        pending = [await anext(each) for each in told]
        await pay(pending[0].data["url"])
        for each in told:
            assert [(event.name, event.data.get("status")) async for event in each] == [
                ("order", "completed"),
                ("end", None),
            ]
    wait_until(
        lambda: all(_was_followed(collector) for collector in twins.seen),
        seconds=_QUIET_SECONDS,
        what="both replicas of orders were followed",
    )


def _was_followed(collector: Collector) -> bool:
    return any(span.name == "WatchOrder" for span in list(collector.spans))


async def test_both_work_and_one_of_each_may_die(
    twins: Twins, record_property: Callable[[str, object], None]
) -> None:
    led = await twins.leaders()
    for collector in twins.seen:
        collector.spans.clear()
    async with shopping(twins, _SHOPPERS) as crowd:
        await crowd.buys(40)
        work = [work_of(collector) for collector in twins.seen]
        await twins.kill_first()
        lead = await twins.leaders()
        await crowd.buys(60)
    first, second = (dict(done) for done in work)
    proof = {"orders": crowd.promised, "answers": dict(crowd.answers), "first": first, "second": second}
    record_property("proof", proof)
    assert all(done[name] >= 5 for done in work for name in OURS), proof
    # The other relays may have been taken over before.
    assert {"wallet", "payments"} <= {name for name in led if lead[name] != led[name]}
