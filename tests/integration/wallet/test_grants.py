"""Points arrive and leave by net, from NATS."""

import asyncio
from collections.abc import Mapping
from itertools import permutations
from uuid import uuid4

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.js import JetStreamContext

from protos.events.v1 import events_pb2
from services.chassis.db import Database
from services.wallet.commands.grants import apply_grant
from services.wallet.rules import broken_at
from tests.integration.wallet.client import Wallet, refused


def event(user_id: object, **fields: object) -> events_pb2.PointsGrantChanged:
    values: dict[str, object] = {"source_id": str(uuid4()), "version": 1, "net_points": 550} | fields
    return events_pb2.PointsGrantChanged(user_id=str(user_id), **values)  # type: ignore[arg-type]


async def test_a_paid_checkout_credits_a_user_never_seen(wallet: Wallet) -> None:
    user = uuid4()
    source = await wallet.grant(user, 550)
    assert await wallet.balance(user) == (550, 0, 0)
    [purchase] = await wallet.ledger(user)
    assert (purchase.seq, purchase.amount, purchase.type, purchase.balance_after) == (1, 550, "purchase", 550)
    assert purchase.stripe_payment_intent_id == "pi_test"
    assert purchase.description == "Premium: 550 points"
    assert purchase.metadata == {"source_id": str(source), "version": "1"}
    await wallet.assert_adds_up(user)


async def test_partial_refunds_and_a_won_dispute_post_the_difference(wallet: Wallet) -> None:
    user = uuid4()
    source = await wallet.grant(user, 1000)
    for version, net in ((2, 700), (3, 0), (4, 1000)):
        await wallet.grant(user, net, source=source, version=version)
    entries = await wallet.ledger(user)
    assert [(entry.type, entry.amount) for entry in entries] == [
        ("purchase", 1000),
        ("reversal", -300),
        ("reversal", -700),
        ("reversal", 1000),
    ]
    assert await wallet.balance(user) == (1000, 0, 0)
    await wallet.assert_adds_up(user)


async def test_every_delivery_again_changes_nothing(wallet: Wallet, jetstream: JetStreamContext) -> None:
    """A new durable gets the whole stream once more, with the same message ids."""
    user = await wallet.user(550)
    before = (await jetstream.consumer_info("PAYMENTS", "wallet__grant")).created
    await jetstream.delete_consumer("PAYMENTS", "wallet__grant")
    after = await wallet.user(1)
    info = await jetstream.consumer_info("PAYMENTS", "wallet__grant")
    assert info.created != before
    assert info.delivered is not None
    assert info.delivered.stream_seq >= 2
    assert await wallet.balance(user) == (550, 0, 0)
    assert len(await wallet.ledger(user)) == 1
    assert await wallet.balance(after) == (1, 0, 0)


async def test_the_same_fact_under_another_message_id_credits_once(wallet: Wallet) -> None:
    user = uuid4()
    fact = event(user)
    message_ids = [await wallet.publish(fact) for _ in range(20)]
    await wallet.until("SELECT 1 FROM inbox WHERE message_id = ANY(%s) HAVING count(*) = 20", message_ids)
    assert await wallet.balance(user) == (550, 0, 0)
    assert len(await wallet.ledger(user)) == 1


async def test_several_sources_of_one_new_user_at_once_all_arrive(wallet: Wallet) -> None:
    user = uuid4()
    await asyncio.gather(*(wallet.grant(user, 10) for _ in range(20)))
    assert await wallet.balance(user) == (200, 0, 0)
    await wallet.assert_adds_up(user)


NETS: Mapping[int, int] = {1: 1000, 2: 700, 3: 0, 4: 400}


@settings(max_examples=60, deadline=None)
@given(order=st.lists(st.sampled_from(sorted(NETS)), min_size=1, max_size=10))
async def test_versions_converge_in_any_order_and_number(
    database: Database, wallet: Wallet, order: list[int]
) -> None:
    user, source = uuid4(), str(uuid4())
    for version in order:
        async with database.worker() as connection:
            await apply_grant(
                connection,
                source_id=source,
                user_id=user,
                version=version,
                net_points=NETS[version],
                payment_intent_id="",
                description="",
            )
    account, entries = await wallet.account(user), await wallet.ledger(user)
    assert account.balance.points == NETS[max(order)]
    assert (account.balance.held, account.balance.debt) == (0, 0)
    assert sum(entry.amount for entry in entries) == NETS[max(order)]
    assert broken_at(account, entries) is None
    assert [entry.type for entry in entries][1:] == ["reversal"] * (len(entries) - 1)


