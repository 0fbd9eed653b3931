"""A mail that is due: one row of `mails` with what it tells of its order.

States: unsent (due at next_attempt_at) → handed (to one sender, handed_at; due at no time) → sent, or unsent
again when the mail server says that it does not take it now, or refused (refused_at; due at no time) when it
says that it never will, until an operator decides. Whoever claims an unsent mail has it for the lease
that it writes into next_attempt_at, and must still have it handed before the mail's text goes out: of many
senders one succeeds. Handed for IN_DOUBT_SECONDS and not sent is in doubt: the server may have taken the mail
and its answer was not heard, so it is never sent again by itself (RFC 1047 tells how duplicates come about);
an operator decides (commands/mails.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from services.chassis import backoff
from services.chassis.db import FixedSql

RECEIPT, SHIPPED = "receipt", "shipped"
# Queued by the version before beside the receipt, which tells of the downloads by now.
DOWNLOADS = "downloads"
# refund:<id of the refund>
REFUND = "refund"
# returned:<id of the refund> that the bank sent back
RETURNED = "returned"
Key = tuple[UUID, str]
# Longer than a sender waits for the mail server's answer.
IN_DOUBT_SECONDS = 120
IN_DOUBT = f"sent_at IS NULL AND handed_at < now() - interval '{IN_DOUBT_SECONDS} s'"
# The mail server says "later" again and again: since minutes, and for days (chassis/backoff.py).
PUT_OFF = (
    "sent_at IS NULL AND refused_at IS NULL AND handed_at IS NULL"
    f" AND attempts >= {backoff.DEFAULT.fast_tries} AND last_error ~ '^4[0-9][0-9] '"
)

_CLAIM = """
    WITH due AS (
        SELECT order_id, kind FROM mails
        WHERE sent_at IS NULL AND refused_at IS NULL AND next_attempt_at <= now()
            AND (attempts = 0) = %s
        ORDER BY next_attempt_at LIMIT %s FOR UPDATE SKIP LOCKED),
    claimed AS (
        UPDATE mails m SET next_attempt_at = now() + %s * interval '1 s', attempts = m.attempts + 1
        FROM due WHERE m.order_id = due.order_id AND m.kind = due.kind
        RETURNING m.order_id, m.kind, m.attempts, m.created_at)
    SELECT c.order_id, c.kind, c.attempts, c.created_at, o.email, o.currency, o.total_cents, o.total_points,
        o.total_cents - coalesce(o.paid_cents, o.total_cents) AS discount_cents,
        l.titles, l.quantities, l.types, o.tracking_info,
        coalesce(r.amount_cents, 0) AS refunded_cents, coalesce(r.amount_points, 0) AS refunded_points,
        l.refunded_quantities, coalesce(r.actor = 'saga', false) AS came_too_late
    FROM claimed c JOIN orders o ON o.id = c.order_id
        LEFT JOIN refunds r ON r.order_id = o.id AND c.kind IN ('refund:' || r.id, 'returned:' || r.id)
        CROSS JOIN LATERAL (
            SELECT array_agg(i.title ORDER BY i.product_id) AS titles,
                array_agg(i.quantity ORDER BY i.product_id) AS quantities,
                array_agg(p.type ORDER BY i.product_id) AS types,
                array_agg(coalesce(t.quantity, 0) ORDER BY i.product_id) AS refunded_quantities
            FROM order_items i JOIN products p ON p.id = i.product_id
                LEFT JOIN refund_items t ON t.refund_id = r.id AND t.product_id = i.product_id
            WHERE i.order_id = o.id) l
    WHERE o.email IS NOT NULL"""
# Due in the last year that clients can read: 'infinity' is no time to most of them.
_NEVER = "'9999-01-01 00:00+00'"
_HAND = f"""
    UPDATE mails m SET handed_at = now(), next_attempt_at = {_NEVER}
    FROM unnest(%s::uuid[], %s::text[]) AS s (order_id, kind)
    WHERE m.order_id = s.order_id AND m.kind = s.kind AND m.handed_at IS NULL AND m.sent_at IS NULL
        AND m.refused_at IS NULL
    RETURNING m.order_id, m.kind, m.handed_at"""
_SENT = """
    UPDATE mails m SET sent_at = now(), last_error = NULL
    FROM unnest(%s::uuid[], %s::text[]) AS s (order_id, kind)
    WHERE m.order_id = s.order_id AND m.kind = s.kind"""
# Left alone when somebody else was handed the mail since. Whose first try was from memory has tried once.
_IF_STILL_OURS = """
    WHERE order_id = %(order_id)s AND kind = %(kind)s AND sent_at IS NULL AND refused_at IS NULL
        AND handed_at IS NOT DISTINCT FROM %(handed_at)s"""
_LATER = f"""
    UPDATE mails SET last_error = %(error)s, attempts = greatest(attempts, 1), handed_at = NULL,
        next_attempt_at = now() + %(seconds)s * interval '1 s' {_IF_STILL_OURS}"""
_REFUSED = f"""
    UPDATE mails SET last_error = %(error)s, attempts = greatest(attempts, 1), handed_at = NULL,
        next_attempt_at = {_NEVER}, refused_at = now() {_IF_STILL_OURS}"""
_UNANSWERED = "UPDATE mails SET last_error = %s WHERE order_id = %s AND kind = %s"


@dataclass(frozen=True, slots=True)
class Mail:
    """Lists go by line of the order, in product order. Amounts in minor units, points whole."""

    order_id: UUID
    kind: str
    attempts: int
    created_at: datetime
    # The customer's address, sealed.
    email: bytes
    currency: str
    total_cents: int
    total_points: int
    titles: Sequence[str]
    quantities: Sequence[int]
    types: Sequence[str]
    tracking_info: Mapping[str, str] | None = None
    # What the refund of a refund:<id> gave back, or that of a returned:<id> was to give back.
    refunded_cents: int = 0
    refunded_points: int = 0
    refunded_quantities: Sequence[int] = ()
    # Nobody asked for that refund: the payment came when the order had ended.
    came_too_late: bool = False
    # What promotion codes took off the total.
    discount_cents: int = 0

    @property
    def key(self) -> Key:
        return self.order_id, self.kind


async def claim_due(
    connection: FixedSql, *, is_fresh: bool, limit: int, lease_seconds: float
) -> Sequence[Mail]:
    """Of those that nobody has tried yet, or of those that somebody has: the one never wait for the other."""
    async with connection.cursor(row_factory=class_row(Mail)) as cursor:
        return await (await cursor.execute(_CLAIM, (is_fresh, limit, lease_seconds))).fetchall()


async def hand(connection: FixedSql, mails: Sequence[Mail]) -> Mapping[Key, datetime]:
    """The mails that are ours to send, once, by when they were handed; the others are somebody else's, or are
    sent."""
    rows = await (await connection.execute(_HAND, _keys(mails))).fetchall()
    return {(order_id, kind): handed_at for order_id, kind, handed_at in rows}


async def mark_sent(connection: FixedSql, mails: Sequence[Mail]) -> None:
    await connection.execute(_SENT, _keys(mails))


async def try_later(
    connection: FixedSql, mail: Mail, *, error: str, seconds: float, handed_at: datetime | None
) -> None:
    """When the mail server does not take it now, or was not reached."""
    await connection.execute(_LATER, _outcome(mail, error, handed_at) | {"seconds": seconds})


async def refuse(connection: FixedSql, mail: Mail, *, error: str, handed_at: datetime | None) -> None:
    """When the mail server will never take it: an operator decides (commands/mails.py)."""
    await connection.execute(_REFUSED, _outcome(mail, error, handed_at))


async def leave_in_doubt(connection: FixedSql, mail: Mail, *, error: str) -> None:
    await connection.execute(_UNANSWERED, (error, *mail.key))


def _outcome(mail: Mail, error: str, handed_at: datetime | None) -> dict[str, Any]:
    return {"order_id": mail.order_id, "kind": mail.kind, "error": error, "handed_at": handed_at}


def _keys(mails: Sequence[Mail]) -> tuple[list[UUID], list[str]]:
    return [mail.order_id for mail in mails], [mail.kind for mail in mails]
