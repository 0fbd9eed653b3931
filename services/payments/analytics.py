"""What operators count of money and webhooks.

Each payment, refund and dispute belongs to the range in which it came to be, so that ranges add up: what a
refund takes off is taken off in the week of the refund. A payment that was heard of late is late here, too.
Only fulfilled payments are revenue; what is parked in quarantine is not, nor does its refund take any off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.analytics import Range, statement
from services.payments.rules import OPEN_DISPUTES, SHOP_CURRENCY


@dataclass(frozen=True, slots=True)
class Counted:
    """Counts, amounts in minor units, and p50, p95 and p99 in milliseconds."""

    order_payments: int
    order_cents: int
    package_payments: int
    package_cents: int
    subscription_payments: int
    subscription_cents: int
    refunded_cents: int
    # Undecided, and decided against the shop.
    disputed_cents: int
    lost_cents: int
    declined_payments: int
    declined_invoices: int
    received: int
    processed: int
    ignored: int
    failing: int
    # None without events.
    lag_ms: Sequence[float] | None
    processing_ms: Sequence[float] | None

    @property
    def currency(self) -> str:
        return SHOP_CURRENCY


# Refunds and disputes are few beside payments, and looked at whole: callers choose the ids of refunds, and
# Stripe those of disputes. Their payments are looked up one by one: a join would read all payments there are.
# Events have their index by time.
_COUNT = statement("""
    WITH made AS (
        SELECT amount_cents, order_id IS NOT NULL AS of_order, invoice_id IS NOT NULL AS of_invoice
        FROM payments
        WHERE id >= :first_id AND id < :end_id AND created_at >= :since AND created_at < :until
            AND standing = 'fulfilled' AND currency = :currency),
    revenue AS (
        SELECT count(*) FILTER (WHERE of_order) AS order_payments,
            coalesce(sum(amount_cents) FILTER (WHERE of_order), 0)::bigint AS order_cents,
            count(*) FILTER (WHERE NOT of_order AND NOT of_invoice) AS package_payments,
            coalesce(sum(amount_cents) FILTER (WHERE NOT of_order AND NOT of_invoice), 0)::bigint
                AS package_cents,
            count(*) FILTER (WHERE of_invoice) AS subscription_payments,
            coalesce(sum(amount_cents) FILTER (WHERE of_invoice), 0)::bigint AS subscription_cents
        FROM made),
    given_back AS (
        SELECT coalesce(sum(r.amount_cents), 0)::bigint AS refunded_cents
        FROM refunds r
        WHERE r.created_at >= :since AND r.created_at < :until AND r.status = 'succeeded'
            AND (SELECT p.standing = 'fulfilled' AND p.currency = :currency
                FROM payments p WHERE p.id = r.payment_id)),
    contested AS (
        SELECT coalesce(sum(coalesce(d.share_cents, d.amount_cents))
                FILTER (WHERE d.status = ANY(:open_disputes)), 0)::bigint AS disputed_cents,
            coalesce(sum(coalesce(d.lost_cents, d.amount_cents))
                FILTER (WHERE d.status = 'lost'), 0)::bigint AS lost_cents
        FROM disputes d
        WHERE d.created_at >= :since AND d.created_at < :until
            AND (SELECT p.standing = 'fulfilled' AND p.currency = :currency
                FROM payments p WHERE p.id = d.payment_id)),
    heard AS (
        SELECT type, status, error IS NOT NULL AS has_failed,
            -- A clock that is behind Stripe's hears of nothing before it happened.
            extract(epoch FROM greatest(received_at - created, interval '0'))::float8 * 1000 AS lag_ms,
            extract(epoch FROM processed_at - received_at)::float8 * 1000 AS processing_ms
        FROM stripe_events WHERE received_at >= :since AND received_at < :until),
    events AS (
        SELECT count(*) FILTER (WHERE type = 'payment_intent.payment_failed' AND status = 'processed')
                AS declined_payments,
            count(*) FILTER (WHERE type = 'invoice.payment_failed' AND status = 'processed')
                AS declined_invoices,
            count(*) AS received,
            count(*) FILTER (WHERE status = 'processed') AS processed,
            count(*) FILTER (WHERE status = 'ignored') AS ignored,
            count(*) FILTER (WHERE status = 'failed' OR status = 'received' AND has_failed) AS failing,
            percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY lag_ms) AS lag_ms,
            percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY processing_ms)
                FILTER (WHERE processing_ms IS NOT NULL) AS processing_ms
        FROM heard)
    SELECT * FROM revenue CROSS JOIN given_back CROSS JOIN contested CROSS JOIN events""")


async def count_payments(connection: AsyncConnection, within: Range) -> Counted:
    more = {"currency": SHOP_CURRENCY, "open_disputes": sorted(OPEN_DISPUTES)}
    row = (await connection.execute(_COUNT, {**within.parameters(), **more})).one()
    return Counted(**row._mapping)
