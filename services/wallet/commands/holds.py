"""The life of a hold: reserved, then captured or released; asked about while it is open; refunded.

Reserve and capture are on the checkout path, so they run fixed SQL on psycopg's connection: a reserve is
one statement, a batch of captures three, however many it holds. The rest is rare and uses Core.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

import psycopg
from sqlalchemy import func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from services.chassis import outbox, tracing
from services.chassis.db import FixedSql
from services.chassis.ids import uuid7
from services.wallet import queries, rules
from services.wallet.commands import ledger
from services.wallet.errors import HoldMismatch, HoldNotFound, RefundMismatch
from services.wallet.models import holds
from services.wallet.rules import Account, Balance, Capture, CaptureOutcome, CapturePlan, Entry, Hold, Posting


class Reserve(Protocol):
    """The two ways to reserve, below."""

    async def __call__(
        self, connection: FixedSql, *, user_id: UUID, order_id: UUID, points: int, hold_seconds: int
    ) -> Hold: ...


OVERDUE_BATCH = 100
_MAX_DOUBLINGS = 4

# With debt nothing is free (a CHECK of profiles), so that this one condition refuses both.
_RESERVE = """
    WITH reserved AS (
        UPDATE profiles SET points_held = points_held + %(points)s::bigint, updated_at = now()
        WHERE id = %(user_id)s AND points - points_held >= %(points)s::bigint
        RETURNING id
    )
    INSERT INTO holds (user_id, order_id, points, status, due_at, trace_id)
    SELECT id, %(order_id)s, %(points)s::bigint, 'held', now() + make_interval(secs => %(hold_seconds)s::int),
        %(trace_id)s
    FROM reserved
    RETURNING id, due_at"""
_LOCK_BALANCE = "SELECT points, points_held, points_debt FROM profiles WHERE id = %s FOR UPDATE"
_OWN_HOLD = """
    SELECT id, user_id, order_id, points, refunded_points, status, due_at FROM holds
    WHERE order_id = %s AND user_id = %s"""

# By id: two batches with the same users never wait for each other in a ring.
_LOCK_ACCOUNTS = """
    SELECT id, points, points_held, points_debt, ledger_seq, ledger_head FROM profiles
    WHERE id = ANY(%s::uuid[]) ORDER BY id FOR UPDATE"""
_HOLDS = """
    SELECT clock_timestamp(), id, user_id, order_id, points, refunded_points, status, due_at FROM holds
    WHERE order_id = ANY(%s::uuid[])"""
_WRITE_CAPTURES = """
    WITH entry AS (
        INSERT INTO points_transactions
            (id, user_id, seq, amount, type, description, order_id, idempotency_key,
             balance_after, prev_hash, hash, hash_version, processed_at, created_at, trace_id)
        SELECT e.id, e.user_id, e.seq, e.amount, 'spend', e.description, e.order_id, e.idempotency_key,
               e.balance_after, e.prev_hash, e.hash, %(hash_version)s, %(now)s, %(now)s, e.trace_id
        FROM unnest(
            %(ids)s::uuid[], %(user_ids)s::uuid[], %(seqs)s::bigint[], %(amounts)s::bigint[],
            %(descriptions)s::text[], %(order_ids)s::uuid[], %(keys)s::text[], %(balances)s::bigint[],
            %(prev_hashes)s::bytea[], %(hashes)s::bytea[], %(trace_ids)s::text[]
        ) AS e (id, user_id, seq, amount, description, order_id, idempotency_key, balance_after,
                prev_hash, hash, trace_id)
    ), captured AS (
        UPDATE holds SET status = 'captured', updated_at = now()
        WHERE order_id = ANY(%(order_ids)s::uuid[]) AND status = 'held'
        RETURNING id
    ), moved AS (
        UPDATE profiles AS p
        SET points = a.points, points_held = a.held, ledger_seq = a.seq, ledger_head = a.head,
            updated_at = now()
        FROM unnest(
            %(accounts)s::uuid[], %(points)s::bigint[], %(held)s::bigint[], %(last_seqs)s::bigint[],
            %(heads)s::bytea[]
        ) AS a (id, points, held, seq, head)
        WHERE p.id = a.id
    )
    SELECT count(*) FROM captured"""


async def reserve_points(
    connection: FixedSql, *, user_id: UUID, order_id: UUID, points: int, hold_seconds: int
) -> Hold:
    """Holds points for an order, in one statement when nothing is in the way.

    Raises InsufficientPoints, HoldReleased, HoldMismatch; psycopg's UniqueViolation when the order has a
    hold already and the points would have sufficed for another: see `repeat_reserve`.
    """
    row = await _reserve(connection, user_id, order_id, points, hold_seconds)
    if row is not None:
        return row
    return await repeat_reserve(
        connection, user_id=user_id, order_id=order_id, points=points, hold_seconds=hold_seconds
    )


async def repeat_reserve(
    connection: FixedSql, *, user_id: UUID, order_id: UUID, points: int, hold_seconds: int
) -> Hold:
    """The careful way, under the profile's lock: gives back the order's hold, or says why there is none."""
    row = await (await connection.execute(_LOCK_BALANCE, (user_id,))).fetchone()
    balance = Balance() if row is None else Balance(*row)
    earlier = await (await connection.execute(_OWN_HOLD, (order_id, user_id))).fetchone()
    if earlier is not None:
        return rules.same_hold(Hold(*earlier), points=points)
    rules.refuse_to_reserve(balance, points=points)
    try:
        hold = await _reserve(connection, user_id, order_id, points, hold_seconds)
    except psycopg.errors.UniqueViolation as error:
        # Row-level security hides whose it is.
        raise HoldMismatch(order_id=order_id) from error
    assert hold is not None, "the points were there under the lock"
    return hold


async def _reserve(
    connection: FixedSql, user_id: UUID, order_id: UUID, points: int, hold_seconds: int
) -> Hold | None:
    cursor = await connection.execute(
        _RESERVE,
        {
            "user_id": user_id,
            "order_id": order_id,
            "points": points,
            "hold_seconds": hold_seconds,
            "trace_id": tracing.trace_id(),
        },
    )
    row = await cursor.fetchone()
    return None if row is None else Hold(row[0], user_id, order_id, points, 0, "held", row[1])


async def capture_points(connection: FixedSql, captures: Sequence[Capture]) -> list[CaptureOutcome]:
    """Spends the held points of each order, with an outcome for each; debt does not stop it."""
    users = list({capture.user_id for capture in captures})
    cursor = await connection.execute(_LOCK_ACCOUNTS, (users,))
    accounts: dict[UUID, Account] = {row[0]: queries.account_of(row) for row in await cursor.fetchall()}
    cursor = await connection.execute(_HOLDS, ([capture.order_id for capture in captures],))
    rows = await cursor.fetchall()
    if not rows:
        return ["not_found"] * len(captures)
    plan = rules.plan_captures(
        captures,
        accounts=accounts,
        holds={row[3]: Hold(*row[1:]) for row in rows},
        now=rows[0][0],
        new_id=uuid7,
    )
    if plan.entries:
        await _write_captures(connection, plan, trace_ids={each.order_id: each.trace_id for each in captures})
    return plan.outcomes


async def _write_captures(
    connection: FixedSql, plan: CapturePlan, *, trace_ids: Mapping[UUID | None, str | None]
) -> None:
    entries, accounts = plan.entries, plan.accounts
    cursor = await connection.execute(
        _WRITE_CAPTURES,
        {
            "hash_version": entries[0].hash_version,
            "now": entries[0].created_at,
            "ids": [entry.id for entry in entries],
            "user_ids": [entry.user_id for entry in entries],
            "seqs": [entry.seq for entry in entries],
            "amounts": [entry.amount for entry in entries],
            "descriptions": [entry.description for entry in entries],
            "order_ids": [entry.order_id for entry in entries],
            "keys": [entry.idempotency_key for entry in entries],
            "balances": [entry.balance_after for entry in entries],
            "prev_hashes": [entry.prev_hash for entry in entries],
            "hashes": [entry.hash for entry in entries],
            "trace_ids": [trace_ids[entry.order_id] for entry in entries],
            "accounts": [account.user_id for account in accounts],
            "points": [account.balance.points for account in accounts],
            "held": [account.balance.held for account in accounts],
            "last_seqs": [account.ledger_seq for account in accounts],
            "heads": [account.ledger_head for account in accounts],
        },
    )
    assert await cursor.fetchone() == (len(entries),), "every hold was open under its profile's lock"


async def release_points(connection: AsyncConnection, *, user_id: UUID, order_id: UUID) -> rules.HoldStatus:
    """Frees the order's points and settles debt from them; leaves a tombstone when there is no hold yet.

    "captured" when the points were spent before: then nothing changes. Raises HoldMismatch for a hold of
    somebody else.
    """
    account = await ledger.open_account(connection, user_id=user_id)
    hold = await queries.find_hold(connection, order_id=order_id)
    if hold is None:
        await _leave_tombstone(connection, user_id=user_id, order_id=order_id)
        return "released"
    if hold.user_id != user_id:
        raise HoldMismatch(order_id=order_id)
    if hold.status != "held":
        return hold.status
    await _set_status(connection, hold, "released")
    await ledger.save_balance(connection, account, rules.release(account.balance, hold.points))
    return "released"


async def _leave_tombstone(connection: AsyncConnection, *, user_id: UUID, order_id: UUID) -> None:
    await connection.execute(
        insert(holds).values(
            user_id=user_id,
            order_id=order_id,
            points=0,
            status="released",
            due_at=func.now(),
            trace_id=tracing.trace_id(),
        )
    )


async def _set_status(connection: AsyncConnection, hold: Hold, status: rules.HoldStatus) -> None:
    assert status in rules.TRANSITIONS[hold.status], f"{hold.status} -> {status}"
    changed = await connection.execute(
        update(holds)
        .where(holds.c.id == hold.id, holds.c.status == hold.status)
        .values(status=status, updated_at=func.now())
    )
    assert changed.rowcount == 1, "the profile's lock guards its holds"


async def refund_order_points(
    connection: AsyncConnection, *, user_id: UUID, order_id: UUID, refund_id: UUID, points: int, reason: str
) -> Entry:
    """Gives spent points back, debt first; the same refund_id gives the same transaction.

    Raises HoldNotFound, NotCaptured, RefundExceedsSpend, RefundMismatch.
    """
    account = await queries.lock_account(connection, user_id=user_id)
    key = f"refund:{refund_id}"
    earlier = await queries.find_entry(connection, idempotency_key=key)
    if earlier is not None:
        if (earlier.user_id, earlier.order_id, earlier.amount) != (user_id, order_id, points):
            raise RefundMismatch(refund_id=refund_id)
        return earlier
    hold = await queries.find_hold(connection, order_id=order_id)
    if account is None or hold is None or hold.user_id != user_id:
        raise HoldNotFound(order_id=order_id)
    rules.refuse_to_refund(hold, points=points)
    await connection.execute(
        update(holds)
        .where(holds.c.id == hold.id)
        .values(refunded_points=hold.refunded_points + points, updated_at=func.now())
    )
    posting = Posting(
        amount=points,
        type="refund",
        description=reason or "Refund",
        idempotency_key=key,
        order_id=order_id,
        metadata={"refund_id": str(refund_id)},
    )
    return await ledger.post(connection, account, posting, balance=rules.credit(account.balance, points))


async def ask_about_overdue(connection: AsyncConnection, *, ask_again_seconds: int) -> int:
    """Emits wallet.hold.overdue for open holds past their due_at, and moves due_at on; returns how many.

    The pause doubles from `ask_again_seconds` up to 16 times it. Nothing is released here: only orders
    knows what became of the order.
    """
    due = (
        select(holds.c.id)
        .where(holds.c.status == "held", holds.c.due_at <= func.now())
        .order_by(holds.c.due_at)
        .limit(OVERDUE_BATCH)
        .with_for_update(skip_locked=True)
        # A CTE, since a plain subquery may be run again for each row and then passes its limit.
        .cte("due")
    )
    pause = literal(ask_again_seconds) * func.power(2, func.least(holds.c.asked, _MAX_DOUBLINGS))
    asked = await connection.execute(
        update(holds)
        .where(holds.c.id == due.c.id)
        .values(asked=holds.c.asked + 1, due_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, pause))
        .returning(holds.c.id, holds.c.user_id, holds.c.order_id, holds.c.points)
    )
    rows = asked.all()
    for hold_id, user_id, order_id, points in rows:
        event = events_pb2.HoldOverdue(
            hold_id=str(hold_id), user_id=str(user_id), order_id=str(order_id), points=points
        )
        await outbox.emit(connection, subject="wallet.hold.overdue", event=event)
    return len(rows)
