"""Points that operators give and take: once, with a reason, and never without their audit entry."""

import asyncio
from uuid import UUID, uuid4

import grpc
import pytest

from protos.wallet.v1 import wallet_pb2
from services.chassis.grpc_client import as_domain_error
from tests.integration.wallet.client import Wallet, refused

CONFLICT = grpc.StatusCode.ABORTED
INVALID = grpc.StatusCode.INVALID_ARGUMENT
MAX_POINTS = 10**12


async def in_debt(wallet: Wallet, debt: int) -> UUID:
    """A user whose bought points were spent and then taken back."""
    user = uuid4()
    source = await wallet.grant(user, debt)
    await wallet.spent(user, debt)
    await wallet.grant(user, 0, source=source, version=2)
    assert await wallet.balance(user) == (0, 0, debt)
    return user


async def test_an_adjustment_gives_points_once_and_says_who_and_why(wallet: Wallet) -> None:
    user, adjustment_id = await wallet.user(550), uuid4()
    first = await wallet.adjust(user, 50, adjustment_id=adjustment_id, reason="Late delivery")
    transaction = first.transaction
    assert (transaction.amount, transaction.type) == (50, wallet_pb2.TRANSACTION_TYPE_ADJUSTMENT)
    assert (transaction.description, transaction.order_id, transaction.balance_after) == (
        "Late delivery",
        "",
        600,
    )
    assert (first.profile.id, first.profile.points, first.profile.points_available) == (str(user), 600, 600)
    again = await wallet.adjust(user, 50, adjustment_id=adjustment_id, reason="Late delivery")
    assert again == first
    assert await wallet.audited(user) == [
        {
            "actor": "cli:ada",
            "action": "points.adjusted",
            "reason": "Late delivery",
            "details": {
                "adjustment_id": str(adjustment_id),
                "transaction_id": transaction.id,
                "points": 50,
            },
        }
    ]
    [entry] = (await wallet.ledger(user))[1:]
    assert entry.idempotency_key == f"adjustment:{adjustment_id}"
    await wallet.assert_adds_up(user)


async def test_a_repeated_adjustment_shows_the_profile_as_it_is_now(wallet: Wallet) -> None:
    user, adjustment_id = uuid4(), uuid4()
    await wallet.adjust(user, 50, adjustment_id=adjustment_id)
    await wallet.adjust(user, 7)
    again = await wallet.adjust(user, 50, adjustment_id=adjustment_id)
    assert (again.transaction.balance_after, again.profile.points) == (50, 57)


