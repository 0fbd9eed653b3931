"""Reads of payments, and the locking reads by name. Locks are taken in one order: checkout, subscription,
payment, refund, quarantine. They let foreign keys through, since no key ever changes: a row that names a
locked one is inserted without waiting, and closes no circle."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, exists, func, select, text, true
from sqlalchemy.ext.asyncio import AsyncConnection

from services.payments.models import (
    checkouts,
    invoices,
    payments,
    plans,
    points_packages,
    quarantine,
    refunds,
    subscriptions,
)
from services.payments.rules import (
    LIVE,
    Checkout,
    Contest,
    Package,
    Payment,
    Plan,
    Refund,
    Standing,
    Status,
    Subscription,
)
from services.payments.sales import PointsSale, sale_of_payment

_UNREAD = {"updated_at", "stripe_account"}
CHECKOUT_COLUMNS = (
    *(column for column in checkouts.c if column.name not in _UNREAD),
    func.now().label("read_at"),
)
_PACKAGE_COLUMNS = [column for column in points_packages.c if column.name not in ("active", "created_at")]
_PLAN_COLUMNS = [column for column in plans.c if column.name not in ("active", "created_at")]
PAYMENT_COLUMNS = [column for column in payments.c if column.name not in _UNREAD | {"created_at"}]
REFUND_COLUMNS = (
    *(column for column in refunds.c if column.name not in _UNREAD),
    func.now().label("read_at"),
)
SUBSCRIPTION_COLUMNS = [column for column in subscriptions.c if column.name != "updated_at"]


def as_checkout(row: Row[Any]) -> Checkout:
    fields = dict(row._mapping)
    return Checkout(**fields | {"status": Status(fields["status"])})


def as_payment(row: Row[Any]) -> Payment:
    fields = dict(row._mapping)
    return Payment(
        **fields | {"standing": Standing(fields["standing"]), "dispute": Contest(fields["dispute"])}
    )


async def database_now(connection: AsyncConnection) -> datetime:
    """The clock that orders snapshots; read before Stripe is asked."""
    now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def list_packages(connection: AsyncConnection) -> list[Package]:
    """What is for sale, the cheapest first."""
    rows = await connection.execute(
        select(*_PACKAGE_COLUMNS)
        .where(points_packages.c.active)
        .order_by(points_packages.c.price_cents, points_packages.c.id)
    )
    return [Package(**row._mapping) for row in rows]


async def find_package(connection: AsyncConnection, package_id: str) -> Package | None:
    """A package that is for sale."""
    row = (
        await connection.execute(
            select(*_PACKAGE_COLUMNS).where(points_packages.c.active, points_packages.c.id == package_id)
        )
    ).one_or_none()
    return Package(**row._mapping) if row else None


async def find_checkout(connection: AsyncConnection, checkout_id: UUID) -> Checkout | None:
    return await _find(connection, checkouts.c.id == checkout_id)


async def versions_of(connection: AsyncConnection, checkout_ids: Collection[UUID]) -> Mapping[UUID, int]:
    """How often each of the checkouts changed so far."""
    rows = await connection.execute(
        select(checkouts.c.id, checkouts.c.version).where(checkouts.c.id.in_(checkout_ids))
    )
    return {row.id: row.version for row in rows}


async def find_order_checkout(connection: AsyncConnection, order_id: UUID) -> Checkout | None:
    return await _find(connection, checkouts.c.order_id == order_id)


async def lock_checkout(connection: AsyncConnection, checkout_id: UUID) -> Checkout | None:
    """The checkout with its row locked: whoever changes its state decides under this lock."""
    return await _find(connection, checkouts.c.id == checkout_id, lock=True)


async def _find(
    connection: AsyncConnection, condition: ColumnElement[bool], *, lock: bool = False
) -> Checkout | None:
    query = select(*CHECKOUT_COLUMNS).where(condition)
    row = (await connection.execute(query.with_for_update(key_share=True) if lock else query)).one_or_none()
    return as_checkout(row) if row else None


async def list_plans(connection: AsyncConnection) -> list[Plan]:
    """What can be subscribed to, the cheapest first."""
    rows = await connection.execute(
        select(*_PLAN_COLUMNS).where(plans.c.active).order_by(plans.c.price_cents, plans.c.id)
    )
    return [Plan(**row._mapping) for row in rows]


async def find_plan(connection: AsyncConnection, plan_id: str, *, only_active: bool = True) -> Plan | None:
    query = select(*_PLAN_COLUMNS).where(plans.c.id == plan_id)
    row = (await connection.execute(query.where(plans.c.active) if only_active else query)).one_or_none()
    return Plan(**row._mapping) if row else None


async def lock_payment(connection: AsyncConnection, payment_intent_id: str) -> Payment | None:
    """The payment with its row locked: whoever changes what is left of it decides under this lock. Those of
    one invoice are locked together, since its points depend on all of them."""
    is_it = payments.c.payment_intent_id == payment_intent_id
    invoice_id = await connection.scalar(select(payments.c.invoice_id).where(is_it))
    if invoice_id is not None:
        locked = await lock_payments_of(connection, invoice_id)
        return next(each for each in locked if each.payment_intent_id == payment_intent_id)
    query = select(*PAYMENT_COLUMNS).where(is_it).with_for_update(key_share=True)
    row = (await connection.execute(query)).one_or_none()
    return as_payment(row) if row else None


async def lock_payments_of(connection: AsyncConnection, invoice_id: str) -> list[Payment]:
    """All payments of an invoice, the first one first, with their rows locked."""
    query = select(*PAYMENT_COLUMNS).where(payments.c.invoice_id == invoice_id).order_by(payments.c.id)
    return [as_payment(row) for row in await connection.execute(query.with_for_update(key_share=True))]


# Terms stand with the invoice; where the release before wrote it, with its subscription.
_INVOICE_SALE = text("""
    SELECT i.id AS source_id, i.user_id, coalesce(i.points, s.points) AS points,
        coalesce(i.billed_cents, i.amount_paid_cents) AS paid_cents, p.taken_back_cents,
        i.version + p.version AS version, p.payment_intent_id, true AS of_subscription
    FROM invoices i LEFT JOIN subscriptions s ON s.id = i.subscription_id CROSS JOIN LATERAL (
        SELECT coalesce(sum(version), 0)::bigint AS version,
            coalesce(sum(least(amount_cents, refunded_cents + disputed_cents)), 0)::bigint
                AS taken_back_cents,
            coalesce((array_agg(payment_intent_id ORDER BY id))[1], '') AS payment_intent_id
        FROM payments WHERE invoice_id = i.id) p
    WHERE i.id = :invoice_id""")


async def unknown_invoices(connection: AsyncConnection, invoice_ids: Sequence[str]) -> list[str]:
    """Those that neither gave points nor wait for an operator, the oldest first."""
    given = await connection.scalars(select(invoices.c.id).where(invoices.c.id.in_(invoice_ids)))
    parked = await connection.scalars(
        select(quarantine.c.invoice_id).where(quarantine.c.invoice_id.in_(invoice_ids))
    )
    known = {*given, *parked}
    return [each for each in reversed(invoice_ids) if each not in known]


async def find_invoice_sale(connection: AsyncConnection, invoice_id: str) -> PointsSale | None:
    """An invoice that gave points. Its version is that of all its payments together: it rises with each of
    them, and is the payment's own where there is one."""
    row = (await connection.execute(_INVOICE_SALE, {"invoice_id": invoice_id})).one_or_none()
    return PointsSale(**row._mapping) if row else None


