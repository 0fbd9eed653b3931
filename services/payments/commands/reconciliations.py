"""Comparisons with Stripe: due by schedule or asked for, run by one replica under a lease, kept with what
they found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Table, Text, any_, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log
from services.chassis.ids import uuid7
from services.payments import errors
from services.payments.errors import LeaseLost
from services.payments.models import (
    checkouts,
    disputes,
    payments,
    reconciliations,
    refunds,
    stripe_accounts,
    stripe_events,
    subscriptions,
)
from services.payments.rules import OVERDUE_GRACE, Contest, Status

SCHEDULE = "schedule"
# Stripe keeps events for 30 days, and objects for good: a database may have been restored from an old backup.
EVENTS_LOOK_BACK = timedelta(days=30)
LONGEST_LOOK_BACK = timedelta(days=400)
# How often a scheduled run looks at what was final, too.
_SECOND_LOOK = timedelta(days=1)
_FIRST_LOOK_BACK = timedelta(days=1)
# What came while the last run was being written down is looked at twice.
_OVERLAP = timedelta(minutes=10)
_LEASE = timedelta(seconds=60)
_COLUMNS = (*(column for column in reconciliations.c), func.now().label("read_at"))


@dataclass(frozen=True, slots=True)
class Reconciliation:
    id: UUID
    since: datetime
    until: datetime
    requested_by: str
    status: str
    events_seen: int
    events_missing: int
    objects_seen: int
    objects_changed: int
    percent: int
    second_look: bool
    swept: Mapping[str, int]
    drift: Mapping[str, int]
    error: str | None
    lease_token: UUID | None
    lease_until: datetime
    tries: int
    started_at: datetime
    finished_at: datetime | None
    read_at: datetime


async def schedule_run(connection: AsyncConnection, *, every_seconds: int) -> None:
    """Writes the next scheduled run down when it is due; one at a time, however many replicas look."""
    mine = reconciliations.c.requested_by == SCHEDULE
    recent = exists().where(
        mine, reconciliations.c.started_at > func.now() - _seconds(every_seconds)
    ) | exists().where(mine, reconciliations.c.status == "running")
    last = select(func.max(reconciliations.c.until)).where(mine, reconciliations.c.status == "done")
    since = func.greatest(
        func.coalesce(last.scalar_subquery() - _OVERLAP, func.now() - _FIRST_LOOK_BACK),
        func.now() - LONGEST_LOOK_BACK,
    )
    looked_twice = exists().where(
        mine,
        reconciliations.c.second_look,
        reconciliations.c.status == "done",
        reconciliations.c.started_at > func.now() - _SECOND_LOOK,
    )
    await connection.execute(
        insert(reconciliations)
        .from_select(
            ["since", "until", "requested_by", "second_look"],
            select(since, func.now(), literal(SCHEDULE), ~looked_twice).where(~recent),
        )
        .on_conflict_do_nothing()
    )


async def request_run(connection: AsyncConnection, *, since: datetime | None, actor: str) -> Reconciliation:
    """An operator's run, with its audit entry; the one that is running for this operator already when there
    is one."""
    asked = literal(since) if since else func.now() - _FIRST_LOOK_BACK
    row = (
        await connection.execute(
            insert(reconciliations)
            .values(
                since=func.least(func.greatest(asked, func.now() - LONGEST_LOOK_BACK), func.now()),
                until=func.now(),
                requested_by=actor,
                second_look=True,
            )
            .on_conflict_do_nothing()
            .returning(*_COLUMNS)
        )
    ).one_or_none()
    if row is not None:
        begun = Reconciliation(**row._mapping)
        await _audit(connection, begun)
        return begun
    running = (reconciliations.c.requested_by == actor) & (reconciliations.c.status == "running")
    row = (await connection.execute(select(*_COLUMNS).where(running))).one_or_none()
    if row is None:
        # It ended in between: there is nothing to wait for any more, ask again.
        return await request_run(connection, since=since, actor=actor)
    return Reconciliation(**row._mapping)


async def _audit(connection: AsyncConnection, run: Reconciliation) -> None:
    """Nobody is asked why: a comparison does what lost webhooks would have done."""
    since = run.since.isoformat()
    await audit_log.append(
        connection,
        actor=run.requested_by,
        action="reconciliation.started",
        subject=str(run.id),
        reason=f"compare with Stripe since {since}",
        details={"since": since},
    )


async def find_run(connection: AsyncConnection, run_id: UUID) -> Reconciliation:
    row = (await connection.execute(select(*_COLUMNS).where(reconciliations.c.id == run_id))).one_or_none()
    if row is None:
        raise errors.reconciliation_not_found()
    return Reconciliation(**row._mapping)


async def claim_run(connection: AsyncConnection) -> Reconciliation | None:
    """Leases a run that nobody works on. One that stopped looks at events anew, and goes on with its sweeps
    where they stopped; what it found stays counted, since it will not be found again."""
    due = (
        select(reconciliations.c.id)
        .where(reconciliations.c.status == "running", reconciliations.c.lease_until <= func.now())
        .order_by(reconciliations.c.lease_until)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    row = (
        await connection.execute(
            update(reconciliations)
            .where(reconciliations.c.id == due.c.id)
            .values(
                lease_token=uuid7(),
                lease_until=func.now() + _LEASE,
                tries=reconciliations.c.tries + 1,
                events_seen=0,
                objects_seen=0,
                percent=0,
            )
            .returning(*_COLUMNS)
        )
    ).one_or_none()
    return Reconciliation(**row._mapping) if row else None


async def keep_progress(
    connection: AsyncConnection,
    run: Reconciliation,
    *,
    drift: Mapping[str, int],
    percent: int,
    counts: Mapping[str, int],
    swept: Mapping[str, int],
    is_done: bool = False,
) -> None:
    """Writes how far a run is and prolongs its lease; LeaseLost when another replica has taken it over."""
    values: dict[str, Any] = {"lease_until": func.now() + _LEASE}
    if is_done:
        values = {"status": "done", "finished_at": func.now(), "lease_token": None, "error": None}
    changed = await connection.execute(
        update(reconciliations)
        .where(_leased(run))
        .values(**values, **counts, swept=dict(swept), drift=dict(drift), percent=percent)
    )
    if changed.rowcount != 1:
        raise LeaseLost


async def postpone_run(
    connection: AsyncConnection, run: Reconciliation, *, error: str, delay_seconds: float
) -> None:
    """Keeps why a run stopped and when it is tried again."""
    await connection.execute(
        update(reconciliations)
        .where(_leased(run))
        .values(error=error[:500], lease_token=None, lease_until=func.now() + _seconds(delay_seconds))
    )


def _leased(run: Reconciliation) -> ColumnElement[bool]:
    return (reconciliations.c.id == run.id) & (reconciliations.c.lease_token == run.lease_token)


def _seconds(seconds: float) -> Any:
    return func.make_interval(0, 0, 0, 0, 0, 0, literal(float(seconds)))


async def missing_among(connection: AsyncConnection, event_ids: Sequence[str]) -> set[str]:
    """Which of these events never arrived."""
    known = await connection.scalars(select(stripe_events.c.id).where(stripe_events.c.id.in_(event_ids)))
    return set(event_ids) - set(known)


async def unsettled_among(connection: AsyncConnection, event_ids: Sequence[str]) -> int:
    """How many of these events wait to be handled."""
    # One parameter however many there are: a statement takes 65,535.
    among = stripe_events.c.id == any_(literal(list(event_ids), ARRAY(Text)))
    waiting = select(func.count()).where(among, stripe_events.c.status == "received")
    return int((await connection.execute(waiting)).scalar_one())


def _is_of_our_account(table: Table) -> ColumnElement[bool]:
    """What another account made, to which our key leads no more, Stripe would only call missing. What bears
    none is the first one's (accounts.made_by)."""
    ids = select(stripe_accounts.c.id)
    first = ids.order_by(stripe_accounts.c.id).limit(1).scalar_subquery()
    current = ids.where(stripe_accounts.c.is_current).scalar_subquery()
    return func.coalesce(table.c.stripe_account, first) == current