async def test_points_settle_debt_first(wallet: Wallet) -> None:
    user = await in_debt(wallet, 80)
    forgiven = await wallet.adjust(user, 30, reason="Half of it forgiven")
    assert (forgiven.profile.points, forgiven.profile.points_debt) == (0, 50)
    order = uuid4()
    await refused(wallet.reserve(user, order, 1), grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_POINTS")
    settled = await wallet.adjust(user, 60)
    assert (settled.profile.points, settled.profile.points_debt) == (10, 0)
    assert settled.transaction.balance_after == 10
    await wallet.reserve(user, order, 10)
    await wallet.assert_adds_up(user)


async def test_points_that_are_taken_and_not_free_become_debt(wallet: Wallet) -> None:
    user = await wallet.user(100)
    taken = await wallet.adjust(user, -130, reason="A mistake of ours")
    assert (taken.transaction.amount, taken.transaction.balance_after) == (-130, -30)
    assert (taken.profile.points, taken.profile.points_available, taken.profile.points_debt) == (0, 0, 30)
    await wallet.assert_adds_up(user)


async def test_held_points_stay_held_whatever_is_taken(wallet: Wallet) -> None:
    user, kept, freed = await wallet.user(100), uuid4(), uuid4()
    await wallet.reserve(user, kept, 60)
    await wallet.reserve(user, freed, 20)
    taken = await wallet.adjust(user, -50)
    assert (taken.profile.points, taken.profile.points_held, taken.profile.points_debt) == (80, 80, 30)
    assert taken.transaction.balance_after == 50
    # The promise to the order is older than the debt.
    assert await wallet.capture((user, kept)) == ["CAPTURED"]
    assert await wallet.balance(user) == (20, 20, 30)
    await wallet.release(user, freed)
    assert await wallet.balance(user) == (0, 0, 10)
    assert (await wallet.adjust(user, 10)).profile.points_debt == 0
    await wallet.assert_adds_up(user)


async def test_points_given_while_points_are_held_are_free(wallet: Wallet) -> None:
    user, order = await wallet.user(100), uuid4()
    await wallet.reserve(user, order, 100)
    given = await wallet.adjust(user, 25)
    assert (given.profile.points, given.profile.points_held, given.profile.points_available) == (125, 100, 25)


async def test_a_user_never_seen_may_be_given_points(wallet: Wallet) -> None:
    user = uuid4()
    assert (await wallet.adjust(user, 40)).transaction.seq == 1
    assert await wallet.balance(user) == (40, 0, 0)
    await wallet.assert_adds_up(user)


async def test_twins_adjust_once(wallet: Wallet) -> None:
    user, adjustment_id = await wallet.user(550), uuid4()
    answers = await asyncio.gather(
        *(wallet.adjust(user, -100, adjustment_id=adjustment_id) for _ in range(20))
    )
    assert {answer.transaction.id for answer in answers} == {answers[0].transaction.id}
    assert await wallet.balance(user) == (450, 0, 0)
    assert len(await wallet.audited(user)) == 1
    await wallet.assert_adds_up(user)


async def test_parallel_adjustments_all_count(wallet: Wallet) -> None:
    user, others = await wallet.user(100), [uuid4() for _ in range(10)]
    await asyncio.gather(
        *(wallet.adjust(user, points) for points in (30, -40) * 10),
        *(wallet.adjust(other, 1) for other in others),
    )
    assert await wallet.balance(user) == (0, 0, 0)
    assert len(await wallet.audited(user)) == 20
    assert [len(await wallet.audited(other)) for other in others] == [1] * 10
    await wallet.assert_adds_up(user)


async def test_an_adjustment_id_stands_for_one_adjustment(wallet: Wallet) -> None:
    user, other, adjustment_id = await wallet.user(550), await wallet.user(1), uuid4()
    await wallet.adjust(user, 10, adjustment_id=adjustment_id)
    for call in (
        wallet.adjust(user, 11, adjustment_id=adjustment_id),
        wallet.adjust(user, -10, adjustment_id=adjustment_id),
        wallet.adjust(user, 10, adjustment_id=adjustment_id, reason="Another one"),
        wallet.adjust(other, 10, adjustment_id=adjustment_id),
    ):
        fields = await refused(call, CONFLICT, "ADJUSTMENT_MISMATCH")
        assert fields == {"adjustment_id": str(adjustment_id)}
    assert (await wallet.balance(user), await wallet.balance(other)) == ((560, 0, 0), (1, 0, 0))
    assert len(await wallet.audited(user)) == 1
    assert await wallet.audited(other) == []


async def test_of_twins_for_different_users_one_is_refused(wallet: Wallet) -> None:
    """No profile's lock orders these: the unique key of the ledger does."""
    for _ in range(10):
        users, adjustment_id = [uuid4() for _ in range(4)], uuid4()
        answers = await asyncio.gather(
            *(wallet.adjust(user, 5, adjustment_id=adjustment_id) for user in users), return_exceptions=True
        )
        given = [answer for answer in answers if isinstance(answer, wallet_pb2.AdjustPointsResponse)]
        told = [as_domain_error(a).reason for a in answers if isinstance(a, grpc.aio.AioRpcError)]
        assert (len(given), told) == (1, ["ADJUSTMENT_MISMATCH"] * 3)
        assert sum([(await wallet.balance(user))[0] for user in users]) == 5


@pytest.mark.parametrize("points", [0, MAX_POINTS + 1, -MAX_POINTS - 1])
async def test_points_are_bounded_and_not_zero(wallet: Wallet, points: int) -> None:
    fields = await refused(wallet.adjust(uuid4(), points), INVALID, "INVALID_FIELD")
    assert fields == {"field": "points"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("reason", ""), ("reason", "x" * 501), ("reason", "a\x00b"), ("actor", ""), ("actor", "x" * 256)],
)
async def test_reason_and_actor_are_given_and_bounded(wallet: Wallet, field: str, value: str) -> None:
    user = uuid4()
    texts = {"reason": "A gift", "actor": "cli:ada"} | {field: value}
    call = wallet.adjust(user, 1, reason=texts["reason"], actor=texts["actor"])
    assert await refused(call, INVALID, "INVALID_FIELD") == {"field": field}
    assert await wallet.audited(user) == []
