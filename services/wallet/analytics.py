"""What operators count of points: what moved in a range, and how many are out now."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.analytics import Range, statement


@dataclass(frozen=True, slots=True)
class Counted:
    """Points by kind of posting in the range, then the sums of all balances as they are now."""

    sold: int
    spent: int
    refunded: int
    # Less what came back by won disputes.
    reversed: int
    # Signed.
    adjusted: int
    # What can still be spent, held points included.
    outstanding: int
    held: int
    debt: int


# The sums of now are those of all profiles, however short the range.
_COUNT = statement("""
    WITH moved AS (
        SELECT type, sum(amount) AS points FROM points_transactions
        WHERE id >= :first_id AND id < :end_id AND created_at >= :since AND created_at < :until
        GROUP BY type),
    by_type AS (
        SELECT coalesce(sum(points) FILTER (WHERE type = 'purchase'), 0)::bigint AS sold,
            coalesce(-sum(points) FILTER (WHERE type = 'spend'), 0)::bigint AS spent,
            coalesce(sum(points) FILTER (WHERE type = 'refund'), 0)::bigint AS refunded,
            coalesce(-sum(points) FILTER (WHERE type = 'reversal'), 0)::bigint AS reversed,
            coalesce(sum(points) FILTER (WHERE type = 'adjustment'), 0)::bigint AS adjusted
        FROM moved),
    balances AS (
        SELECT coalesce(sum(points), 0)::bigint AS outstanding,
            coalesce(sum(points_held), 0)::bigint AS held, coalesce(sum(points_debt), 0)::bigint AS debt
        FROM profiles)
    SELECT * FROM by_type CROSS JOIN balances""")


async def count_points(connection: AsyncConnection, within: Range) -> Counted:
    return Counted(**(await connection.execute(_COUNT, within.parameters())).one()._mapping)
