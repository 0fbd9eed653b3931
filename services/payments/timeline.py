"""What happened here to a user or an order: checkouts, Stripe's events and what they caused, payments,
refunds, disputes, parked money, subscriptions and their invoices. Nothing of a card is ever stored."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import timeline
from services.chassis.timeline import Entry, Fields, Wanted

_ROWS = """
    WITH bought AS MATERIALIZED (
        SELECT * FROM checkouts WHERE user_id = :user_id OR order_id = :order_id
        ORDER BY created_at DESC LIMIT 1000),
    paid AS MATERIALIZED (
        SELECT p.*, b.traceparent FROM payments p
            JOIN (SELECT id FROM payments WHERE user_id = :user_id
                UNION SELECT id FROM payments WHERE checkout_id IN (SELECT id FROM bought)) mine
                ON mine.id = p.id
            LEFT JOIN bought b ON b.id = p.checkout_id
        ORDER BY p.created_at DESC LIMIT 1000),
    subscribed AS MATERIALIZED (
        SELECT s.*, b.traceparent FROM subscriptions s JOIN bought b ON b.id = s.id),
    back AS MATERIALIZED (
        SELECT r.*, p.traceparent AS bought_in FROM paid p JOIN refunds r ON r.payment_id = p.id),
    -- Stripe's ids of all of it.
    known AS MATERIALIZED (
        SELECT session_id AS id, order_id, traceparent FROM bought WHERE session_id IS NOT NULL
        UNION SELECT payment_intent_id, order_id, traceparent FROM paid
        UNION SELECT stripe_refund_id, order_id, bought_in FROM back WHERE stripe_refund_id IS NOT NULL
        UNION SELECT invoice_id, NULL, traceparent FROM paid WHERE invoice_id IS NOT NULL
        UNION SELECT stripe_subscription_id, NULL, traceparent FROM subscribed)
    SELECT e.at, 2 AS rank, 'checkout.' || e.status AS kind, c.id::text AS id, c.order_id,
        split_part(c.traceparent, '-', 2) AS trace_id,
        jsonb_build_object('status', e.status, 'cents', c.amount_cents, 'currency', c.currency,
            'points', nullif(c.points, 0), 'package_id', c.package_id, 'plan_id', c.plan_id,
            'session_id', c.session_id, 'failure_reason', c.failure_reason) AS fields
    FROM bought c CROSS JOIN LATERAL (VALUES ('creating', c.created_at),
        (nullif(c.status, 'creating'), c.updated_at)) AS e (status, at)
    WHERE e.status IS NOT NULL
    UNION ALL
    -- An event that nobody handled bears no trace of its own.
    SELECT s.received_at, 1, 'stripe_event', s.id, k.order_id,
        coalesce(s.trace_id, split_part(k.traceparent, '-', 2)),
        jsonb_build_object('type', s.type, 'status', s.status, 'attempts', s.attempts, 'error', s.error,
            'object_id', s.object_id, 'set_aside_by', s.set_aside_by, 'set_aside_reason', s.set_aside_reason,
            'effects', (
                SELECT string_agg((f ->> 'kind') || ' ' || (f ->> 'change'), '; ')
                FROM jsonb_array_elements(s.effects) f))
    FROM (SELECT id, max(order_id::text)::uuid AS order_id, max(traceparent) AS traceparent FROM (
            SELECT s.id, k.order_id, k.traceparent FROM known k JOIN stripe_events s ON s.object_id = k.id
            UNION ALL SELECT s.id, k.order_id, k.traceparent
            FROM known k JOIN stripe_events s ON s.payment_intent_id = k.id
        ) found GROUP BY id) k JOIN stripe_events s ON s.id = k.id
    UNION ALL
    SELECT created_at, 3, 'payment.' || standing, payment_intent_id, order_id,
        split_part(traceparent, '-', 2),
        jsonb_build_object('standing', standing, 'cents', amount_cents, 'currency', currency,
            'points', nullif(points, 0), 'refunded_cents', nullif(refunded_cents, 0),
            'disputed_cents', nullif(disputed_cents, 0), 'lost_cents', nullif(lost_cents, 0),
            'dispute', nullif(dispute, 'none'))
    FROM paid
    UNION ALL
    SELECT e.at, 4, 'refund.' || e.status, r.id::text, r.order_id,
        split_part(coalesce(r.traceparent, r.bought_in), '-', 2),
        jsonb_build_object('status', e.status, 'cents', r.amount_cents, 'currency', r.currency,
            'reason', r.reason, 'asked_for_here', r.is_ours, 'stripe_refund_id', r.stripe_refund_id,
            'failure_reason', r.failure_reason)
    FROM back r CROSS JOIN LATERAL (VALUES ('requested', r.created_at),
        (nullif(r.status, 'creating'), r.updated_at)) AS e (status, at)
    WHERE e.status IS NOT NULL
    UNION ALL
    SELECT e.at, 4, 'dispute.' || e.status, d.id, p.order_id, split_part(p.traceparent, '-', 2),
        jsonb_build_object('status', e.status, 'cents', d.amount_cents, 'currency', d.currency,
            'reason', d.reason)
    FROM paid p JOIN disputes d ON d.payment_id = p.id
        CROSS JOIN LATERAL (VALUES ('opened', d.created_at), (d.status, d.updated_at)) AS e (status, at)
    UNION ALL
    SELECT e.at, 4, 'quarantine.' || e.status, q.id::text, coalesce(p.order_id, b.order_id),
        split_part(coalesce(p.traceparent, b.traceparent), '-', 2),
        jsonb_build_object('status', e.status, 'cents', q.amount_cents, 'currency', q.currency,
            'reason', q.reason, 'resolved_by', q.resolved_by, 'resolution_reason', q.resolution_reason)
    -- Few rows: what is parked without a payment is found by its checkout.
    FROM quarantine q LEFT JOIN paid p ON p.id = q.payment_id LEFT JOIN bought b ON b.id = q.checkout_id
        CROSS JOIN LATERAL (VALUES ('parked', q.created_at),
            (nullif(q.status, 'parked'), q.resolved_at)) AS e (status, at)
    WHERE e.status IS NOT NULL AND e.at IS NOT NULL AND num_nonnulls(p.id, b.id) > 0
    UNION ALL
    SELECT updated_at, 4, 'subscription.' || status, id::text, NULL, split_part(traceparent, '-', 2),
        jsonb_build_object('status', status, 'plan_id', plan_id, 'points', points, 'cents', price_cents,
            'currency', currency, 'ends_with_period', cancel_at_period_end)
    FROM subscribed
    UNION ALL
    SELECT i.created_at, 4, 'invoice', i.id, NULL, split_part(s.traceparent, '-', 2),
        jsonb_build_object('cents', i.amount_paid_cents, 'currency', i.currency,
            'billing_reason', i.billing_reason)
    FROM subscribed s JOIN invoices i ON i.subscription_id = s.id"""
_TIMELINE = timeline.query(_ROWS)


async def read_timeline(connection: AsyncConnection, wanted: Wanted) -> Sequence[Entry]:
    return await timeline.read(connection, _TIMELINE, wanted)


def _money(fields: Fields) -> str:
    return f"{fields['cents']} {fields['currency']} (minor units)" if "cents" in fields else "money"


def _checkout(fields: Fields) -> str:
    sold = f"package {fields['package_id']}" if "package_id" in fields else "an order"
    sold = f"plan {fields['plan_id']}" if "plan_id" in fields else sold
    return f"checkout of {sold} for {_money(fields)} {fields['status']}"


def _event(fields: Fields) -> str:
    said = f"Stripe told {fields['type']}: {fields.get('effects') or 'nothing new'}"
    if fields["status"] == "set_aside":
        return f"{said}; set aside by {fields['set_aside_by']}: {fields['set_aside_reason']}"
    return f"{said}; tried again: {fields['error']}" if "error" in fields else said


def _payment(fields: Fields) -> str:
    said = f"{_money(fields)} paid, {fields['standing']}"
    said += f", {fields['refunded_cents']} of it back" if "refunded_cents" in fields else ""
    return f"{said}, dispute {fields['dispute']}" if "dispute" in fields else said


def _refund(fields: Fields) -> str:
    said = f"refund of {_money(fields)} at Stripe {fields['status']}: {fields['reason']}"
    return f"{said} ({fields['failure_reason']})" if "failure_reason" in fields else said


SUMMARIES: Mapping[str, Callable[[Fields], str]] = {
    "checkout": _checkout,
    "stripe_event": _event,
    "payment": _payment,
    "refund": _refund,
    "dispute": lambda fields: f"dispute of {_money(fields)} {fields['status']}: {fields['reason']}",
    "quarantine": lambda fields: f"{_money(fields)} {fields['status']}: {fields['reason']}",
    "subscription": lambda fields: f"subscription of plan {fields['plan_id']} {fields['status']}",
    "invoice": lambda fields: f"invoice of {_money(fields)} paid ({fields.get('billing_reason', '')})",
}
