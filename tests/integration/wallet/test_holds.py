"""Reserve, capture and release, over gRPC."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import grpc
import pytest

from protos.wallet.v1 import wallet_pb2
from services.chassis.grpc_client import as_domain_error
from tests.integration.wallet.client import Wallet, refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT
REJECTED = grpc.StatusCode.FAILED_PRECONDITION
CONFLICT = grpc.StatusCode.ABORTED


async def test_a_reserve_holds_points_until_it_is_due(wallet: Wallet) -> None:
    user, order = await wallet.user(550), uuid4()
    asked_at = datetime.now(UTC)
    hold = await wallet.reserve(user, order, 200)
    assert (hold.user_id, hold.order_id, hold.points) == (str(user), str(order), 200)
    assert hold.status == wallet_pb2.HOLD_STATUS_HELD
    assert timedelta(seconds=55) < hold.due_at.ToDatetime(UTC) - asked_at < timedelta(seconds=65)
    profile = await wallet.profile(user)
    assert (profile.points, profile.points_held, profile.points_available) == (550, 200, 350)
    await wallet.assert_adds_up(user)


async def test_the_same_reserve_gives_the_same_hold(wallet: Wallet) -> None:
    user, order = await wallet.user(550), uuid4()
    first = await wallet.reserve(user, order, 200)
    assert await wallet.reserve(user, order, 200) == first
    assert await wallet.balance(user) == (550, 200, 0)


async def test_the_same_reserve_is_recognised_when_nothing_else_is_left(wallet: Wallet) -> None:
    user, order = await wallet.user(550), uuid4()
    first = await wallet.reserve(user, order, 550)
    assert await wallet.reserve(user, order, 550) == first
    assert await wallet.capture((user, order)) == ["CAPTURED"]
    again = await wallet.reserve(user, order, 550)
    assert (again.id, again.status) == (first.id, wallet_pb2.HOLD_STATUS_CAPTURED)
    assert await wallet.balance(user) == (0, 0, 0)


async def test_other_points_for_the_same_order_are_a_mismatch(wallet: Wallet) -> None:
    user, order = await wallet.user(550), uuid4()
    await wallet.reserve(user, order, 200)
    for points in (199, 201, 500):
        await refused(wallet.reserve(user, order, points), CONFLICT, "HOLD_MISMATCH")
    assert await wallet.balance(user) == (550, 200, 0)


async def test_a_hold_of_somebody_else_is_a_mismatch_that_tells_nothing(wallet: Wallet) -> None:
    owner, other, order = await wallet.user(550), await wallet.user(300), uuid4()
    await wallet.reserve(owner, order, 200)
    fields = await refused(wallet.reserve(other, order, 200), CONFLICT, "HOLD_MISMATCH")
    assert fields == {"order_id": str(order)}
    await refused(wallet.release(other, order), CONFLICT, "HOLD_MISMATCH")
    assert await wallet.capture((other, order)) == ["NOT_FOUND"]
    assert await wallet.balance(owner) == (550, 200, 0)
    assert await wallet.balance(other) == (300, 0, 0)


async def test_too_few_points_say_what_is_needed_and_available(wallet: Wallet) -> None:
    user = await wallet.user(550)
    await wallet.reserve(user, uuid4(), 500)
    fields = await refused(wallet.reserve(user, uuid4(), 51), REJECTED, "INSUFFICIENT_POINTS")
    assert fields == {"needed": "51", "available": "50"}
    fields = await refused(wallet.reserve(uuid4(), uuid4(), 1), REJECTED, "INSUFFICIENT_POINTS")
    assert fields == {"needed": "1", "available": "0"}
    assert await wallet.balance(user) == (550, 500, 0)


@pytest.mark.parametrize("points", [0, -1, -(2**63), 10**12 + 1, 2**63 - 1])
async def test_points_out_of_bounds_are_invalid(wallet: Wallet, points: int) -> None:
    user = await wallet.user(550)
    assert await refused(wallet.reserve(user, uuid4(), points), INVALID, "INVALID_FIELD") == {
        "field": "points"
    }
    await refused(wallet.refund(user, uuid4(), points), INVALID, "INVALID_FIELD")
    assert await wallet.balance(user) == (550, 0, 0)


@pytest.mark.parametrize("bad", ["", "x", "00000000-0000-0000-0000-00000000000g", "\x00", "1" * 1000])
async def test_malformed_ids_are_invalid(wallet: Wallet, bad: str) -> None:
    good, stub = str(uuid4()), wallet.stub
    capture = wallet_pb2.CapturePointsRequest.Capture
    calls: list[tuple[str, Awaitable[object]]] = [
        ("user_id", stub.GetProfile(wallet_pb2.GetProfileRequest(user_id=bad))),
        ("user_id", stub.ListTransactions(wallet_pb2.ListTransactionsRequest(user_id=bad))),
        ("user_id", stub.ReservePoints(_reserve(bad, good))),
        ("order_id", stub.ReservePoints(_reserve(good, bad))),
        ("user_id", stub.ReleasePoints(wallet_pb2.ReleasePointsRequest(user_id=bad, order_id=good))),
        ("order_id", stub.ReleasePoints(wallet_pb2.ReleasePointsRequest(user_id=good, order_id=bad))),
        ("user_id", stub.CapturePoints(_captures(capture(user_id=bad, order_id=good)))),
        ("order_id", stub.CapturePoints(_captures(capture(user_id=good, order_id=bad)))),
        ("user_id", stub.RefundOrderPoints(_refund(bad, good, good))),
        ("order_id", stub.RefundOrderPoints(_refund(good, bad, good))),
        ("refund_id", stub.RefundOrderPoints(_refund(good, good, bad))),
    ]
    for field, call in calls:
        assert await refused(call, INVALID, "INVALID_FIELD") == {"field": field}


def _reserve(user: str, order: str) -> wallet_pb2.ReservePointsRequest:
    return wallet_pb2.ReservePointsRequest(user_id=user, order_id=order, points=1)


def _captures(*captures: wallet_pb2.CapturePointsRequest.Capture) -> wallet_pb2.CapturePointsRequest:
    return wallet_pb2.CapturePointsRequest(captures=captures)


def _refund(user: str, order: str, refund: str) -> wallet_pb2.RefundOrderPointsRequest:
    return wallet_pb2.RefundOrderPointsRequest(user_id=user, order_id=order, refund_id=refund, points=1)


async def test_fifty_parallel_reserves_on_a_balance_for_ten_give_exactly_ten(wallet: Wallet) -> None:
    user = await wallet.user(1000)
    orders = [uuid4() for _ in range(50)]
    answers = await asyncio.gather(
        *(wallet.reserve(user, order, 100) for order in orders), return_exceptions=True
    )
    held = [answer for answer in answers if isinstance(answer, wallet_pb2.Hold)]
    failed = [
        as_domain_error(answer).reason for answer in answers if isinstance(answer, grpc.aio.AioRpcError)
    ]
    assert (len(held), failed) == (10, ["INSUFFICIENT_POINTS"] * 40)
    assert await wallet.balance(user) == (1000, 1000, 0)
    await wallet.assert_adds_up(user)


async def test_a_refusal_under_contention_is_always_a_true_one(wallet: Wallet) -> None:
    """Points that come and go between the first look and the reason for refusing confuse nobody."""
    user = await wallet.user(100)

    async def reserve_and_release() -> None:
        for _ in range(10):
            order = uuid4()
            try:
                await wallet.reserve(user, order, 100)
            except grpc.aio.AioRpcError as error:
                told = as_domain_error(error)
                assert (told.reason, told.fields) == (
                    "INSUFFICIENT_POINTS",
                    {"needed": "100", "available": "0"},
                )
            else:
                await wallet.release(user, order)

    await asyncio.gather(*(reserve_and_release() for _ in range(20)))
    assert await wallet.balance(user) == (100, 0, 0)
    await wallet.assert_adds_up(user)


async def test_parallel_copies_of_one_reserve_make_one_hold(wallet: Wallet) -> None:
    user, order = await wallet.user(1000), uuid4()
    answers = await asyncio.gather(*(wallet.reserve(user, order, 100) for _ in range(20)))
    assert len({answer.id for answer in answers}) == 1
    assert await wallet.balance(user) == (1000, 100, 0)


async def test_a_capture_spends_once_and_writes_the_ledger(wallet: Wallet) -> None:
    user, order = await wallet.user(550), uuid4()
    await wallet.reserve(user, order, 200)
    for _ in range(2):
        assert await wallet.capture((user, order)) == ["CAPTURED"]
    assert await wallet.balance(user) == (350, 0, 0)
    _, spend = await wallet.ledger(user)
    assert (spend.amount, spend.type, spend.description, spend.balance_after) == (-200, "spend", "Order", 350)
    assert (spend.order_id, spend.idempotency_key) == (order, f"spend:{order}")
    await wallet.assert_adds_up(user)


async def test_a_batch_gives_each_capture_its_own_result(wallet: Wallet) -> None:
    first, second = await wallet.user(550), await wallet.user(100)
    orders = [uuid4() for _ in range(4)]
    await wallet.reserve(first, orders[0], 100)
    await wallet.reserve(second, orders[1], 100)
    await wallet.reserve(first, orders[2], 200)
    await wallet.reserve(first, orders[3], 50)
    await wallet.release(first, orders[3])
    outcomes = await wallet.capture(
        (first, orders[0]),
        (second, orders[1]),
        (first, orders[2]),
        (first, orders[2]),
        (first, orders[3]),
        (second, orders[0]),
        (uuid4(), uuid4()),
    )
    assert outcomes == [*["CAPTURED"] * 4, "RELEASED", "NOT_FOUND", "NOT_FOUND"]
    assert await wallet.balance(first) == (250, 0, 0)
    assert await wallet.balance(second) == (0, 0, 0)
    for user in (first, second):
        await wallet.assert_adds_up(user)


async def test_a_batch_holds_1_to_100_captures(wallet: Wallet) -> None:
    user = await wallet.user(101)
    orders = [(user, uuid4()) for _ in range(101)]
    await asyncio.gather(*(wallet.reserve(user, order, 1) for _, order in orders))
    await refused(wallet.capture(*orders), INVALID, "INVALID_FIELD")
    await refused(wallet.capture(), INVALID, "INVALID_FIELD")
    assert await wallet.balance(user) == (101, 101, 0)
    assert await wallet.capture(*orders[:100]) == ["CAPTURED"] * 100
    assert await wallet.balance(user) == (1, 1, 0)
    await wallet.assert_adds_up(user)


async def test_batches_with_the_same_users_in_any_order_never_deadlock(wallet: Wallet) -> None:
    users = [await wallet.user(1000) for _ in range(6)]
    batches: list[list[tuple[UUID, UUID]]] = []
    for number in range(20):
        batch = [(user, uuid4()) for user in users]
        for user, order in batch:
            await wallet.reserve(user, order, 10)
        batches.append(batch if number % 2 else batch[::-1])
    # Every batch comes twice, the second time upside down.
    outcomes = await asyncio.gather(*(wallet.capture(*b) for batch in batches for b in (batch, batch[::-1])))
    assert {outcome for batch in outcomes for outcome in batch} == {"CAPTURED"}
    for user in users:
        assert await wallet.balance(user) == (800, 0, 0)
        await wallet.assert_adds_up(user)


async def test_a_release_frees_the_points_once(wallet: Wallet) -> None:
    user, order = await wallet.user(550), uuid4()
    await wallet.reserve(user, order, 200)
    for _ in range(2):
        assert await wallet.release(user, order) == "RELEASED"
    assert await wallet.balance(user) == (550, 0, 0)
    await refused(wallet.reserve(user, order, 200), CONFLICT, "HOLD_RELEASED")
    assert await wallet.capture((user, order)) == ["RELEASED"]
    assert await wallet.balance(user) == (550, 0, 0)
    await wallet.assert_adds_up(user)


async def test_a_release_after_the_capture_changes_nothing(wallet: Wallet) -> None:
    user = await wallet.user(550)
    order = await wallet.spent(user, 200)
    assert await wallet.release(user, order) == "CAPTURED"
    assert await wallet.balance(user) == (350, 0, 0)


async def test_a_release_before_its_reserve_leaves_a_tombstone(wallet: Wallet) -> None:
    user, order = await wallet.user(550), uuid4()
    for _ in range(2):
        assert await wallet.release(user, order) == "RELEASED"
    await refused(wallet.reserve(user, order, 200), CONFLICT, "HOLD_RELEASED")
    assert await wallet.capture((user, order)) == ["RELEASED"]
    [hold] = await wallet.sql("SELECT points, status FROM holds WHERE order_id = %s", order)
    assert hold == {"points": 0, "status": "released"}
    assert await wallet.balance(user) == (550, 0, 0)


async def test_a_release_for_a_user_never_seen_leaves_a_tombstone_too(wallet: Wallet) -> None:
    user, order = uuid4(), uuid4()
    assert await wallet.release(user, order) == "RELEASED"
    await wallet.grant(user, 550)
    await refused(wallet.reserve(user, order, 200), CONFLICT, "HOLD_RELEASED")
    assert await wallet.balance(user) == (550, 0, 0)


async def test_releases_racing_reserves_leave_nothing_held(wallet: Wallet) -> None:
    user = await wallet.user(1000)
    orders = [uuid4() for _ in range(50)]
    answers = await asyncio.gather(
        *(
            call
            for order in orders
            for call in (wallet.release(user, order), wallet.reserve(user, order, 10))
        ),
        return_exceptions=True,
    )
    errors = {as_domain_error(a).reason for a in answers if isinstance(a, grpc.aio.AioRpcError)}
    assert errors <= {"HOLD_RELEASED"}
    assert not [a for a in answers if isinstance(a, Exception) and not isinstance(a, grpc.aio.AioRpcError)]
    assert await wallet.balance(user) == (1000, 0, 0)
    await wallet.assert_adds_up(user)


async def test_captures_racing_releases_resolve_each_hold_once(wallet: Wallet) -> None:
    user = await wallet.user(1000)
    orders = [uuid4() for _ in range(40)]
    await asyncio.gather(*(wallet.reserve(user, order, 10) for order in orders))

    async def race(order: UUID) -> tuple[list[str], str]:
        return await asyncio.gather(wallet.capture((user, order)), wallet.release(user, order))

    ends = await asyncio.gather(*(race(order) for order in orders))
    assert all([released] == captured for captured, released in ends)
    spent = sum(10 for captured, _ in ends if captured == ["CAPTURED"])
    assert await wallet.balance(user) == (1000 - spent, 0, 0)
    await wallet.assert_adds_up(user)
