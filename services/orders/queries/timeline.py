"""What happened here to an order or a user: status changes, refunds, stock, saga runs, mails, downloads."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import timeline
from services.chassis.timeline import Entry, Fields, Wanted

# Stock and mails are written in the transaction of the change that caused them: they bear its trace.
_ROWS = """
    WITH mine AS MATERIALIZED (
        SELECT id, total_cents, total_points, currency, payment_method FROM orders
        WHERE id = :order_id OR user_id = :user_id ORDER BY created_at DESC LIMIT 1000)
    SELECT h.created_at AS at, 2 AS rank,
        'order.' || CASE WHEN h.from_status = h.to_status THEN h.reason ELSE h.to_status END AS kind,
        h.id::text AS id, h.order_id, h.trace_id,
        jsonb_build_object('from', h.from_status, 'to', h.to_status, 'actor', h.actor, 'reason', h.reason,
            'cents', nullif(m.total_cents, 0), 'points', nullif(m.total_points, 0), 'currency', m.currency,
            'payment_method', m.payment_method) AS fields
    FROM mine m JOIN order_history h ON h.order_id = m.id
    UNION ALL
    SELECT e.at, 1, 'refund.' || e.status, r.id::text, r.order_id, r.trace_id,
        jsonb_build_object('status', e.status, 'cents', nullif(r.amount_cents, 0),
            'points', nullif(r.amount_points, 0), 'currency', m.currency, 'actor', r.actor,
            'reason', r.reason, 'return_stock', r.return_stock, 'failure_reason', r.failure_reason)
    FROM mine m JOIN refunds r ON r.order_id = m.id
        CROSS JOIN LATERAL (VALUES ('requested', r.created_at),
            (nullif(r.status, 'requested'), coalesce(r.finished_at, r.updated_at))) AS e (status, at)
    WHERE e.status IS NOT NULL
    UNION ALL
    SELECT s.created_at, 3, 'stock.' || s.reason, s.id::text, s.order_id, coalesce(r.trace_id, h.trace_id),
        jsonb_build_object('product_id', s.product_id, 'title', i.title, 'pieces', s.delta)
    FROM mine m JOIN stock_movements s ON s.order_id = m.id
        JOIN order_items i ON i.order_id = s.order_id AND i.product_id = s.product_id
        LEFT JOIN refunds r ON r.id = s.refund_id
        LEFT JOIN order_history h ON h.order_id = s.order_id AND h.created_at = s.created_at
            AND h.to_status = 'completed'
    UNION ALL
    SELECT s.updated_at, 4, 'saga.' || s.status, s.saga, s.order_id, split_part(s.traceparent, '-', 2),
        jsonb_build_object('saga', s.saga, 'status', s.status, 'step', nullif(s.step, ''),
            'attempts', s.attempts, 'last_error', s.last_error, 'undo_reason', s.undo_reason)
    FROM mine m JOIN saga_runs s ON s.order_id = m.id
    UNION ALL
    SELECT coalesce(l.sent_at, l.created_at), 5, 'mail.' || split_part(l.kind, ':', 1), l.kind, l.order_id,
        coalesce(r.trace_id, h.trace_id),
        jsonb_build_object('mail', split_part(l.kind, ':', 1), 'sent', l.sent_at IS NOT NULL,
            'handed', l.handed_at IS NOT NULL, 'refused', l.refused_at IS NOT NULL,
            'attempts', l.attempts, 'last_error', l.last_error)
    FROM mine m JOIN mails l ON l.order_id = m.id
        LEFT JOIN refunds r ON l.kind = 'refund:' || r.id AND r.order_id = l.order_id
        LEFT JOIN order_history h ON h.order_id = l.order_id AND h.created_at = l.created_at
            AND h.to_status = 'completed'
    UNION ALL
    SELECT d.created_at, 6, 'download', d.id::text, d.order_id, d.trace_id,
        jsonb_build_object('product_id', d.product_id, 'title', i.title)
    FROM mine m JOIN downloads d ON d.order_id = m.id
        JOIN order_items i ON i.order_id = d.order_id AND i.product_id = d.product_id"""
_TIMELINE = timeline.query(_ROWS)


async def read_timeline(connection: AsyncConnection, wanted: Wanted) -> Sequence[Entry]:
    return await timeline.read(connection, _TIMELINE, wanted)


def _amount(fields: Fields) -> str:
    if points := fields.get("points"):
        return f"{points} points"
    return f"{fields['cents']} {fields['currency']} (minor units)"


def _order(fields: Fields) -> str:
    if "from" not in fields:
        return f"order of {_amount(fields)} placed, by {fields['payment_method']}: {fields['to']}"
    if fields["from"] == fields["to"]:
        return f"{fields['reason']} by {fields['actor']}"
    return f"{fields['from']} -> {fields['to']} by {fields['actor']}: {fields['reason']}"


def _refund(fields: Fields) -> str:
    said = f"refund of {_amount(fields)} {fields['status']}: {fields['reason']}"
    return f"{said} ({fields['failure_reason']})" if "failure_reason" in fields else said


def _saga(fields: Fields) -> str:
    said = f"{fields['saga']} {fields['status']}"
    said += f" at {fields['step']}" if "step" in fields and fields["status"] != "done" else ""
    return (
        f"{said} after {fields['attempts']} tries: {fields['last_error']}" if "last_error" in fields else said
    )


def _mail(fields: Fields) -> str:
    if fields["sent"] == "true":
        return f"mail {fields['mail']} sent"
    if fields["refused"] == "true":
        return f"mail {fields['mail']} refused by the mail server: {fields['last_error']}"
    if fields["handed"] == "true":
        return f"mail {fields['mail']} given to the mail server, whose answer is not known"
    return f"mail {fields['mail']} waits to be sent"


SUMMARIES: Mapping[str, Callable[[Fields], str]] = {
    "order": _order,
    "refund": _refund,
    "stock": lambda fields: f"{fields['pieces']} x {fields['title']}",
    "saga": _saga,
    "mail": _mail,
    "download": lambda fields: f"{fields['title']} downloaded",
}
