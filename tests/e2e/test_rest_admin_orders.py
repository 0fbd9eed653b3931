"""Refunds and sagas over REST, as operators use them."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import JSON, Customer, pay, unknown_code, until
from tests.e2e.test_rest_operators import act, audited
from tests.e2e.test_rest_orders import line, product_of

WITH_CARD, WITH_POINTS = "place_order_with_card", "place_order_with_points"


async def bought(customer: Customer, quantity: int = 2) -> tuple[JSON, str]:
    """A points order, its points spent."""
    await customer.top_up("premium")
    product = await product_of(customer)
    order_id = (await customer.buy("points", items=[line(product, quantity)])).json()["orderId"]
    await until(customer.profile, lambda profile: profile["pointsHeld"] == 0)
    return product, str(order_id)


async def refund(operator: Customer, order_id: str, *, key: str = "", **body: Any) -> httpx.Response:
    return await operator.http.post(
        f"/api/admin/orders/{order_id}/refunds",
        json={"reason": "a test", **body},
        headers={"Idempotency-Key": key or str(uuid4())},
    )


async def test_a_line_and_then_the_rest_of_an_order_go_back(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    product, order_id = await bought(customer)
    points, key = (await customer.profile())["points"], str(uuid4())
    first, again = [await refund(operator, order_id, key=key, items=[line(product)]) for _ in range(2)]
    assert (first.status_code, first.headers["Location"]) == (201, f"/api/admin/orders/{order_id}")
    assert (again.json()["id"], again.headers["Idempotency-Key"]) == (first.json()["id"], key)
    assert (first.json()["amountPoints"], first.json()["actor"]) == (
        product["pricePoints"],
        str(operator.user_id),
    )
    other = await refund(operator, order_id, key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    price = product["pricePoints"]
    await until(customer.profile, lambda profile: profile["points"] == points + price)
    order = await until(lambda: customer.order(order_id), lambda order: order["refundedPoints"] == price)
    [item] = order["items"]
    assert (order["status"], item["refundedQuantity"], item["refundedPoints"]) == ("completed", 1, price)
    assert (order["refundedCents"], order["dispute"], order["trackingInfo"]) == (0, "none", None)

    too_much = await refund(operator, order_id, items=[line(product, 2)])
    assert (too_much.status_code, too_much.json()["code"]) == (409, "refund_exceeds_order")
    stranger = await refund(operator, order_id, items=[{"productId": str(uuid4()), "quantity": 1}])
    assert (stranger.status_code, stranger.json()["code"]) == (422, "not_in_order")
    assert (await refund(operator, order_id)).status_code == 201
    await until(lambda: customer.order(order_id), lambda order: order["status"] == "refunded")
    nothing = await refund(operator, order_id)
    assert (nothing.status_code, nothing.json()["code"]) == (409, "refund_exceeds_order")

    seen = await operator.read(f"/api/admin/orders/{order_id}")
    assert (seen["userId"], seen["order"]) == (str(customer.user_id), await customer.order(order_id))
    assert [(each["status"], each["amountPoints"]) for each in seen["refunds"]] == [("succeeded", price)] * 2
    assert {saga["saga"].partition("/")[0] for saga in seen["sagas"]} == {WITH_POINTS, "refund_order"}
    # As the customer's mail prints it, in whatever letters they type.
    for number in (order_id[-12:], order_id[-12:].upper()):
        found = await operator.read(f"/api/admin/orders?number={number}")
        assert [each["orderId"] for each in found["items"]] == [order_id]
    assert (await operator.read("/api/admin/orders?number=000000000000"))["items"] == []
    assert (await operator.http.get("/api/admin/orders?number=12")).json()["code"] == "invalid_request"
    assert (await customer.http.get(f"/api/admin/orders?number={order_id[-12:]}")).status_code == 403
    assert audited(stack, "orders", operator) == [("order.refunded", order_id, "a test")] * 2


async def test_what_was_not_paid_is_not_refunded(operator: Customer, customer: Customer) -> None:
    product = await product_of(customer)
    pending = (await customer.buy("stripe", items=[line(product)])).json()["orderId"]
    refused = await refund(operator, pending)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_refundable")
    assert refused.json()["currentStatus"] == "pending"
    unknown = await refund(operator, str(uuid4()))
    assert (unknown.status_code, unknown.json()["code"]) == (404, "order_not_found")
    assert (await operator.http.get(f"/api/admin/orders/{uuid4()}")).status_code == 404


async def test_a_disputed_order_is_not_refunded(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    product = await product_of(customer)
    order_id = (await customer.buy("stripe", items=[line(product)])).json()["orderId"]
    order = await until(lambda: customer.order(order_id), lambda order: order["url"] is not None)
    await pay(order["url"])
    await until(lambda: customer.order(order_id), lambda order: order["status"] == "completed")
    intent = next(
        entry["id"]
        for entry in (await operator.read(f"/api/admin/timeline?orderId={order_id}"))["entries"]
        if entry["kind"] == "payment.fulfilled"
    )
    async with httpx.AsyncClient(base_url=stack.file.stripe_url, trust_env=False) as sandbox:
        answer = await sandbox.post("/_control/disputes", json={"payment_intent": intent})
        assert answer.is_success, answer.text
    await until(lambda: customer.order(order_id), lambda order: order["dispute"] == "open")
    refused = await refund(operator, order_id)
    assert (refused.status_code, refused.json()["code"]) == (409, "order_disputed")


async def test_a_saga_is_found_tried_again_and_turned_around(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    product = await product_of(customer)
    order_id = (await customer.buy("stripe", items=[line(product)])).json()["orderId"]
    await until(lambda: customer.order(order_id), lambda order: order["url"] is not None)
    sagas = f"/api/admin/orders/{order_id}/sagas"

    async def listed() -> JSON:
        page = await operator.read(f"/api/admin/sagas?saga={WITH_CARD}&status=running&limit=100")
        return {saga["orderId"]: saga for saga in page["items"]}

    run = (await listed())[order_id]
    assert (run["step"], run["steps"], run["userId"]) == (
        *("await_payment", ["open_checkout", "await_payment"]),
        str(customer.user_id),
    )
    for odd in (WITH_POINTS, "null", "%00", "-1", "x" * 5000, f"{WITH_CARD}%0a", "%27"):
        unknown = await act(operator, f"{sagas}/{odd}/retry")
        assert (unknown.status_code, unknown.json()["code"]) == (404, unknown_code(odd, "saga_not_found")), (
            odd
        )
    waits = await act(operator, f"{sagas}/{WITH_CARD}/retry")
    assert (waits.status_code, waits.json()["code"]) == (409, "saga_waits")
    turned = await act(operator, f"{sagas}/{WITH_CARD}/compensate")
    assert (turned.status_code, turned.json()["undoReason"]) == (200, "compensated_by_operator")
    order = await until(lambda: customer.order(order_id), lambda order: order["status"] == "failed")
    assert order["failureReason"] == "compensated_by_operator"
    for what in ("retry", "compensate"):
        ended = await act(operator, f"{sagas}/{WITH_CARD}/{what}")
        assert (ended.status_code, ended.json()["code"]) == (409, "saga_ended")
        assert ended.json()["currentStatus"] == "undone"
    assert audited(stack, "orders", operator) == [("saga.compensated", order_id, "a test")]


async def test_sagas_page_without_gaps(operator: Customer, customer: Customer) -> None:
    await bought(customer)
    everything = await operator.read("/api/admin/sagas?status=done&limit=100")
    first = await operator.read("/api/admin/sagas?status=done&limit=1")
    assert first["items"] == everything["items"][:1]
    assert (await operator.read(f"/api/admin/sagas?status=done&limit=1&cursor={first['nextCursor']}"))[
        "items"
    ] == everything["items"][1:2]


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"reason": ""}, {"reason": " "}, {"reason": "x" * 501}, {"reason": "x", "items": []}),
        *(
            {"reason": "x", "returnStock": "yes"},
            {"reason": "x", "items": [{"productId": "x", "quantity": 1}]},
        ),
        *({"reason": "x", "items": [{"productId": str(uuid4()), "quantity": each}]} for each in (0, -1, 1.5)),
    ],
)
async def test_a_bad_refund_changes_nothing(operator: Customer, body: JSON) -> None:
    answer = await operator.http.post(f"/api/admin/orders/{uuid4()}/refunds", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
