"""I1, I2, I3 and A2 as far as the wallet database alone tells; whole chains are read by `aishop audit`."""

from services.chassis.invariants import Invariant

INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "I1",
        "the balance is not the sum of the ledger",
        """
        SELECT p.id AS profile, p.points, p.points_debt, coalesce(t.posted, 0) AS posted
        FROM profiles p LEFT JOIN
            (SELECT user_id, sum(amount) AS posted FROM points_transactions GROUP BY user_id) t
            ON t.user_id = p.id
        WHERE p.points - p.points_debt <> coalesce(t.posted, 0)""",
    ),
    Invariant(
        "I1",
        "the net of a grant is not what the ledger posted for it",
        """
        SELECT g.source_id, g.net_points, coalesce(sum(t.amount), 0) AS posted
        FROM grants g LEFT JOIN points_transactions t
            ON t.type IN ('purchase', 'reversal') AND t.metadata->>'source_id' = g.source_id
        GROUP BY g.source_id HAVING g.net_points <> coalesce(sum(t.amount), 0)""",
    ),
    Invariant(
        "I1",
        "points were posted for a grant that there is not",
        """
        SELECT t.id AS transaction, t.user_id, t.type, t.amount, t.metadata->>'source_id' AS source_id
        FROM points_transactions t LEFT JOIN grants g
            ON g.source_id = t.metadata->>'source_id' AND g.user_id = t.user_id
        WHERE t.type IN ('purchase', 'reversal') AND g.source_id IS NULL""",
    ),
    Invariant(
        "I2",
        "a balance is out of bounds",
        """
        SELECT id AS profile, points, points_held, points_debt FROM profiles
        WHERE points < 0 OR points_held NOT BETWEEN 0 AND points OR points_debt < 0
            OR (points_debt > 0 AND points <> points_held)""",
    ),
    Invariant(
        "I2",
        "points_held is not the sum of the open holds",
        """
        SELECT p.id AS profile, p.points_held, coalesce(h.points, 0) AS open_holds
        FROM profiles p LEFT JOIN
            (SELECT user_id, sum(points) AS points FROM holds WHERE status = 'held' GROUP BY user_id) h
            ON h.user_id = p.id
        WHERE p.points_held <> coalesce(h.points, 0)""",
    ),
    Invariant(
        "I3",
        "a captured hold has not exactly one spend of its amount",
        """
        SELECT h.order_id AS order, h.points, count(t.id) AS spends, coalesce(sum(t.amount), 0) AS spent
        FROM holds h LEFT JOIN points_transactions t
            ON t.type = 'spend' AND t.order_id = h.order_id AND t.user_id = h.user_id
        WHERE h.status = 'captured'
        GROUP BY h.id HAVING count(t.id) <> 1 OR sum(t.amount) <> -h.points""",
    ),
    Invariant(
        "I3",
        "points were spent without a captured hold",
        """
        SELECT t.order_id AS order, t.user_id, t.amount, h.status
        FROM points_transactions t LEFT JOIN holds h ON h.order_id = t.order_id AND h.user_id = t.user_id
        WHERE t.type = 'spend' AND h.status IS DISTINCT FROM 'captured'""",
    ),
    Invariant(
        "A2",
        "an adjustment of points and its audit entry do not match",
        """
        SELECT coalesce(t.id::text, a.details->>'transaction_id') AS transaction,
            t.user_id, t.amount, a.seq AS audit_entry, a.actor, a.details->>'points' AS audited_points
        FROM (SELECT * FROM points_transactions WHERE type = 'adjustment') t
            FULL JOIN (SELECT * FROM audit_log WHERE action = 'points.adjusted') a
            ON a.details->>'transaction_id' = t.id::text AND a.details->>'points' = t.amount::text
                AND a.subject = t.user_id::text AND a.reason = t.description
                AND a.actor = t.metadata->>'actor'
        WHERE t.id IS NULL OR a.seq IS NULL""",
    ),
)
