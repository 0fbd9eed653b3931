"""Pages of what customers and operators look through, newest first, by keyset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, and_, cast, func, or_, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from services.payments.models import checkouts, payments, quarantine, stripe_events, subscriptions
from services.payments.queries import SUBSCRIPTION_COLUMNS
from services.payments.rules import Subscription


@dataclass(frozen=True, slots=True)
class StoredEvent:
    id: str
    type: str
    created: datetime
    object_id: str | None
    payment_intent_id: str | None
    status: str
    effects: Sequence[Mapping[str, str]]
    attempts: int
    error: str | None
    received_at: datetime
    processed_at: datetime | None
    failed_at: datetime | None
    set_aside_at: datetime | None
    set_aside_by: str | None
    set_aside_reason: str | None
    acknowledged_at: datetime | None


@dataclass(frozen=True, slots=True)
class ParkedPayment:
    id: UUID
    session_id: str | None
    payment_intent_id: str | None
    invoice_id: str | None
    checkout_id: UUID | None
    amount_cents: int | None
    currency: str | None
    reason: str
    status: str
    resolved_by: str | None
    resolution_reason: str | None
    resolved_at: datetime | None
    created_at: datetime
    user_id: UUID | None
    order_id: UUID | None
    points: int | None
    settled_outside_cents: int
    settlement_reference: str | None
    written_off_cents: int
    # Of all its payments: refunded, or lost to the bank.
    gone_cents: int

    @property
    def due_cents(self) -> int:
        if self.status == "fulfilled":
            return 0
        decided = self.settled_outside_cents + self.written_off_cents
        return max(0, (self.amount_cents or 0) - self.gone_cents - decided)


_EVENT_COLUMNS = [
    column
    for column in stripe_events.c
    if column.name not in ("payload", "lease_token", "lease_until", "trace_id")
]
_of_sale = payments.alias("of_sale")
_gone = _of_sale.c.refunded_cents + _of_sale.c.lost_cents
_PARKED_COLUMNS = [
    *(
        column
        for column in quarantine.c
        if column.name not in ("payment_id", "metadata", "refund_id", "returned_cents", "settlements")
    ),
    # A sale without payments has the user of its checkout.
    func.coalesce(payments.c.user_id, checkouts.c.user_id).label("user_id"),
    payments.c.order_id,
    payments.c.points,
    select(cast(func.coalesce(func.sum(func.least(_of_sale.c.amount_cents, _gone)), 0), BigInteger))
    .where(or_(_of_sale.c.id == quarantine.c.payment_id, _of_sale.c.invoice_id == quarantine.c.invoice_id))
    .scalar_subquery()
    .label("gone_cents"),
]


async def list_subscriptions(
    connection: AsyncConnection, *, limit: int, before: UUID | None
) -> Sequence[Subscription]:
    """Those of the connection's user."""
    query = select(*SUBSCRIPTION_COLUMNS).order_by(
        subscriptions.c.created_at.desc(), subscriptions.c.id.desc()
    )
    if before is not None:
        last = select(subscriptions.c.created_at, subscriptions.c.id).where(subscriptions.c.id == before)
        query = query.where(tuple_(subscriptions.c.created_at, subscriptions.c.id) < last.scalar_subquery())
    rows = await connection.execute(query.limit(limit))
    return [Subscription(**row._mapping) for row in rows]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Empty fields do not filter. `type` may end with a star."""

    type: str = ""
    status: str | None = None
    search: str = ""
    since: datetime | None = None

    def condition(self) -> ColumnElement[bool]:
        column = stripe_events.c
        conditions: list[ColumnElement[bool]] = [true()]
        if self.type.endswith("*"):
            conditions.append(column.type.startswith(self.type[:-1], autoescape=True))
        elif self.type:
            conditions.append(column.type == self.type)
        if self.status:
            conditions.append(column.status == self.status)
        if self.search:
            named = (column.id, column.object_id, column.payment_intent_id)
            conditions.append(or_(*(name == self.search for name in named)))
        if self.since:
            conditions.append(column.received_at >= self.since)
        return and_(*conditions)


async def list_events(
    connection: AsyncConnection, wanted: EventFilter, *, limit: int, before: str | None
) -> Sequence[StoredEvent]:
    order = (stripe_events.c.received_at, stripe_events.c.id)
    query = select(*_EVENT_COLUMNS).where(wanted.condition())
    if before is not None:
        last = select(*order).where(stripe_events.c.id == before).scalar_subquery()
        query = query.where(tuple_(*order) < last)
    rows = await connection.execute(query.order_by(*(column.desc() for column in order)).limit(limit))
    return [StoredEvent(**row._mapping) for row in rows]


async def find_event(connection: AsyncConnection, event_id: str) -> tuple[StoredEvent, bytes] | None:
    """An event and its sealed payload."""
    query = select(*_EVENT_COLUMNS, stripe_events.c.payload).where(stripe_events.c.id == event_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    fields: dict[str, Any] = dict(row._mapping)
    payload: bytes = fields.pop("payload")
    return StoredEvent(**fields), payload


async def list_parked(
    connection: AsyncConnection, *, status: str | None, limit: int, before: UUID | None
) -> Sequence[ParkedPayment]:
    order = (quarantine.c.created_at, quarantine.c.id)
    query = _select_parked()
    if status is not None:
        query = query.where(quarantine.c.status == status)
    if before is not None:
        last = select(*order).where(quarantine.c.id == before).scalar_subquery()
        query = query.where(tuple_(*order) < last)
    rows = await connection.execute(query.order_by(*(column.desc() for column in order)).limit(limit))
    return [ParkedPayment(**row._mapping) for row in rows]


async def find_parked(connection: AsyncConnection, quarantine_id: UUID) -> ParkedPayment | None:
    row = (await connection.execute(_select_parked().where(quarantine.c.id == quarantine_id))).one_or_none()
    return ParkedPayment(**row._mapping) if row else None


def _select_parked() -> Any:
    return (
        select(*_PARKED_COLUMNS)
        .outerjoin(payments, payments.c.id == quarantine.c.payment_id)
        .outerjoin(checkouts, checkouts.c.id == quarantine.c.checkout_id)
    )
