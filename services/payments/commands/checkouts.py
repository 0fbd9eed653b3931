"""Checkouts up to the moment when Stripe knows them: begin, lease, refuse, try anew, give up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import idempotency, tracing
from services.chassis.ids import uuid7
from services.payments import errors, facts, queries
from services.payments.models import checkouts
from services.payments.queries import CHECKOUT_COLUMNS, as_checkout
from services.payments.rules import (
    ATTEMPT_LIFETIME,
    CHECKOUT_LIFETIME,
    LEASE,
    OVERDUE_GRACE,
    SHOP_CURRENCY,
    SHORTEST_SESSION,
    Checkout,
    Line,
    Package,
    Plan,
    Status,
    may_end_unknown,
)

_ABSENT = b""


@dataclass(frozen=True, slots=True)
class Sale:
    """What a checkout sells for itself: a package once, or a plan for each invoice."""

    line: Line
    points: int
    currency: str
    package_id: str | None = None
    plan_id: str | None = None

    @classmethod
    def of_package(cls, package: Package) -> "Sale":
        line = Line(f"{package.name}: {package.points} points", package.price_cents, 1)
        return cls(line, package.points, package.currency, package_id=package.id)

    @classmethod
    def of_plan(cls, plan: Plan) -> "Sale":
        title = f"{plan.name}: {plan.points} points a {plan.interval}"
        line = Line(title, plan.price_cents, 1, interval=plan.interval)
        return cls(line, plan.points, plan.currency, plan_id=plan.id)


class PageExists(Exception):
    """Somebody else's row is the one page of this user and plan: what was written is to be rolled back."""


# Longer than a page lives: what is older waits for a bank, if for anything.
_PAGE_LIFETIME = CHECKOUT_LIFETIME * 2


async def check_open(connection: AsyncConnection, begun: Checkout, *, limit: int) -> None:
    """Whether a customer may have one more page open at Stripe, of whatever kind: the one that this
    transaction has begun. Those of one customer that begin in the same instant do not see each other: their
    number is bounded by the rate limit of checkouts. Raises TOO_MANY_OPEN_CHECKOUTS."""
    opened = await connection.scalars(
        select(checkouts.c.id)
        .where(
            checkouts.c.user_id == begun.user_id,
            checkouts.c.id != begun.id,
            checkouts.c.status.in_([Status.CREATING, Status.OPEN]),
            checkouts.c.created_at > func.now() - _PAGE_LIFETIME,
        )
        .order_by(checkouts.c.created_at)
        .limit(limit)
    )
    found = opened.all()
    if len(found) >= limit:
        raise errors.too_many_open_checkouts(limit=limit, opened=found)


async def begin_sale(
    connection: AsyncConnection,
    *,
    request: idempotency.Request,
    checkout_id: UUID,
    sale: Sale,
    sealed_request: bytes,
    promotion_codes: bool = False,
) -> Checkout | None:
    """Writes a checkout, leased to the caller, before Stripe is called; None when a twin of the
    request was first. Raises PageExists when the user has just opened a page for the same plan."""
    if not await idempotency.keep_resource(connection, request, resource_id=checkout_id):
        return None
    begun = await _insert(
        connection,
        plan_page=sale.plan_id is not None,
        # An invoice with a discount would be parked (sales.py).
        promotion_codes=promotion_codes and sale.plan_id is None,
        id=checkout_id,
        user_id=request.user_id,
        package_id=sale.package_id,
        plan_id=sale.plan_id,
        points=sale.points,
        amount_cents=sale.line.unit_price_cents,
        currency=sale.currency,
        request=sealed_request,
    )
    if begun is None:
        raise PageExists
    return begun


async def begin_order_checkout(
    connection: AsyncConnection,
    *,
    checkout_id: UUID,
    user_id: UUID,
    order_id: UUID,
    amount_cents: int,
    currency: str,
    sealed_request: bytes,
    promotion_codes: bool = False,
) -> Checkout | None:
    """Writes the checkout of an order, leased to the caller; None when the order has one."""
    return await _insert(
        connection,
        id=checkout_id,
        user_id=user_id,
        order_id=order_id,
        amount_cents=amount_cents,
        currency=currency,
        request=sealed_request,
        promotion_codes=promotion_codes,
    )


async def _insert(connection: AsyncConnection, **fields: object) -> Checkout | None:
    row = (
        await connection.execute(
            insert(checkouts)
            .values(
                expires_at=func.now() + CHECKOUT_LIFETIME,
                attempt_until=func.now() + ATTEMPT_LIFETIME,
                lease_token=uuid7(),
                lease_until=func.now() + LEASE,
                traceparent=tracing.current(),
                **fields,
            )
            # An order has one checkout, and a plan one page for each user.
            .on_conflict_do_nothing()
            .returning(*CHECKOUT_COLUMNS)
        )
    ).one_or_none()
    return as_checkout(row) if row else None


async def bury_order(connection: AsyncConnection, *, user_id: UUID, order_id: UUID) -> Checkout | None:
    """The tombstone of an order that has no checkout: one that is asked for later finds it expired.
    None when a checkout was first."""
    row = (
        await connection.execute(
            insert(checkouts)
            .values(
                user_id=user_id,
                order_id=order_id,
                status=Status.EXPIRED,
                amount_cents=0,
                currency=SHOP_CURRENCY,
                request=_ABSENT,
                traceparent=tracing.current(),
                expires_at=func.now(),
                attempt_until=func.now(),
            )
            .on_conflict_do_nothing(constraint="checkouts_order_id_key")
            .returning(*CHECKOUT_COLUMNS)
        )
    ).one_or_none()
    return as_checkout(row) if row else None