async def test_a_version_is_taken_once_whatever_else_it_says(wallet: Wallet) -> None:
    user = uuid4()
    source = await wallet.grant(user, 550)
    for version, net in ((1, 9999), (2, 100), (2, 550), (1, 1)):
        message_id = await wallet.publish(event(user, source_id=str(source), version=version, net_points=net))
        await wallet.until("SELECT 1 FROM inbox WHERE message_id = %s", message_id)
    assert await wallet.balance(user) == (100, 0, 0)
    assert len(await wallet.ledger(user)) == 2


async def test_a_reversal_before_its_credit_converges(wallet: Wallet) -> None:
    for versions in permutations((1, 2, 3)):
        user, source = uuid4(), str(uuid4())
        nets = {1: 500, 2: 0, 3: 200}
        facts = [event(user, source_id=source, version=v, net_points=nets[v]) for v in versions]
        for fact in facts:
            message_id = await wallet.publish(fact)
            await wallet.until("SELECT 1 FROM inbox WHERE message_id = %s", message_id)
        assert await wallet.balance(user) == (200, 0, 0)
        types = [entry.type for entry in await wallet.ledger(user)]
        assert types[0] == "purchase"
        await wallet.assert_adds_up(user)


async def test_what_was_spent_already_becomes_debt_that_blocks_new_holds(wallet: Wallet) -> None:
    user = uuid4()
    source = await wallet.grant(user, 550)
    await wallet.spent(user, 400)
    await wallet.grant(user, 0, source=source, version=2)
    assert await wallet.balance(user) == (0, 0, 400)
    assert (await wallet.ledger(user))[-1].balance_after == -400
    fields = await refused(
        wallet.reserve(user, uuid4(), 1), grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_POINTS"
    )
    assert fields == {"needed": "1", "available": "0"}
    await wallet.grant(user, 500)
    assert await wallet.balance(user) == (100, 0, 0)
    await wallet.assert_adds_up(user)


async def test_a_reversal_of_held_points_is_settled_by_their_release(wallet: Wallet) -> None:
    user, order = uuid4(), uuid4()
    source = await wallet.grant(user, 550)
    await wallet.reserve(user, order, 550)
    await wallet.grant(user, 150, source=source, version=2)
    profile = await wallet.profile(user)
    assert (profile.points, profile.points_held, profile.points_debt) == (550, 550, 400)
    assert profile.points_available == 0
    assert await wallet.release(user, order) == "RELEASED"
    assert await wallet.balance(user) == (150, 0, 0)
    await wallet.assert_adds_up(user)


async def test_a_capture_is_never_blocked_by_debt(wallet: Wallet) -> None:
    user, orders = uuid4(), [uuid4(), uuid4()]
    source = await wallet.grant(user, 550)
    for order in orders:
        await wallet.reserve(user, order, 200)
    await wallet.grant(user, 0, source=source, version=2)
    # 150 were free and are gone; 400 are promised to the orders.
    assert await wallet.balance(user) == (400, 400, 400)
    assert await wallet.capture((user, orders[0])) == ["CAPTURED"]
    assert await wallet.balance(user) == (200, 200, 400)
    assert await wallet.release(user, orders[1]) == "RELEASED"
    assert await wallet.balance(user) == (0, 0, 200)
    await wallet.assert_adds_up(user)


@pytest.mark.parametrize(
    "bad",
    [
        event("not-a-uuid"),
        event(uuid4(), source_id=""),
        event(uuid4(), version=0),
        event(uuid4(), net_points=-1),
        event(uuid4(), net_points=2**62),
        event(uuid4(), description="a\x00b"),
        b"\xff\xff\xff",
    ],
    ids=["user", "source", "version", "negative", "huge", "nul", "garbage"],
)
async def test_a_malformed_event_is_parked_and_the_next_one_is_handled(
    wallet: Wallet, bad: events_pb2.PointsGrantChanged | bytes
) -> None:
    message_id = await wallet.publish(bad)
    [parked] = await wallet.until("SELECT * FROM dead_letters WHERE message_id = %s", str(message_id))
    assert (parked["consumer"], parked["subject"]) == ("wallet__grant", "payments.points.grant_changed")
    assert parked["payload"] == (bad if isinstance(bad, bytes) else bad.SerializeToString())
    assert parked["headers"] == {"Nats-Msg-Id": str(message_id)}
    assert await wallet.user(1)


async def test_one_source_never_gives_points_to_two_users(wallet: Wallet) -> None:
    user, thief, source = uuid4(), uuid4(), uuid4()
    await wallet.grant(user, 550, source=source)
    message_id = await wallet.publish(event(thief, source_id=str(source), version=2))
    [parked] = await wallet.until("SELECT error FROM dead_letters WHERE message_id = %s", str(message_id))
    assert "GRANT_OF_ANOTHER_USER" in str(parked["error"])
    assert await wallet.balance(thief) == (0, 0, 0)
    assert await wallet.balance(user) == (550, 0, 0)
