"""A refund that the bank sends back, through the whole shop: order, audit, the operator's list and word."""

from typing import Any
from uuid import uuid4

import httpx

from deploy.local import audit
from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import JSON, Customer, control, pay, until
from tests.e2e.test_operator_commands import aishop
from tests.e2e.test_rest_admin_orders import refund
from tests.e2e.test_rest_operators import audited
from tests.e2e.test_rest_orders import line, product_of


async def decide(operator: Customer, order_id: str, how: str, key: str, **body: Any) -> httpx.Response:
    return await operator.http.post(
        f"/api/admin/orders/{order_id}/owed/{how}",
        json={"reason": "his card was closed", **body},
        headers={"Idempotency-Key": key},
    )


async def came_back(stack: RunningStack, operator: Customer, customer: Customer) -> tuple[str, int]:
    """A card order whose whole refund succeeded and came back later."""
    product = await product_of(customer)
    order_id = str((await customer.buy("stripe", items=[line(product)])).json()["orderId"])
    order = await until(lambda: customer.order(order_id), lambda order: order["url"] is not None)
    await pay(order["url"])
    await until(lambda: customer.order(order_id), lambda order: order["status"] == "completed")
    asked = (await refund(operator, order_id)).json()
    await until(lambda: customer.order(order_id), lambda order: order["status"] == "refunded")
    state = await stripe_refunds(stack)
    [listed] = [each for each in state["data"] if each["metadata"].get("refund_id") == asked["id"]]
    await control(stack.file.stripe_url, f"refunds/{listed['id']}", status="failed")
    return order_id, product["priceCents"]


async def stripe_refunds(stack: RunningStack) -> JSON:
    async with httpx.AsyncClient(base_url=stack.file.stripe_url, trust_env=False) as stripe:
        answer = await stripe.get("/v1/refunds?limit=100", auth=(stack.file.stripe_secret_key or "", ""))
    assert answer.is_success, answer.text
    return dict(answer.json())


async def test_a_refund_that_comes_back_is_owed_until_an_operator_decides(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    order_id, cents = await came_back(stack, operator, customer)
    order = await until(lambda: customer.order(order_id), lambda order: order["owedCents"] == cents)
    assert (order["status"], order["refundedCents"]) == ("completed", 0)
    downloads = (await customer.read(f"/api/orders/{order_id}/downloads"))["items"]
    assert [each["status"] for each in downloads] == ["active"]
    assert audit.audit(stack.file) == []
    listed = (await operator.read("/api/admin/refunds/owed?limit=100"))["items"]
    assert [debt["owedCents"] for debt in listed if debt["orderId"] == order_id] == [cents]

    too_much = await decide(
        operator, order_id, "settle", str(uuid4()), amountCents=cents + 1, reference="SEPA 1"
    )
    assert (too_much.status_code, too_much.json()["code"]) == (409, "nothing_owed")
    assert (too_much.json()["owed"], too_much.json()["requested"]) == (cents, cents + 1)
    key = str(uuid4())
    for _ in range(2):
        part = await decide(operator, order_id, "settle", key, amountCents=1, reference="SEPA 1")
        assert (part.status_code, part.json()["owedCents"]) == (200, cents - 1)
    other = await decide(operator, order_id, "settle", key, amountCents=2, reference="SEPA 1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    one = await decide(operator, order_id, "write-off", str(uuid4()), amountCents=1)
    assert (one.status_code, one.json()["owedCents"]) == (200, cents - 2)

    data = ("--data", str(stack.data))
    said = await aishop("refunds", "owed", *data)
    assert (said.code, order_id in said.out) == (0, True), said.err
    rest = ("--cents", str(cents - 2), "--reference", "SEPA 2", "--reason", "the rest")
    said = await aishop("refunds", "settle", order_id, *rest, *data)
    assert said.code == 0, said.err
    after = await customer.order(order_id)
    # A cent was written off: so much of the order was not given back, and it stays.
    assert (after["owedCents"], after["status"]) == (0, "completed")
    assert order_id not in (await aishop("refunds", "owed", *data)).out
    assert audited(stack, "orders", operator)[-2:] == [
        ("debt.settled_outside", order_id, "his card was closed"),
        ("debt.written_off", order_id, "his card was closed"),
    ]
    assert audit.audit(stack.file) == []
