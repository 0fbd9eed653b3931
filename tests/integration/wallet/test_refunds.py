"""Points of an order given back."""

import asyncio
from uuid import uuid4

import grpc

from protos.wallet.v1 import wallet_pb2
from services.chassis.grpc_client import as_domain_error
from tests.integration.wallet.client import Wallet, refused

REJECTED = grpc.StatusCode.FAILED_PRECONDITION
CONFLICT = grpc.StatusCode.ABORTED
NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def test_a_refund_gives_points_back_once(wallet: Wallet) -> None:
    user = await wallet.user(550)
    order, refund_id = await wallet.spent(user, 200), uuid4()
    first = await wallet.refund(user, order, 50, refund_id=refund_id, reason="One image was blurred")
    assert (first.amount, first.type, first.balance_after) == (50, wallet_pb2.TRANSACTION_TYPE_REFUND, 400)
    assert (first.description, first.order_id, first.seq) == ("One image was blurred", str(order), 3)
    assert await wallet.refund(user, order, 50, refund_id=refund_id, reason="again") == first
    assert await wallet.balance(user) == (400, 0, 0)
    await wallet.assert_adds_up(user)


async def test_refunds_never_exceed_what_was_spent(wallet: Wallet) -> None:
    user = await wallet.user(550)
    order = await wallet.spent(user, 200)
    await wallet.refund(user, order, 150)
    fields = await refused(wallet.refund(user, order, 51), REJECTED, "REFUND_EXCEEDS_SPEND")
    assert fields == {"requested": "51", "refundable": "50"}
    await wallet.refund(user, order, 50)
    await refused(wallet.refund(user, order, 1), REJECTED, "REFUND_EXCEEDS_SPEND")
    assert await wallet.balance(user) == (550, 0, 0)


async def test_parallel_refunds_never_exceed_what_was_spent(wallet: Wallet) -> None:
    user = await wallet.user(550)
    order = await wallet.spent(user, 100)
    refund_ids = [uuid4() for _ in range(20)] * 2
    answers = await asyncio.gather(
        *(wallet.refund(user, order, 10, refund_id=refund_id) for refund_id in refund_ids),
        return_exceptions=True,
    )
    given = {answer.id for answer in answers if isinstance(answer, wallet_pb2.Transaction)}
    failed = {as_domain_error(a).reason for a in answers if isinstance(a, grpc.aio.AioRpcError)}
    assert (len(given), failed) == (10, {"REFUND_EXCEEDS_SPEND"})
    assert await wallet.balance(user) == (550, 0, 0)
    await wallet.assert_adds_up(user)


async def test_only_spent_points_can_be_refunded(wallet: Wallet) -> None:
    user, order, released = await wallet.user(550), uuid4(), uuid4()
    await refused(wallet.refund(user, order, 1), NOT_FOUND, "HOLD_NOT_FOUND")
    await wallet.reserve(user, order, 200)
    await refused(wallet.refund(user, order, 1), CONFLICT, "NOT_CAPTURED")
    await wallet.release(user, released)
    await refused(wallet.refund(user, released, 1), CONFLICT, "NOT_CAPTURED")
    await refused(wallet.refund(uuid4(), order, 1), NOT_FOUND, "HOLD_NOT_FOUND")
    assert await wallet.balance(user) == (550, 200, 0)


async def test_an_order_of_somebody_else_cannot_be_refunded(wallet: Wallet) -> None:
    user, other = await wallet.user(550), await wallet.user(1)
    order, refund_id = await wallet.spent(user, 200), uuid4()
    await refused(wallet.refund(other, order, 1), NOT_FOUND, "HOLD_NOT_FOUND")
    await wallet.refund(user, order, 1, refund_id=refund_id)
    await refused(wallet.refund(other, order, 1, refund_id=refund_id), CONFLICT, "REFUND_MISMATCH")
    assert await wallet.balance(other) == (1, 0, 0)


async def test_a_refund_id_stands_for_one_refund(wallet: Wallet) -> None:
    user = await wallet.user(550)
    order, other_order, refund_id = await wallet.spent(user, 100), await wallet.spent(user, 100), uuid4()
    await wallet.refund(user, order, 10, refund_id=refund_id)
    for call in (
        wallet.refund(user, order, 11, refund_id=refund_id),
        wallet.refund(user, other_order, 10, refund_id=refund_id),
    ):
        await refused(call, CONFLICT, "REFUND_MISMATCH")
    assert await wallet.balance(user) == (360, 0, 0)


async def test_a_refund_pays_debt_first(wallet: Wallet) -> None:
    user = uuid4()
    source = await wallet.grant(user, 100)
    order = await wallet.spent(user, 80)
    await wallet.grant(user, 50, source=source, version=2)
    assert await wallet.balance(user) == (0, 0, 30)
    transaction = await wallet.refund(user, order, 50)
    assert transaction.balance_after == 20
    assert await wallet.balance(user) == (20, 0, 0)
    await wallet.assert_adds_up(user)


async def test_reasons_are_bounded_text(wallet: Wallet) -> None:
    user = await wallet.user(550)
    order = await wallet.spent(user, 200)
    for reason in ("x" * 501, "a\x00b"):
        call = wallet.refund(user, order, 1, reason=reason)
        await refused(call, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert (await wallet.refund(user, order, 1)).description == "Refund"
