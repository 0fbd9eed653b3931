"""What operators count of points, beside numbers that were worked out by hand."""

import os
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import grpc

from protos.wallet.v1 import wallet_pb2
from tests.integration.wallet.client import Wallet, refused

# Long before any other test's points.
SINCE = datetime(2021, 3, 1, tzinfo=UTC)
UNTIL = datetime(2021, 3, 8, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


async def count(
    wallet: Wallet, since: datetime = SINCE, until: datetime = UNTIL
) -> wallet_pb2.GetAnalyticsResponse:
    request = wallet_pb2.GetAnalyticsRequest()
    request.since.FromDatetime(since)
    request.until.FromDatetime(until)
    return await wallet.stub.GetAnalytics(request)


async def post(wallet: Wallet, user_id: UUID, seq: int, type: str, points: int, at: datetime) -> None:
    """A line of the ledger as it was written then, by a process whose clock was 59 minutes late."""
    await wallet.sql(
        "INSERT INTO points_transactions (id, user_id, seq, amount, type, description, order_id,"
        " idempotency_key, balance_after, prev_hash, hash, hash_version, processed_at, created_at)"
        " VALUES (uuidv7(%s - now()), %s, %s, %s, %s, '', %s, %s, 0, %s, %s, 1, %s, %s)",
        *(at - timedelta(minutes=59), user_id, seq, points, type, uuid4(), str(uuid4())),
        *(bytes(32) if seq == 1 else os.urandom(32), os.urandom(32), at, at),
    )


async def test_points_that_moved_in_a_range_are_summed_by_kind(wallet: Wallet) -> None:
    user_id, middle = uuid4(), SINCE + timedelta(days=3)
    await wallet.sql("INSERT INTO profiles (id) VALUES (%s)", user_id)
    moved = [
        *(("purchase", 7777, SINCE - INSTANT), ("purchase", 1000, SINCE)),
        *(("purchase", 550, UNTIL - INSTANT), ("purchase", 9999, UNTIL)),
        *(("spend", -300, middle), ("spend", -20, middle), ("refund", 120, middle)),
        # Taken back, and half of it restored by a dispute that was won.
        *(("reversal", -200, middle), ("reversal", 50, middle)),
        *(("adjustment", 40, middle), ("adjustment", -15, middle)),
    ]
    for seq, (type, points, at) in enumerate(moved, 1):
        await post(wallet, user_id, seq, type, points, at)
    assert (await count(wallet)).moved == wallet_pb2.GetAnalyticsResponse.Moved(
        sold=1550, spent=320, refunded=120, reversed=150, adjusted=25
    )


async def test_what_is_out_now_is_the_sum_of_all_balances(wallet: Wallet) -> None:
    before = (await count(wallet)).now
    user_id = await wallet.user(500)
    await wallet.reserve(user_id, uuid4(), 120)
    await wallet.adjust(uuid4(), -70)
    after = (await count(wallet)).now
    assert (
        after.outstanding - before.outstanding,
        after.held - before.held,
        after.debt - before.debt,
    ) == (500, 120, 70)


async def test_a_range_in_which_nothing_moved_has_zeros(wallet: Wallet) -> None:
    quiet = SINCE - timedelta(days=300)
    told = await count(wallet, quiet, quiet + timedelta(days=1))
    assert told.moved == wallet_pb2.GetAnalyticsResponse.Moved()


async def test_what_is_no_range_is_refused(wallet: Wallet) -> None:
    fields = await refused(count(wallet, UNTIL, SINCE), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert fields["field"] == "until"