async def unfinished_sessions(connection: AsyncConnection) -> dict[str, datetime]:
    """Sessions of checkouts whose time is not over, with when they were begun. Those past it (a bank debit
    takes days) are asked for one by one (closing.py): a listing that reaches back to the oldest of them would
    read every session since."""
    rows = await connection.execute(
        select(checkouts.c.session_id, checkouts.c.created_at).where(
            checkouts.c.status.in_((Status.OPEN, Status.PROCESSING)),
            checkouts.c.session_id.is_not(None),
            checkouts.c.expires_at + OVERDUE_GRACE > func.now(),
            _is_of_our_account(checkouts),
        )
    )
    return {str(session_id): created_at for session_id, created_at in rows}


async def contested_intents(connection: AsyncConnection) -> tuple[list[str], list[str]]:
    """Payments with refunds that are under way, and payments with open disputes."""
    refunding = await connection.scalars(
        select(refunds.c.payment_intent_id)
        .where(refunds.c.status.in_(("pending", "requires_action")), _is_of_our_account(refunds))
        .distinct()
    )
    disputed = await connection.scalars(
        select(payments.c.payment_intent_id).where(
            payments.c.dispute == Contest.OPEN, _is_of_our_account(payments)
        )
    )
    return list(refunding), list(disputed)


