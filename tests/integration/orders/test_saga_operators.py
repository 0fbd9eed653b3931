"""What operators do to saga runs: see them, try them again, turn them around; each once in the audit log."""

from uuid import uuid4

import grpc
import pytest

from protos.orders.v1 import orders_pb2 as pb
from services.orders.card_saga import PAID, PLACE_WITH_CARD
from services.orders.points_saga import PLACE_WITH_POINTS
from services.orders.refund_saga import REFUND_ORDER
from tests.integration.orders.shop import STRIPE, Shop
from tests.integration.orders.test_card_orders import tell
from tests.integration.wallet.client import refused

REJECTED, NOT_FOUND = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def retry(shop: Shop, order_id: str, saga: str, **more: str) -> pb.Saga:
    given = {"actor": "operator", "reason": "looked into it"} | more
    request = pb.RetrySagaRequest(order_id=order_id, saga=saga, **given)
    return (await shop.operator.RetrySaga(request)).saga


async def compensate(shop: Shop, order_id: str, saga: str) -> pb.Saga:
    request = pb.CompensateSagaRequest(
        order_id=order_id, saga=saga, actor="operator", reason="the customer called"
    )
    return (await shop.operator.CompensateSaga(request)).saga


async def audited(shop: Shop, order_id: str) -> list[tuple[str, str]]:
    rows = await shop.sql("SELECT * FROM audit_log WHERE subject = %s ORDER BY seq", order_id)
    return [(row["action"], row["reason"]) for row in rows]


async def test_a_stuck_run_goes_on_when_it_is_tried_again(shop: Shop) -> None:
    user_id, picture = uuid4(), await shop.product(cents=500, stock=1)
    order = await shop.place(user_id, {picture: 1}, method=STRIPE)
    await tell(shop, order, PAID, 2, amount_cents=1)
    await shop.run_ends(order.id, "stuck")
    # What was wrong is mended at payments.
    assert shop.payments.pay(order.id)
    saga = await retry(shop, order.id, PLACE_WITH_CARD)
    assert (saga.step, list(saga.steps)) == ("await_payment", ["open_checkout", "await_payment"])
    await shop.becomes(order.id, "completed")
    assert await audited(shop, order.id) == [("saga.retried", "looked into it")]
    fields = await refused(retry(shop, order.id, PLACE_WITH_CARD), REJECTED, "SAGA_ENDED")
    assert fields["status"] == "done"


async def test_a_run_that_waits_for_its_payment_is_left_alone(shop: Shop) -> None:
    order = await shop.place(uuid4(), {await shop.product(): 1}, method=STRIPE)
    fields = await refused(retry(shop, order.id, PLACE_WITH_CARD), REJECTED, "SAGA_WAITS")
    assert fields == {"step": "await_payment"}
    assert shop.payments.pay(order.id)
    assert await audited(shop, order.id) == []


async def test_a_run_before_its_pivot_is_turned_around(shop: Shop) -> None:
    user_id, picture = uuid4(), await shop.product(cents=500, stock=1)
    order = await shop.place(user_id, {picture: 1}, method=STRIPE)
    saga = await compensate(shop, order.id, PLACE_WITH_CARD)
    assert saga.undo_reason == "compensated_by_operator"
    row = await shop.becomes(order.id, "failed")
    assert (row["failure_reason"], await shop.stock(picture)) == ("compensated_by_operator", (1, 0))
    assert not shop.payments.pay(order.id)
    assert await audited(shop, order.id) == [("saga.compensated", "the customer called")]


async def test_past_its_pivot_a_run_only_goes_forward(shop: Shop) -> None:
    user_id, picture = await shop.wallet.user(100), await shop.product(points=50)
    order = await shop.place(user_id, {picture: 1})
    await shop.run_ends(order.id, "done")
    await shop.sql(
        "UPDATE saga_runs SET status = 'stuck' WHERE order_id = %s AND saga = %s", order.id, PLACE_WITH_POINTS
    )
    await refused(compensate(shop, order.id, PLACE_WITH_POINTS), REJECTED, "SAGA_PAST_PIVOT")
    await retry(shop, order.id, PLACE_WITH_POINTS)
    await shop.run_ends(order.id, "done")
    assert await shop.wallet.balance(user_id) == (50, 0, 0)
    assert await audited(shop, order.id) == [("saga.retried", "looked into it")]


async def test_runs_are_listed_by_status_and_name_page_by_page(shop: Shop) -> None:
    picture = await shop.product(cents=500)
    placed = [(await shop.place(uuid4(), {picture: 1}, method=STRIPE)).id for _ in range(3)]
    seen: list[pb.Saga] = []
    cursor = ""
    while True:
        request = pb.ListSagasRequest(saga="place_order_with_card", limit=2, cursor=cursor)
        page = await shop.operator.ListSagas(request)
        seen += page.items
        if not (cursor := page.next_cursor):
            break
    assert [run.order_id for run in seen if run.order_id in placed] == placed
    assert {run.status for run in seen} <= {"running", "undoing", "stuck"}
    done = await shop.operator.ListSagas(pb.ListSagasRequest(status="done", limit=100))
    assert {run.status for run in done.items} <= {"done"}


@pytest.mark.parametrize(
    "request_",
    [
        pb.ListSagasRequest(status="lost"),
        pb.ListSagasRequest(limit=101),
        pb.ListSagasRequest(cursor="!"),
        pb.ListSagasRequest(cursor="eA"),
        pb.ListSagasRequest(saga="\0"),
    ],
)
async def test_a_list_of_nonsense_is_refused(shop: Shop, request_: pb.ListSagasRequest) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.operator.ListSagas(request_)
    assert caught.value.code() is INVALID


async def test_who_and_why_must_be_said(shop: Shop) -> None:
    order = await shop.place(uuid4(), {await shop.product(): 1}, method=STRIPE)
    for missing in ({"actor": ""}, {"reason": ""}, {"reason": "x" * 501}):
        await refused(retry(shop, order.id, PLACE_WITH_CARD, **missing), INVALID, "INVALID_FIELD")
    await refused(retry(shop, order.id, REFUND_ORDER), NOT_FOUND, "SAGA_NOT_FOUND")
    assert await audited(shop, order.id) == []
