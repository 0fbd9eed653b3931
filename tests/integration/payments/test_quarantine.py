"""Money that fits nothing: parked with an alert, and settled once, by an operator or by the dashboard."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import grpc
import pytest

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from services.chassis.db import Database
from services.payments import queries
from services.payments.commands import parking
from tests.integration.payments.conftest import Payments, refused
from tests.integration.payments.sandbox import Sandbox, sandbox_of

NOT_FOUND = grpc.StatusCode.NOT_FOUND
REJECTED = grpc.StatusCode.FAILED_PRECONDITION
CONFLICT = grpc.StatusCode.ABORTED
INVALID = grpc.StatusCode.INVALID_ARGUMENT
FULFIL, REFUND = pb.QUARANTINE_RESOLUTION_FULFIL, pb.QUARANTINE_RESOLUTION_REFUND
OUTSIDE, WRITE_OFF = pb.QUARANTINE_RESOLUTION_SETTLED_OUTSIDE, pb.QUARANTINE_RESOLUTION_WRITTEN_OFF


@pytest.fixture
def payments(sandboxed: Payments) -> Payments:
    return sandboxed


@pytest.fixture
def stripe(payments: Payments) -> Sandbox:
    return sandbox_of(payments)


async def parked(payments: Payments, intent: str) -> dict[str, Any]:
    [row] = await payments.until("SELECT * FROM quarantine WHERE payment_intent_id = %s", intent)
    return row


async def stray(payments: Payments, *, amount: int = 999, **metadata: Any) -> dict[str, Any]:
    """A payment that bears our metadata and belongs to no checkout."""
    named = {"user_id": str(payments.user_id), "points_amount": "100", "checkout_id": str(uuid4())}
    paid = await sandbox_of(payments).control("payments", amount=amount, metadata=named | metadata)
    return await parked(payments, paid["id"])


async def underpaid(payments: Payments, *, order: bool = False) -> tuple[pb.Checkout, dict[str, Any]]:
    """A checkout that was paid, and whose price is another one by then."""
    checkout = await (payments.order_checkout() if order else payments.points_checkout())
    await payments.change(checkout.id, "amount_cents = amount_cents + 1")
    await sandbox_of(payments).pay(checkout.url)
    intent = await sandbox_of(payments).intent_of(checkout.session_id)
    row = await parked(payments, intent)
    return checkout, row


async def resolve(
    payments: Payments, row: dict[str, Any], resolution: Any, **more: Any
) -> pb.QuarantinedPayment:
    request = pb.ResolveQuarantineRequest(
        id=str(row["id"]), resolution=resolution, actor="operator-7", reason="talked to the customer", **more
    )
    return (await payments.operator.ResolveQuarantine(request)).payment


async def grants(payments: Payments, source: str) -> list[Any]:
    return await payments.facts("payments.points.grant_changed", events_pb2.PointsGrantChanged, source)


async def audited(payments: Payments, row: dict[str, Any]) -> list[str]:
    rows = await payments.sql(
        "SELECT action FROM audit_log WHERE subject = %s AND actor = 'operator-7' ORDER BY seq",
        str(row["id"]),
    )
    return [entry["action"] for entry in rows]


async def test_a_stray_payment_is_parked_once_and_listed(payments: Payments, stripe: Sandbox) -> None:
    row = await stray(payments)
    assert (row["reason"], row["status"], row["amount_cents"]) == ("unknown_checkout", "parked", 999)
    [event] = await stripe.events("payment_intent.succeeded", about=row["payment_intent_id"])
    await stripe.deliver(event["id"], copies=3)
    request = pb.ListQuarantineRequest(status=pb.QUARANTINE_STATUS_PARKED, limit=1)
    page = await payments.operator.ListQuarantine(request)
    assert (page.items[0].id, page.items[0].user_id) == (str(row["id"]), str(payments.user_id))
    assert page.items[0].points == 100
    assert not await grants(payments, str(row["checkout_id"]))


async def test_a_payment_of_another_program_is_left_alone(payments: Payments, stripe: Sandbox) -> None:
    paid = await stripe.control("payments", amount=999, metadata={"basket": "7"})
    [event] = await stripe.events("payment_intent.succeeded", about=paid["id"])
    assert (await payments.settled(event["id"]))["status"] == "ignored"
    assert not await payments.sql("SELECT 1 FROM payments WHERE payment_intent_id = %s", paid["id"])


async def test_fulfilling_gives_the_points_of_the_checkout_once(payments: Payments) -> None:
    checkout, row = await underpaid(payments)
    # Both events of the payment have spoken: its session is used up.
    await payments.until_status(checkout.id, "failed")
    assert row["reason"] == "amount_mismatch"
    answers = await asyncio.gather(*(resolve(payments, row, FULFIL) for _ in range(5)))
    assert {answer.status for answer in answers} == {pb.QUARANTINE_STATUS_FULFILLED}
    await payments.until_status(checkout.id, "paid")
    [grant] = await grants(payments, checkout.id)
    assert grant.net_points == 550
    assert await audited(payments, row) == ["quarantine.fulfilled"]
    with refused("QUARANTINE_RESOLVED", CONFLICT):
        await resolve(payments, row, REFUND)


async def test_a_fulfilled_stray_is_a_grant_of_its_own_and_can_be_refunded(
    payments: Payments, stripe: Sandbox
) -> None:
    row = await stray(payments)
    await resolve(payments, row, FULFIL)
    source = str(row["payment_id"])
    [grant] = await grants(payments, source)
    assert (grant.net_points, grant.user_id) == (100, str(payments.user_id))
    await stripe.post("refunds", payment_intent=row["payment_intent_id"])
    await payments.until("SELECT 1 FROM payments WHERE id = %s AND refunded_cents = 999", row["payment_id"])
    assert [fact.net_points for fact in await grants(payments, source)] == [100, 0]


async def test_an_order_that_was_paid_wrongly_can_be_fulfilled(payments: Payments) -> None:
    checkout, row = await underpaid(payments, order=True)
    await payments.until_status(checkout.id, "failed")
    await resolve(payments, row, FULFIL)
    facts = await payments.facts("payments.checkout.changed", events_pb2.OrderCheckoutChanged, checkout.id)
    states = [fact.state for fact in facts]
    assert states == [events_pb2.ORDER_CHECKOUT_STATE_FAILED, events_pb2.ORDER_CHECKOUT_STATE_PAID]
    assert facts[-1].amount_cents == 1501


@pytest.mark.parametrize(
    "metadata",
    [{"points_amount": "0"}, {"points_amount": "many"}, {"user_id": "nobody"}, {"points_amount": "9" * 30}],
)
async def test_what_names_no_purchase_cannot_be_fulfilled(
    payments: Payments, metadata: dict[str, Any]
) -> None:
    row = await stray(payments, **metadata)
    with refused("CANNOT_FULFIL", REJECTED):
        await resolve(payments, row, FULFIL)
    assert (await resolve(payments, row, REFUND)).status == pb.QUARANTINE_STATUS_REFUNDED


async def test_refunding_gives_all_of_it_back_once(payments: Payments, stripe: Sandbox) -> None:
    row = await stray(payments)
    answers = await asyncio.gather(*(resolve(payments, row, REFUND) for _ in range(5)))
    assert pb.QUARANTINE_STATUS_REFUNDED in {answer.status for answer in answers}
    listed = (await stripe.get("refunds", payment_intent=row["payment_intent_id"]))["data"]
    assert [refund["amount"] for refund in listed] == [999]
    await payments.until("SELECT 1 FROM quarantine WHERE id = %s AND status = 'refunded'", row["id"])
    assert await audited(payments, row) == ["quarantine.refunding"]
    with refused("QUARANTINE_RESOLVED", CONFLICT):
        await resolve(payments, row, FULFIL)


async def test_a_refund_that_comes_back_parks_the_payment_again(payments: Payments, stripe: Sandbox) -> None:
    row = await stray(payments)
    await stripe.control("refunds", status="pending")
    assert (await resolve(payments, row, REFUND)).status == pb.QUARANTINE_STATUS_REFUNDED
    [refund] = (await stripe.get("refunds", payment_intent=row["payment_intent_id"]))["data"]
    await stripe.control(f"refunds/{refund['id']}", status="failed")
    [again] = await payments.until("SELECT * FROM quarantine WHERE id = %s AND status = 'parked'", row["id"])
    assert (again["resolved_by"], again["resolution_reason"]) == (None, None)
    await resolve(payments, row, FULFIL)
    assert len(await grants(payments, str(row["payment_id"]))) == 1


async def test_a_refund_in_the_dashboard_settles_it_too(payments: Payments, stripe: Sandbox) -> None:
    row = await stray(payments)
    await stripe.post("refunds", payment_intent=row["payment_intent_id"], amount=900)
    await payments.until("SELECT 1 FROM payments WHERE id = %s AND refunded_cents = 900", row["payment_id"])
    [still] = await payments.sql("SELECT status FROM quarantine WHERE id = %s", row["id"])
    assert still["status"] == "parked"
    await stripe.post("refunds", payment_intent=row["payment_intent_id"])
    await payments.until("SELECT 1 FROM quarantine WHERE id = %s AND status = 'refunded'", row["id"])


async def test_a_lost_dispute_settles_it_and_a_part_of_it_does_not(
    payments: Payments, stripe: Sandbox
) -> None:
    """Until then the bank decides, and afterwards nothing is left to decide."""
    whole, part = await stray(payments), await stray(payments)
    for row, amount in ((whole, 999), (part, 400)):
        dispute = await stripe.control("disputes", payment_intent=row["payment_intent_id"], amount=amount)
        contest = "SELECT 1 FROM payments WHERE id = %s AND dispute = %s"
        await payments.until(contest, row["payment_id"], "open")
        with refused("PAYMENT_DISPUTED", CONFLICT):
            await resolve(payments, row, REFUND)
        await stripe.control(f"disputes/{dispute['id']}", status="lost")
        await payments.until(contest, row["payment_id"], "lost")
    statuses = await payments.sql(
        "SELECT status FROM quarantine WHERE id = ANY(%s) ORDER BY created_at", [whole["id"], part["id"]]
    )
    assert [row["status"] for row in statuses] == ["refunded", "parked"]
    assert (await resolve(payments, part, FULFIL)).status == pb.QUARANTINE_STATUS_FULFILLED
    assert [fact.net_points for fact in await grants(payments, str(part["payment_id"]))] == [60]


@pytest.mark.parametrize("way", ["refund", "settle outside", "write off"])
async def test_what_the_bank_left_of_it_is_decided_in_three_ways(
    payments: Payments, stripe: Sandbox, way: str
) -> None:
    """8.99, of which the bank takes 4.00: 4.99 are due, and do not vanish; nor do the 4.00 when it loses."""
    row = await stray(payments, amount=899)
    intent = row["payment_intent_id"]
    dispute = await stripe.control("disputes", payment_intent=intent, amount=400)
    for decision in (REFUND, WRITE_OFF):
        await payments.until("SELECT 1 FROM payments WHERE id = %s AND dispute = 'open'", row["payment_id"])
        with refused("PAYMENT_DISPUTED", CONFLICT):
            await resolve(payments, row, decision)
    await stripe.control(f"disputes/{dispute['id']}", status="lost")
    await payments.until("SELECT 1 FROM payments WHERE id = %s AND lost_cents = 400", row["payment_id"])
    [listed] = [each for each in await parked_list(payments) if each.id == str(row["id"])]
    assert (listed.status, listed.due_cents) == (pb.QUARANTINE_STATUS_PARKED, 499)
    match way:
        case "refund":
            await resolve(payments, row, REFUND)
            status = "refunded"
        case "settle outside":
            await resolve(payments, row, OUTSIDE, amount_cents=499, reference="transfer 7")
            status = "settled_outside"
        case _:
            await resolve(payments, row, WRITE_OFF)
            status = "written_off"
    await payments.until("SELECT 1 FROM quarantine WHERE id = %s AND status = %s", row["id"], status)
    back = [each["amount"] for each in (await stripe.get("refunds", payment_intent=intent))["data"]]
    assert back == ([499] if way == "refund" else [])
    await stripe.control(f"disputes/{dispute['id']}", status="won")
    await payments.until("SELECT 1 FROM quarantine WHERE id = %s AND status = 'parked'", row["id"])
    [listed] = [each for each in await parked_list(payments) if each.id == str(row["id"])]
    assert listed.due_cents == 400


async def test_a_closed_row_whose_money_comes_back_during_a_refund_is_open_again(
    payments: Payments, stripe: Sandbox, database: Database
) -> None:
    row = await stray(payments)
    await stripe.post("refunds", payment_intent=row["payment_intent_id"])
    await payments.until("SELECT 1 FROM quarantine WHERE id = %s AND status = 'refunded'", row["id"])
    back = "UPDATE payments SET refunded_cents = 0, requested_cents = 999 WHERE id = %s"
    await payments.sql(back, row["payment_id"])
    async with database.worker() as connection:
        payment = await queries.lock_payment(connection, row["payment_intent_id"])
        assert payment is not None
        await parking.follow_amounts(connection, payment)
    [now] = await payments.sql("SELECT status, resolved_at FROM quarantine WHERE id = %s", row["id"])
    assert now == {"status": "refunding", "resolved_at": None}


async def test_rows_that_name_a_locked_one_do_not_wait_for_it(payments: Payments, database: Database) -> None:
    """A foreign key's look: waiting for it here closes circles with those who lock in order."""
    checkout, row = await underpaid(payments)
    async with database.worker() as connection:
        assert await queries.lock_checkout(connection, row["checkout_id"])
        assert await queries.lock_payment(connection, row["payment_intent_id"])
        for table, key in (("checkouts", checkout.id), ("payments", row["payment_id"])):
            look = f"SELECT 1 FROM {table} WHERE id = %s FOR KEY SHARE NOWAIT"
            assert len(await payments.sql(look, key)) == 1


async def parked_list(payments: Payments) -> Sequence[pb.QuarantinedPayment]:
    return (await payments.operator.ListQuarantine(pb.ListQuarantineRequest(limit=100))).items


async def test_decisions_need_an_id_a_name_and_a_reason(payments: Payments) -> None:
    row = await stray(payments)
    with refused("QUARANTINE_NOT_FOUND", NOT_FOUND):
        await resolve(payments, row | {"id": uuid4()}, REFUND)
    with refused("INVALID_FIELD", INVALID, field="resolution"):
        await resolve(payments, row, pb.QUARANTINE_RESOLUTION_UNSPECIFIED)
    for missing in ("actor", "reason"):
        request = pb.ResolveQuarantineRequest(id=str(row["id"]), resolution=REFUND, actor="a", reason="r")
        request.ClearField(missing)
        with refused("INVALID_FIELD", INVALID, field=missing):
            await payments.operator.ResolveQuarantine(request)
