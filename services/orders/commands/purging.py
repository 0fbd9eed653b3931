"""Orders that bought nothing are forgotten after 30 days, with their lines and history: out of stock, or
without enough points. Nothing was paid, held or promised, and the database lets go of no other history."""

from uuid import UUID

from services.chassis.db import FixedSql
from services.orders.rules import UNBOUGHT

BATCH = 500

_OLD = f"""
    SELECT id FROM orders WHERE status = 'failed' AND failure_reason IN {UNBOUGHT!r}
        AND created_at < now() - interval '30 days'
    ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED"""
# What hangs on an order first. A mail or a refund it never had: then it stays, by their foreign keys.
_OF_THEM = ("order_history", "order_items", "stock_reservations", "saga_runs")


async def purge_unbought(connection: FixedSql) -> int:
    """One batch, in the transaction of the caller; how many orders are gone."""
    rows = await (await connection.execute(_OLD.encode(), (BATCH,))).fetchall()
    old: list[UUID] = [row[0] for row in rows]
    if old:
        for table in _OF_THEM:
            await connection.execute(f"DELETE FROM {table} WHERE order_id = ANY(%s)".encode(), (old,))
        await connection.execute("DELETE FROM orders WHERE id = ANY(%s)", (old,))
    return len(old)
