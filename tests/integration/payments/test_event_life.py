"""What becomes of an event of Stripe that cannot be applied: tried fast, then slowly, then an operator's."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from protos.payments.v1 import payments_pb2 as pb
from services.chassis.db import Database
from services.payments import metrics
from services.payments.commands.events import claim_events
from tests.integration.payments.conftest import Payments, refused
from tests.integration.payments.stripe_double import Fields, event_body

COMPLETED, UPDATED = "checkout.session.completed", "customer.subscription.updated"
CONFLICT, NOT_FOUND = grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND
UNREADABLE: Fields = {"id": "cs_\0", "object": "checkout.session"}


async def deliver(payments: Payments, event_type: str, subject: Fields) -> str:
    """Delivers an event and does not wait for what becomes of it."""
    event_id = f"evt_{uuid4().hex}"
    assert (await payments.post(event_body(event_id, event_type, subject))).status_code == 200
    return event_id


async def tried(payments: Payments, event_id: str, condition: str) -> dict[str, Any]:
    """The event once it is as the condition says; its pauses are spared."""
    async with asyncio.timeout(30):
        while True:
            query = (
                f"SELECT *, lease_until - now() AS pause FROM stripe_events WHERE id = %s AND ({condition})"
            )
            if rows := await payments.sql(query, event_id):
                return rows[0]
            await payments.sql(
                "UPDATE stripe_events SET lease_until = now() WHERE id = %s AND lease_token IS NULL", event_id
            )
            # Nothing to replay: but the worker is woken.
            nothing = pb.ReplayStripeEventsRequest(ids=["evt_nothing"], actor="a test", reason="a test")
            await payments.operator.ReplayStripeEvents(nothing)
            await asyncio.sleep(0.02)


async def nearly_spent(payments: Payments, event_id: str) -> None:
    """As if it had been tried for nine minutes."""
    await tried(payments, event_id, "attempts > 0 AND lease_token IS NULL")
    await payments.sql("UPDATE stripe_events SET attempts = 9 WHERE id = %s", event_id)


async def failed(payments: Payments, subject: Fields = UNREADABLE, event_type: str = COMPLETED) -> str:
    event_id = await deliver(payments, event_type, subject)
    await nearly_spent(payments, event_id)
    await tried(payments, event_id, "status = 'failed'")
    return event_id


def set_aside(
    event_id: str, reason: str = "a test", actor: str = "operator-7"
) -> pb.SetAsideStripeEventRequest:
    return pb.SetAsideStripeEventRequest(id=event_id, actor=actor, reason=reason)


async def audited(payments: Payments, event_id: str) -> list[tuple[str, str]]:
    rows = await payments.sql("SELECT actor, reason FROM audit_log WHERE subject = %s ORDER BY seq", event_id)
    return [(row["actor"], row["reason"]) for row in rows]


async def measured(database: Database, name: str, **labels: str) -> float:
    """A gauge, as it stands in the tables now."""
    for reading in metrics.READINGS:
        if "events" in reading.name:
            await reading.take(database)
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture(autouse=True)
async def nothing_is_left(payments: Payments) -> AsyncIterator[None]:
    yield
    await payments.sql("DELETE FROM stripe_events WHERE status IN ('received', 'failed', 'set_aside')")


async def test_an_event_that_fails_for_minutes_is_tried_slowly_and_waits_for_an_operator(
    payments: Payments,
) -> None:
    event_id = await deliver(payments, COMPLETED, UNREADABLE)
    await nearly_spent(payments, event_id)
    event = await tried(payments, event_id, "status = 'failed'")
    assert (event["attempts"], event["error"]) == (10, "Malformed: id is not text")
    assert 800 < event["pause"].total_seconds() <= 900
    later = await tried(payments, event_id, "attempts = 11 AND lease_token IS NULL")
    assert 1700 < later["pause"].total_seconds() <= 1800
    assert later["failed_at"] == event["failed_at"]
    listed = pb.ListStripeEventsRequest(status=pb.STRIPE_EVENT_STATUS_FAILED)
    assert [each.id for each in (await payments.operator.ListStripeEvents(listed)).items] == [event_id]


async def test_what_has_failed_is_told_apart_from_what_is_new(payments: Payments, database: Database) -> None:
    event_id = await failed(payments)
    of_type = {"type": COMPLETED}
    assert await measured(database, "aishop_payments_stripe_events_failed", **of_type) == 1
    assert await measured(database, "aishop_payments_stripe_event_attempts") == 0
    assert await measured(database, "aishop_payments_stripe_event_oldest_seconds") == 0
    await payments.operator.SetAsideStripeEvent(set_aside(event_id))
    assert await measured(database, "aishop_payments_stripe_events_failed", **of_type) == 0


async def test_an_operator_sets_it_aside_with_a_reason_and_a_replay_takes_it_up_again(
    payments: Payments,
) -> None:
    event_id = await failed(payments)
    for reason in ("deleted on purpose", "once more"):
        answer = await payments.operator.SetAsideStripeEvent(set_aside(event_id, reason))
        assert answer.event.status == pb.STRIPE_EVENT_STATUS_SET_ASIDE
        assert (answer.event.set_aside_by, answer.event.set_aside_reason) == (
            "operator-7",
            "deleted on purpose",
        )
        assert answer.event.HasField("acknowledged_at")
    assert await audited(payments, event_id) == [("operator-7", "deleted on purpose")]
    replay = pb.ReplayStripeEventsRequest(ids=[event_id], actor="operator-7", reason="mended")
    assert (await payments.operator.ReplayStripeEvents(replay)).ids == [event_id]
    again = await tried(payments, event_id, "error IS NOT NULL AND lease_token IS NULL")
    assert (again["status"], again["set_aside_at"], again["failed_at"]) == ("received", None, None)


async def test_what_was_applied_or_is_unknown_is_not_set_aside(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    event_id = await payments.deliver(COMPLETED, payments.stripe.complete(checkout.session_id))
    with refused("STRIPE_EVENT_SETTLED", CONFLICT, status="processed"):
        await payments.operator.SetAsideStripeEvent(set_aside(event_id))
    with refused("STRIPE_EVENT_NOT_FOUND", NOT_FOUND):
        await payments.operator.SetAsideStripeEvent(set_aside("evt_nobody"))
    with refused("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT, field="actor"):
        await payments.operator.SetAsideStripeEvent(set_aside(event_id, actor="rule"))
    busy = await failed(payments)
    await payments.sql(
        "UPDATE stripe_events SET lease_token = gen_random_uuid(), lease_until = now() + interval '1 min'"
        " WHERE id = %s",
        busy,
    )
    with refused("STRIPE_EVENT_BUSY", CONFLICT):
        await payments.operator.SetAsideStripeEvent(set_aside(busy))


async def test_fresh_events_come_before_those_that_failed(database: Database) -> None:
    waiting = "('evt_f', 'failed', 9), ('evt_2', 'received', 1), ('evt_1', 'received', 5)"
    async with database.worker() as connection:
        # Undone at the end: the process beside us never sees them.
        whole = await connection.begin_nested()
        await connection.execute(
            text(
                "INSERT INTO stripe_events (id, type, created, payload, status, lease_until, failed_at)"
                " SELECT id, 'x', now(), '', status, now() - make_interval(days => age), now()"
                f" FROM (VALUES {waiting}) AS waiting (id, status, age)"
            )
        )
        taken = [await claim_events(connection, limit=1, lease_seconds=60) for _ in range(3)]
        await whole.rollback()
    assert [event.id for [event] in taken] == ["evt_1", "evt_2", "evt_f"]


async def test_types_that_nobody_handles_never_wait_for_a_worker(payments: Payments) -> None:
    event_id = await deliver(payments, "customer.updated", {"id": "cus_1", "object": "customer"})
    connected = json.loads(event_body(f"evt_{uuid4().hex}", COMPLETED, UNREADABLE)) | {"account": "acct_1"}
    assert (await payments.post(json.dumps(connected).encode())).status_code == 200
    for ignored in (event_id, connected["id"]):
        [event] = await payments.sql("SELECT * FROM stripe_events WHERE id = %s", ignored)
        assert (event["status"], event["attempts"], event["lease_token"]) == ("ignored", 0, None)
        assert event["processed_at"] is not None


async def test_in_test_mode_a_rule_sets_aside_what_stripe_does_not_have(
    payments: Payments, database: Database
) -> None:
    event_id = await deliver(payments, UPDATED, {"id": f"sub_{uuid4().hex}", "object": "subscription"})
    event = await tried(payments, event_id, "status = 'set_aside'")
    assert (event["attempts"], event["set_aside_by"], event["acknowledged_at"]) == (3, "rule", None)
    assert "resource_missing" in event["error"]
    assert "(req_missing)" in event["error"]
    assert await measured(database, "aishop_payments_stripe_events_set_aside_unseen") == 1
    answer = await payments.operator.SetAsideStripeEvent(set_aside(event_id, "seen"))
    assert (answer.event.set_aside_by, answer.event.HasField("acknowledged_at")) == ("operator-7", True)
    assert await measured(database, "aishop_payments_stripe_events_set_aside_unseen") == 0
    assert await audited(payments, event_id) == [
        ("rule", "Stripe has no such object"),
        ("operator-7", "seen"),
    ]


@pytest.mark.parametrize(
    ("status", "code"), [(401, ""), (403, ""), (409, ""), (429, "rate_limit"), (500, ""), (400, "other")]
)
async def test_no_rule_sets_aside_what_stripe_did_not_deny(
    payments: Payments, status: int, code: str
) -> None:
    payments.stripe.refusals["/v1/subscriptions/"] = (status, code, "of sk_test_abc12345 for k@example.com")
    event_id = await deliver(payments, UPDATED, {"id": "sub_1", "object": "subscription"})
    event = await tried(payments, event_id, "attempts >= 4 AND lease_token IS NULL")
    assert event["status"] == "received"
    assert "of <key> for <address> (req_refused)" in event["error"]


async def test_what_failed_because_stripe_was_away_is_tried_again_within_minutes(payments: Payments) -> None:
    payments.stripe.refusals["/v1/subscriptions/"] = (503, "", "sorry")
    event_id = await failed(payments, {"id": "sub_1", "object": "subscription"}, UPDATED)
    event = await tried(payments, event_id, "status = 'failed' AND lease_token IS NULL")
    assert event["pause"].total_seconds() <= 300


async def test_a_burst_of_missing_objects_stops_the_rule(payments: Payments) -> None:
    """Then it is not ten objects that are missing: the key is another one."""
    await payments.sql(
        "INSERT INTO stripe_events (id, type, created, payload, status, processed_at, set_aside_at,"
        " set_aside_by, set_aside_reason)"
        " SELECT 'evt_burst_' || n, 'x', now(), '', 'set_aside', now(), now(), 'rule', 'x'"
        " FROM generate_series(1, 10) n"
    )
    event_id = await failed(payments, {"id": "sub_gone", "object": "subscription"}, UPDATED)
    [event] = await payments.sql("SELECT * FROM stripe_events WHERE id = %s", event_id)
    assert (event["status"], event["set_aside_at"]) == ("failed", None)


async def test_the_database_knows_the_states(payments: Payments) -> None:
    event_id = await failed(payments)
    aside = "status = 'set_aside', processed_at = now()"
    for change in (
        "status = 'buried'",
        "failed_at = NULL",
        aside,
        f"{aside}, set_aside_at = now(), set_aside_by = 'x', set_aside_reason = 'y'",
        "processed_at = now()",
    ):
        with pytest.raises(Exception, match="violates check constraint"):
            await payments.sql(f"UPDATE stripe_events SET {change} WHERE id = %s", event_id)