async def overdue_subscriptions(connection: AsyncConnection) -> list[str]:
    """Subscriptions whose period is over without news: renewed, or ended."""
    rows: Sequence[Row[Any]] = (
        await connection.execute(
            select(subscriptions.c.stripe_subscription_id).where(
                subscriptions.c.status.in_(("trialing", "active", "past_due")),
                subscriptions.c.current_period_end < func.now() - timedelta(hours=1),
                _is_of_our_account(subscriptions),
            )
        )
    ).all()
    return [str(row[0]) for row in rows]


async def unpaid_subscriptions(connection: AsyncConnection) -> list[str]:
    """Those whose invoices may be paid late, however old they are."""
    rows = await connection.scalars(
        select(subscriptions.c.stripe_subscription_id).where(
            subscriptions.c.status.in_(("past_due", "unpaid", "incomplete")),
            _is_of_our_account(subscriptions),
        )
    )
    return list(rows)


async def amounts_of(
    connection: AsyncConnection, payment_intent_ids: Sequence[str]
) -> dict[str, tuple[int, str]]:
    """(refunded, dispute) of those of these payments that are known."""
    rows = await connection.execute(
        select(payments.c.payment_intent_id, payments.c.refunded_cents, payments.c.dispute).where(
            payments.c.payment_intent_id.in_(payment_intent_ids)
        )
    )
    return {row[0]: (row[1], row[2]) for row in rows}


async def our_subscriptions(connection: AsyncConnection, stripe_ids: Sequence[str]) -> set[str]:
    """Those of these subscriptions that are known."""
    known = subscriptions.c.stripe_subscription_id
    return set(await connection.scalars(select(known).where(known.in_(stripe_ids))))


async def refund_statuses(connection: AsyncConnection, stripe_ids: Sequence[str]) -> dict[str, str]:
    rows = await connection.execute(
        select(refunds.c.stripe_refund_id, refunds.c.status).where(refunds.c.stripe_refund_id.in_(stripe_ids))
    )
    return {row[0]: row[1] for row in rows}


async def dispute_statuses(connection: AsyncConnection, stripe_ids: Sequence[str]) -> dict[str, str]:
    """Without those that the release before wrote, which knows no amounts: they are looked at again."""
    has_amounts = disputes.c.share_cents.is_not(None) & (
        (disputes.c.status == "lost") == disputes.c.lost_cents.is_not(None)
    )
    rows = await connection.execute(
        select(disputes.c.id, disputes.c.status).where(disputes.c.id.in_(stripe_ids), has_amounts)
    )
    return {row[0]: row[1] for row in rows}
