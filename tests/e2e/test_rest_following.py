"""Following an order or a checkout as a browser does: server-sent events, resumed with the last id."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from tests.e2e.rest_client import JSON, Customer, pay
from tests.e2e.test_rest_orders import line, product_of


class Event(NamedTuple):
    name: str
    id: int | None
    data: JSON


@asynccontextmanager
async def following(customer: Customer, path: str, **sent: Any) -> AsyncIterator[AsyncIterator[Event]]:
    """The events of an open stream; comments and `retry` are not for us."""
    async with customer.http.stream("GET", path, **sent) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events(answer.aiter_lines())


async def events(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for text in lines:
        name, _, value = text.partition(": ")
        if text:
            fields[name] = value
        elif "event" in fields:
            id = int(fields["id"]) if "id" in fields else None
            yield Event(fields["event"], id, json.loads(fields["data"]))
        if not text:
            fields = {}


async def all_of(customer: Customer, path: str, **sent: Any) -> list[Event]:
    async with following(customer, path, **sent) as told:
        return [event async for event in told]


async def test_a_card_order_is_followed_from_its_page_to_its_end(customer: Customer) -> None:
    product = await product_of(customer)
    placed = (await customer.buy("stripe", items=[line(product)])).json()
    path = f"/api/orders/{placed['orderId']}"
    async with following(customer, f"{path}/events") as told:
        pending = await anext(told)
        assert (pending.name, pending.data) == ("order", await customer.read(path))
        await pay(pending.data["url"], "decline")
        await pay(pending.data["url"])
        completed = await anext(told)
        assert completed.data["status"] == "completed"
        assert completed.id is not None
        assert pending.id is not None
        assert completed.id > pending.id
        assert [event.name async for event in told] == ["end"]

    # Whoever lost the connection hears what they missed, and no more.
    missed = await all_of(customer, f"{path}/events", headers={"Last-Event-ID": str(pending.id)})
    assert [event.name for event in missed] == ["order", "end"]
    for sent in (
        {"params": {"after": completed.id}},
        {"params": {"after": 0}, "headers": {"Last-Event-ID": str(completed.id)}},
        {"headers": {"Last-Event-ID": "999999999999"}},
    ):
        assert [event.name for event in await all_of(customer, f"{path}/events", **sent)] == ["end"]


async def test_a_checkout_of_points_is_followed_until_it_is_paid(customer: Customer) -> None:
    opened = (await customer.http.post("/api/checkout/points", json={"packageId": "basic"})).json()
    path = f"/api/checkouts/{opened['checkoutId']}"
    async with following(customer, f"{path}/events") as told:
        first = await anext(told)
        assert (first.name, first.data) == ("checkout", await customer.read(path))
        await pay(await customer.page_of(opened["checkoutId"]))
        rest = [event async for event in told]
    assert [event.name for event in rest] == ["checkout", "end"]
    assert rest[0].data == await customer.read(path)
    assert rest[0].data["status"] == "paid"


@pytest.mark.parametrize("what", ["orders", "checkouts"])
async def test_who_may_not_follow_hears_a_problem_instead(
    customer: Customer, other: Customer, what: str
) -> None:
    product = await product_of(customer)
    placed = (await customer.buy("stripe", items=[line(product)])).json()
    opened = (await customer.http.post("/api/checkout/points", json={"packageId": "basic"})).json()
    mine = {"orders": placed["orderId"], "checkouts": opened["checkoutId"]}[what]
    for somebody, id in ((other, mine), (customer, str(uuid4())), (customer, "x" * 36), (customer, "%FF")):
        answer = await somebody.http.get(f"/api/{what}/{id}/events")
        assert (answer.status_code, answer.json()["code"]) == (404, f"{what[:-1]}_not_found")
    stranger = await other.http.get(f"/api/{what}/{mine}/events", headers={"Authorization": ""})
    assert (stranger.status_code, stranger.json()["code"]) == (401, "missing_token")