async def lease_checkout(connection: AsyncConnection, checkout_id: UUID) -> Checkout | None:
    """Takes a checkout that is still being created; None while someone else works on it."""
    free = or_(checkouts.c.lease_token.is_(None), checkouts.c.lease_until <= func.now())
    taken = await _lease(
        connection, (checkouts.c.id == checkout_id) & (checkouts.c.status == Status.CREATING) & free
    )
    return taken[0] if taken else None


async def claim_unfinished(connection: AsyncConnection, *, limit: int) -> Sequence[Checkout]:
    """Leases checkouts whose creation nobody finished."""
    return await _claim(connection, checkouts.c.status == Status.CREATING, limit=limit)


async def claim_overdue(connection: AsyncConnection, *, limit: int) -> Sequence[Checkout]:
    """Leases checkouts that Stripe must have ended, and of whose end we heard nothing."""
    overdue = checkouts.c.status.in_((Status.OPEN, Status.PROCESSING)) & (
        checkouts.c.expires_at + OVERDUE_GRACE <= func.now()
    )
    return await _claim(connection, overdue, limit=limit)


async def _claim(
    connection: AsyncConnection, condition: ColumnElement[bool], *, limit: int
) -> Sequence[Checkout]:
    due = (
        select(checkouts.c.id)
        .where(condition, checkouts.c.lease_until <= func.now())
        .order_by(checkouts.c.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return await _lease(connection, checkouts.c.id.in_(due))


async def _lease(connection: AsyncConnection, condition: ColumnElement[bool]) -> Sequence[Checkout]:
    # One token for what is taken together: every write names the row as well.
    rows = await connection.execute(
        update(checkouts)
        .where(condition)
        .values(lease_token=uuid7(), lease_until=func.now() + LEASE, tries=checkouts.c.tries + 1)
        .returning(*CHECKOUT_COLUMNS)
    )
    return [as_checkout(row) for row in rows]


async def release_checkout(connection: AsyncConnection, checkout: Checkout, *, delay_seconds: float) -> None:
    """Gives a lease back; nobody has to look at the row before the delay has passed. Does nothing when
    the lease was lost or the checkout moved on."""
    await connection.execute(
        update(checkouts)
        .where(_leased(checkout))
        .values(
            lease_token=None,
            lease_until=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, literal(delay_seconds)),
        )
    )


async def refuse_checkout(connection: AsyncConnection, checkout: Checkout, *, reason: str) -> None:
    """Stripe said no for good: there is no session, nobody can pay."""
    await _give_up(connection, checkout, status=Status.FAILED, failure_reason=reason)


async def abandon_checkout(connection: AsyncConnection, checkout: Checkout) -> None:
    """No session was found, and it is too late for another one."""
    await _give_up(connection, checkout, status=Status.EXPIRED)


async def end_unknown(connection: AsyncConnection, checkout_id: UUID) -> Checkout | None:
    """Stripe has no such session, and its time is over: it ends, and nobody knows whether it was paid; money
    that comes all the same is taken as any late payment is. None when it is not at its end, or has ended."""
    checkout = await queries.lock_checkout(connection, checkout_id)
    if checkout is None or not may_end_unknown(checkout):
        return None
    if checkout.status is Status.OPEN:
        values: dict[str, Any] = {"status": Status.EXPIRED}
    elif checkout.status is Status.PROCESSING:
        values = {"status": Status.FAILED, "failure_reason": "unknown_to_stripe"}
    else:
        return None
    changed = await change_state(connection, checkout, values | {"unknown_since": func.now()})
    await facts.emit_checkout(connection, changed)
    return changed


async def _give_up(connection: AsyncConnection, checkout: Checkout, **values: Any) -> None:
    locked = await queries.lock_checkout(connection, checkout.id)
    if locked is None or locked.lease_token != checkout.lease_token or locked.status is not Status.CREATING:
        # A webhook or another worker knows more than this call did.
        return
    changed = await change_state(connection, locked, values)
    await facts.emit_checkout(connection, changed)


async def change_state(
    connection: AsyncConnection, checkout: Checkout, values: Mapping[str, Any]
) -> Checkout:
    """Writes a new state of a locked checkout: the version rises and the lease ends."""
    row = (
        await connection.execute(
            update(checkouts)
            .where(checkouts.c.id == checkout.id, checkouts.c.version == checkout.version)
            .values(
                version=checkout.version + 1,
                lease_token=None,
                lease_until=func.now(),
                updated_at=func.now(),
                **values,
            )
            .returning(*CHECKOUT_COLUMNS)
        )
    ).one_or_none()
    if row is None:
        raise errors.LeaseLost
    return as_checkout(row)


async def begin_next_attempt(
    connection: AsyncConnection, checkout: Checkout, *, sealed_request: bytes | None = None
) -> Checkout | None:
    """Stripe has nothing under the attempt's key: the next one gets a new key, and may ask for something
    else. None when the lease was lost, so that two workers never open two attempts at once."""
    row = (
        await connection.execute(
            update(checkouts)
            .where(_leased(checkout), checkouts.c.status == Status.CREATING)
            .values(
                attempt=checkout.attempt + 1,
                attempt_until=func.least(
                    func.now() + ATTEMPT_LIFETIME, checkouts.c.expires_at - SHORTEST_SESSION
                ),
                lease_until=func.now() + LEASE,
                **({"request": sealed_request} if sealed_request else {}),
            )
            .returning(*CHECKOUT_COLUMNS)
        )
    ).one_or_none()
    return as_checkout(row) if row else None


def _leased(checkout: Checkout) -> ColumnElement[bool]:
    return (checkouts.c.id == checkout.id) & (checkouts.c.lease_token == checkout.lease_token)
