"""Calls that Stripe carried out and whose answers were lost, many at once: one session, one refund each."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from deploy.local.ephemeral import pauses
from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import Payments
from tests.integration.payments.sandbox import REFUNDS, SESSIONS, Sandbox, sandbox_of
from tests.integration.payments.test_refunds import PAID

# Out of patience, a stored 500, and a connection that breaks.
LOSSES = ("timeout_after_effect", "error_after_effect", "cut_after_effect")
_AT_ONCE = 25
_SECONDS = 120.0


@pytest.fixture
def payments(sandboxed: Payments) -> Payments:
    return sandboxed


@pytest.fixture
def stripe(payments: Payments) -> Sandbox:
    return sandbox_of(payments)


def of_each_kind(calls: int) -> Counter[str]:
    return Counter(LOSSES[place % len(LOSSES)] for place in range(calls))


async def lose_answers(stripe: Sandbox, path: str, calls: int) -> None:
    """What befalls the next calls, so many of each kind."""
    for kind, count in of_each_kind(calls).items():
        await stripe.fault(path, kind, count=count)


async def together(works: Iterable[Awaitable[None]]) -> None:
    """No more at once than a shop of some replicas asks for."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(work: Awaitable[None]) -> None:
        async with slots:
            await work

    await asyncio.gather(*(one(work) for work in works))


async def insist(call: Callable[[], Awaitable[object]]) -> None:
    """As orders does: what is unavailable, or under way at Stripe, is asked for again a little later."""
    async with asyncio.timeout(_SECONDS):
        for pause in pauses():
            try:
                await call()
                return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(pause)


async def ask_for_page(payments: Payments, order_id: UUID) -> None:
    await insist(lambda: payments.order_checkout(order_id))


async def give_back(payments: Payments, order_id: UUID) -> None:
    """The whole order; the refund has the order's id."""
    request = pb.CreateRefundRequest(
        order_id=str(order_id), refund_id=str(order_id), amount_cents=PAID, reason="lost"
    )
    await insist(lambda: payments.stub.CreateRefund(request))


async def sessions_of(stripe: Sandbox, orders: list[UUID]) -> list[dict[str, Any]]:
    names = {str(order) for order in orders}
    listed = await stripe.listed("checkout/sessions")
    return [session for session in listed if session["metadata"].get("order_id") in names]


async def until_all(payments: Payments, table: str, orders: list[UUID], status: str) -> None:
    """However long it takes: only a standstill fails."""
    query = f"SELECT count(*) FROM {table} WHERE order_id = ANY(%s) AND status = %s"
    done = -1
    while done < len(orders):
        [row] = await payments.sql(query, orders, status)
        if row["count"] > done:
            done, deadline, pause = row["count"], time.monotonic() + _SECONDS, pauses()
        assert time.monotonic() < deadline, f"{done} of {len(orders)} {table} are {status}"
        await asyncio.sleep(next(pause))


@pytest.mark.parametrize(
    "calls", [pytest.param(25, id="50"), pytest.param(500, id="1000", marks=pytest.mark.long)]
)
@pytest.mark.timeout(1500)
async def test_lost_answers_make_no_second_session_and_no_second_refund(
    payments: Payments, stripe: Sandbox, calls: int, record_property: Callable[[str, object], None]
) -> None:
    orders = [uuid4() for _ in range(calls)]
    before = Counter((await stripe.state())["fired"])
    await lose_answers(stripe, SESSIONS, calls)
    await together(ask_for_page(payments, order) for order in orders)
    await until_all(payments, "checkouts", orders, "open")
    sessions = await sessions_of(stripe, orders)
    once_each = Counter(str(order) for order in orders)
    assert Counter(session["metadata"]["order_id"] for session in sessions) == once_each

    await together(stripe.pay(session["url"]) for session in sessions)
    await until_all(payments, "checkouts", orders, "paid")
    await lose_answers(stripe, REFUNDS, calls)
    await together(give_back(payments, order) for order in orders)
    await until_all(payments, "refunds", orders, "succeeded")
    intents = {session["payment_intent"] for session in await sessions_of(stripe, orders)}
    refunds = [each for each in await stripe.listed("refunds") if each["payment_intent"] in intents]
    assert Counter(refund["metadata"].get("refund_id") for refund in refunds) == once_each

    fired = Counter((await stripe.state())["fired"]) - before
    assert fired == of_each_kind(calls) + of_each_kind(calls)
    record_property(
        "proof", {"orders": calls, "double sessions": 0, "double refunds": 0, "fired": dict(fired)}
    )
