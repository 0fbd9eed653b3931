"""One trace id for a purchase, in every process; and what operators see of it all, in order."""

import json
from typing import Any
from uuid import uuid4

import pytest

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import JSON, Customer, pay, until
from tests.e2e.test_rest_operators import act
from tests.e2e.test_rest_orders import line, product_of

TIMELINE = "/api/admin/timeline"
# The same in every worker: a test is known by its parameters.
_SOMEBODY = "7d6d2c1e-5a0f-4c3b-9a51-0f6f2f1f4a10"


async def traced(customer: Customer, path: str, body: JSON) -> tuple[str, JSON]:
    """With the trace of this request, as the answer tells it: never a stranger's own."""
    theirs = uuid4().hex
    answer = await customer.http.post(
        path, json=body, headers={"traceparent": f"00-{theirs}-00f067aa0ba902b7-01"}
    )
    trace = answer.headers["X-Trace-Id"]
    assert (answer.status_code, len(trace)) == (201, len(theirs))
    assert trace != theirs
    return trace, answer.json()


async def kinds_within(operator: Customer, wanted: set[str], **of: Any) -> list[JSON]:
    """The timeline, once it tells all of these."""

    async def read() -> JSON:
        answer = await operator.http.get(TIMELINE, params=of)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    found = await until(read, lambda told: wanted <= {entry["kind"] for entry in told["entries"]})
    assert found["unavailable"] == []
    entries: list[JSON] = found["entries"]
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    return entries


def logged(stack: RunningStack, part: str, trace: str) -> set[str]:
    """What a process has logged under a trace."""
    lines = (stack.data / "logs" / f"{part}.log").read_text().splitlines()
    return {json.loads(text)["event"] for text in lines if trace in text}


async def test_buying_points_is_one_trace_from_the_checkout_to_the_ledger(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    trace, opened = await traced(customer, "/api/checkout/points", {"packageId": "basic"})
    await pay(await customer.page_of(opened["checkoutId"]))
    wanted = {"checkout.creating", "checkout.paid", "payment.fulfilled", "grant", "ledger.purchase"}
    told = await kinds_within(operator, wanted | {"stripe_event"}, userId=str(customer.user_id))
    assert {entry["traceId"] for entry in told} == {trace}
    assert {entry["service"] for entry in told} == {"payments", "wallet"}
    assert {"checkout.changed", "stripe_event.settled"} <= logged(stack, "payments", trace)
    assert logged(stack, "wallet", trace) == {"points.grant_applied"}


async def test_an_order_with_points_is_one_trace_in_orders_and_wallet(
    operator: Customer, customer: Customer
) -> None:
    await customer.top_up()
    product = await product_of(customer)
    body = {"paymentMethod": "points", "items": [line(product)]}
    trace, placed = await traced(customer, "/api/checkout", body)
    wanted = {"order.pending", "order.completed", "hold.held", "ledger.spend", "stock.sold", "mail.receipt"}
    told = await kinds_within(operator, wanted | {"saga.done"}, orderId=placed["orderId"])
    assert {(entry["orderId"], entry["traceId"]) for entry in told} == {(placed["orderId"], trace)}
    [spend] = [entry for entry in told if entry["kind"] == "ledger.spend"]
    assert spend["fields"]["points"] == str(-product["pricePoints"])
    assert spend["summary"].startswith(f"-{product['pricePoints']} points")


async def test_a_refunded_card_order_is_told_in_order_and_says_why(
    operator: Customer, customer: Customer
) -> None:
    product = await product_of(customer)
    body = {"paymentMethod": "stripe", "items": [line(product, 2)]}
    trace, placed = await traced(customer, "/api/checkout", body)
    order_id = placed["orderId"]
    order = await until(lambda: customer.order(order_id), lambda order: order["url"] is not None)
    await pay(order["url"])
    await until(lambda: customer.order(order_id), lambda order: order["status"] == "completed")
    refunds = f"/api/admin/orders/{order_id}/refunds"
    refund = await act(operator, refunds, items=[line(product)], returnStock=True)
    assert refund.status_code == 201, refund.text
    await until(lambda: customer.order(order_id), lambda order: order["refundedCents"] > 0)

    # What happened one after the other, whoever tells it.
    story = [
        *("order.pending", "checkout.creating", "checkout.paid", "payment.fulfilled", "order.completed"),
        *("stock.sold", "refund.requested", "refund.succeeded", "stock.returned"),
    ]
    told = await kinds_within(operator, set(story), orderId=order_id)
    kinds = [entry["kind"] for entry in told]
    assert sorted(story, key=kinds.index) == story, kinds
    asked_in = refund.headers["X-Trace-Id"]
    traces = {kind: {entry["traceId"] for entry in told if entry["kind"] == kind} for kind in story}
    back = {"refund.requested", "refund.succeeded", "stock.returned"}
    assert traces == {kind: {asked_in if kind in back else trace} for kind in story}
    [paid] = [entry for entry in told if entry["kind"] == "payment.fulfilled"]
    assert paid["fields"]["cents"] == str(2 * product["priceCents"])
    # Nothing of a card, no address.
    assert not {"@", "4242", "card_"} & set(json.dumps(told).split())
    assert str(customer.user_id) + "@" not in json.dumps(told)

    async def told_thrice() -> JSON:
        limits = {"before": 500, "newest": 2, "after": 500}
        url = f"{TIMELINE}?orderId={order_id}&limit="
        return {name: (await operator.read(f"{url}{limit}"))["entries"] for name, limit in limits.items()}

    # Compared when nothing happened meanwhile: mails are sent and webhooks arrive whenever they do.
    read = await until(told_thrice, lambda told: told["before"] == told["after"])
    assert read["newest"] == read["after"][-2:]
    mine = await operator.read(f"{TIMELINE}?userId={customer.user_id}&limit=500")
    assert {entry["orderId"] for entry in mine["entries"]} == {order_id}


async def test_nobody_and_nothing_has_an_empty_timeline(operator: Customer) -> None:
    for name in ("userId", "orderId"):
        told = await operator.read(f"{TIMELINE}?{name}={uuid4()}")
        assert told == {"entries": [], "unavailable": []}


@pytest.mark.parametrize(
    "query",
    [
        *("", f"userId={_SOMEBODY}&orderId={_SOMEBODY}", "userId=", "orderId=%00", "userId=' OR 1=1 --"),
        *(f"userId={_SOMEBODY}&limit={limit}" for limit in ("0", "501", "x", "-1", "9" * 40)),
    ],
)
async def test_a_timeline_of_nobody_in_particular_is_refused(operator: Customer, query: str) -> None:
    answer = await operator.http.get(f"{TIMELINE}?{query}")
    assert answer.status_code == 422
    assert answer.json()["code"] in ("invalid_request", "invalid_limit")


async def test_a_problem_names_its_trace(customer: Customer) -> None:
    answer = await customer.http.get(f"/api/orders/{uuid4()}")
    assert answer.json()["traceId"] == answer.headers["X-Trace-Id"]
