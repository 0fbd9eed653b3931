"""What happened here to a user or an order: holds, the ledger, and what paid sources are worth."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import timeline
from services.chassis.timeline import Entry, Fields, Wanted

_ROWS = """
    WITH held AS MATERIALIZED (
        SELECT * FROM holds WHERE order_id = :order_id OR user_id = :user_id
        ORDER BY created_at DESC LIMIT :limit),
    entries AS MATERIALIZED (
        SELECT * FROM points_transactions WHERE user_id = :user_id
        UNION ALL
        SELECT t.* FROM held h JOIN points_transactions t ON t.user_id = h.user_id AND t.order_id = h.order_id
        WHERE h.order_id = :order_id
        ORDER BY created_at DESC LIMIT :limit)
    SELECT e.at, 1 AS rank, 'hold.' || e.status AS kind, h.id::text AS id, h.order_id, h.trace_id,
        jsonb_build_object('status', e.status, 'points', h.points) AS fields
    FROM held h CROSS JOIN LATERAL (VALUES ('held', h.created_at),
        (nullif(h.status, 'held'), h.updated_at)) AS e (status, at)
    WHERE e.status = 'released' OR e.status = 'held' AND h.points > 0
    UNION ALL
    SELECT created_at, 2, 'ledger.' || type, id::text, order_id, trace_id,
        jsonb_build_object('type', type, 'points', amount, 'balance_after', balance_after, 'seq', seq,
            'description', description, 'payment_intent_id', stripe_payment_intent_id)
    FROM entries
    UNION ALL
    SELECT updated_at, 3, 'grant', source_id, NULL, trace_id,
        jsonb_build_object('source_id', source_id, 'points', net_points, 'version', version)
    FROM grants WHERE user_id = :user_id"""
_TIMELINE = timeline.query(_ROWS)


async def read_timeline(connection: AsyncConnection, wanted: Wanted) -> Sequence[Entry]:
    return await timeline.read(connection, _TIMELINE, wanted)


def _ledger(fields: Fields) -> str:
    points = int(fields["points"])
    return f"{points:+} points, {fields['balance_after']} left ({fields['type']}: {fields['description']})"


SUMMARIES: Mapping[str, Callable[[Fields], str]] = {
    "hold": lambda fields: f"{fields['points']} points {fields['status']}",
    "ledger": _ledger,
    "grant": lambda fields: f"paid source {fields['source_id']} gives {fields['points']} points now",
}
