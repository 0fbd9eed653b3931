"""Leases of saga runs: one holder at a time, and a holder that lost its lease writes nothing."""

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from protos.events.v1 import events_pb2
from services.chassis.db import Database
from services.orders.commands import runs, settling
from services.orders.commands.bounds import Bounds
from services.orders.commands.placing import Placement, place_order
from services.orders.fulfilment import Terms
from services.orders.points_saga import CAPTURE, PLACE_WITH_POINTS, RESERVE
from services.orders.queries.catalog import list_products
from services.orders.queries.orders import find_order
from services.orders.rules import Method, Status


async def placed(database: Database, *, lease_seconds: float = 10.0) -> Placement:
    async with database.anyone() as connection:
        [product] = await list_products(connection, limit=1, after=None)
    placement = Placement(
        order_id=uuid4(),
        user_id=uuid4(),
        method=Method.POINTS,
        quantities={product.id: 1},
        email=None,
        idempotency_key=str(uuid4()),
        request_hash=b"x",
        cart_version=None,
        saga=PLACE_WITH_POINTS,
        first_step=RESERVE,
        lease_token=uuid4(),
        lease_seconds=lease_seconds,
        bounds=Bounds(open_orders=5, reserved_pieces=100, failed_checkouts=100),
    )
    async with database.customer_sql(placement.user_id) as connection_:
        assert await place_order(connection_, placement) is not None
    return placement


async def confirm(database: Database, placement: Placement, token: UUID) -> bool:
    async with database.worker_statement() as connection:
        confirmed = await settling.confirm_points_order(
            connection,
            event=events_pb2.OrderCompleted(order_id=str(placement.order_id)),
            order_id=placement.order_id,
            saga=PLACE_WITH_POINTS,
            step=RESERVE,
            next_step=CAPTURE,
            lease_token=token,
            lease_seconds=10,
            mail_lease_seconds=10,
            terms=Terms(grant_days=30, downloads=5, reissues=3, link_seconds=900),
        )
    return confirmed is not None


async def status(database: Database, placement: Placement) -> Status:
    async with database.worker() as connection:
        order = await find_order(connection, placement.order_id)
    assert order is not None
    return order.status


async def claim(database: Database, placement: Placement) -> runs.Run | None:
    async with database.worker() as connection:
        claimed = await runs.claim_due(connection, lease_token=uuid4(), lease_seconds=10, limit=1000)
    return next((run for run in claimed if run.order_id == placement.order_id), None)


async def test_the_holder_confirms_once(database: Database) -> None:
    placement = await placed(database)
    assert await confirm(database, placement, placement.lease_token)
    assert await status(database, placement) is Status.COMPLETED
    assert not await confirm(database, placement, placement.lease_token)


async def test_a_live_lease_is_not_claimed_and_an_expired_one_is(database: Database) -> None:
    live = await placed(database)
    assert await claim(database, live) is None
    expired = await placed(database, lease_seconds=0)
    assert await claim(database, expired) is not None
    # Now it is leased again.
    assert await claim(database, expired) is None


async def test_who_lost_the_lease_changes_nothing(database: Database) -> None:
    placement = await placed(database, lease_seconds=0)
    run = await claim(database, placement)
    assert run is not None
    assert not await confirm(database, placement, placement.lease_token)
    assert await status(database, placement) is Status.PENDING
    assert await confirm(database, placement, run.lease_token)


async def test_after_the_turn_around_the_former_holder_cannot_confirm(database: Database) -> None:
    placement = await placed(database)
    async with database.worker() as connection:
        run = await runs.lock_run(connection, order_id=placement.order_id, saga=PLACE_WITH_POINTS)
        assert run is not None
        await runs.take_over_to_undo(
            connection, run, reason="hold_overdue", lease_token=uuid4(), lease_seconds=10
        )
    assert not await confirm(database, placement, placement.lease_token)
    assert await status(database, placement) is Status.PENDING


@pytest.mark.parametrize("stale", [True, False])
async def test_waiting_and_undoing_need_the_lease(database: Database, stale: bool) -> None:
    placement = await placed(database, lease_seconds=0)
    current = await claim(database, placement)
    assert current is not None
    run = replace(current, lease_token=placement.lease_token) if stale else current
    async with database.worker() as connection:
        assert await runs.is_ours(connection, run) is not stale
        undone = await runs.start_undo(connection, run, reason="x", error="y")
        assert (undone is None) is stale
        assert await runs.wait_at(connection, run, step=RESERVE, seconds=0) is not stale


async def test_two_runners_never_claim_one_run(database: Database) -> None:
    placement = await placed(database, lease_seconds=0)
    async with database.worker() as first, database.worker() as second:
        mine = await runs.claim_due(first, lease_token=uuid4(), lease_seconds=10, limit=1000)
        theirs = await runs.claim_due(second, lease_token=uuid4(), lease_seconds=10, limit=1000)
    assert placement.order_id in {run.order_id for run in mine}
    assert {run.order_id for run in mine} & {run.order_id for run in theirs} == set()


@pytest.mark.parametrize(
    "tries", [200, pytest.param(2000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
async def test_a_race_of_confirm_and_turn_around_has_one_winner(database: Database, tries: int) -> None:
    """A hold that is due while its order is confirmed."""

    async def turn_around(placement: Placement) -> bool:
        async with database.worker() as connection:
            run = await runs.lock_run(connection, order_id=placement.order_id, saga=PLACE_WITH_POINTS)
            assert run is not None
            if run.step != RESERVE:
                return False
            await runs.take_over_to_undo(
                connection, run, reason="hold_overdue", lease_token=uuid4(), lease_seconds=0
            )
            return True

    winners = {True: 0, False: 0}
    for _ in range(tries):
        placement = await placed(database)
        confirmed, turned = await asyncio.gather(
            confirm(database, placement, placement.lease_token), turn_around(placement)
        )
        assert confirmed is not turned
        completed = await status(database, placement) is Status.COMPLETED
        assert completed is confirmed
        winners[confirmed] += 1
    assert sum(winners.values()) == tries