async def sale_of(connection: AsyncConnection, payment: Payment) -> PointsSale:
    """The sale that a fulfilled points payment belongs to."""
    found = await find_invoice_sale(connection, payment.invoice_id) if payment.invoice_id else None
    return found or sale_of_payment(payment)


async def knows_payment(connection: AsyncConnection, payment_intent_id: str) -> bool:
    query = select(exists().where(payments.c.payment_intent_id == payment_intent_id))
    return bool((await connection.execute(query)).scalar_one())


async def currency_of(connection: AsyncConnection, payment_intent_id: str) -> str | None:
    """Of a payment that is known."""
    return await connection.scalar(
        select(payments.c.currency).where(payments.c.payment_intent_id == payment_intent_id)
    )


async def intent_of_order(connection: AsyncConnection, order_id: UUID) -> str | None:
    """The payment intent that paid an order."""
    return await connection.scalar(
        select(payments.c.payment_intent_id).where(
            payments.c.order_id == order_id, payments.c.standing == Standing.FULFILLED
        )
    )


async def find_refund(connection: AsyncConnection, refund_id: UUID) -> Refund | None:
    row = (await connection.execute(select(*REFUND_COLUMNS).where(refunds.c.id == refund_id))).one_or_none()
    return Refund(**row._mapping) if row else None


async def knows_subscription(connection: AsyncConnection, stripe_subscription_id: str) -> bool:
    query = select(exists().where(subscriptions.c.stripe_subscription_id == stripe_subscription_id))
    return bool((await connection.execute(query)).scalar_one())


async def lock_subscription(connection: AsyncConnection, stripe_subscription_id: str) -> Subscription | None:
    """By Stripe's id, with its row locked."""
    query = select(*SUBSCRIPTION_COLUMNS).where(
        subscriptions.c.stripe_subscription_id == stripe_subscription_id
    )
    row = (await connection.execute(query.with_for_update(key_share=True))).one_or_none()
    return Subscription(**row._mapping) if row else None


async def find_subscription(connection: AsyncConnection, subscription_id: UUID) -> Subscription | None:
    query = select(*SUBSCRIPTION_COLUMNS).where(subscriptions.c.id == subscription_id)
    row = (await connection.execute(query)).one_or_none()
    return Subscription(**row._mapping) if row else None


async def find_live_subscription(
    connection: AsyncConnection, *, user_id: UUID, plan_id: str, but: UUID | None = None
) -> UUID | None:
    """The user's subscription of a plan that goes on; not the one that is named."""
    return await connection.scalar(
        select(subscriptions.c.id)
        .where(
            subscriptions.c.user_id == user_id,
            subscriptions.c.plan_id == plan_id,
            subscriptions.c.status.in_(LIVE),
            subscriptions.c.cancel_at_period_end.is_(False),
            subscriptions.c.duplicate_of.is_(None),
            subscriptions.c.id != but if but else true(),
        )
        .limit(1)
    )


async def find_plan_page(connection: AsyncConnection, *, user_id: UUID, plan_id: str) -> Checkout | None:
    """The checkout by which the user is about to begin a subscription of a plan."""
    query = (
        select(*CHECKOUT_COLUMNS)
        .where(
            checkouts.c.user_id == user_id,
            checkouts.c.plan_id == plan_id,
            checkouts.c.plan_page,
            checkouts.c.status.in_((Status.CREATING, Status.OPEN, Status.PROCESSING)),
        )
        .order_by(checkouts.c.created_at.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    return as_checkout(row) if row else None
