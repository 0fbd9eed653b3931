"""I4 and I7: what was paid and what came back of it, in the payments database."""

from services.chassis.invariants import Invariant

INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "I4",
        "a paid checkout has not exactly its payment",
        """
        SELECT c.id AS checkout, c.payment_intent_id, p.standing, p.checkout_id, p.user_id, p.points
        FROM checkouts c LEFT JOIN payments p ON p.payment_intent_id = c.payment_intent_id
        WHERE c.status = 'paid' AND c.plan_id IS NULL
            AND (p.standing, p.checkout_id, p.user_id, p.points)
                IS DISTINCT FROM ('fulfilled', c.id, c.user_id, c.points)""",
    ),
    Invariant(
        "I4",
        "a paid invoice has not exactly its payment",
        """
        SELECT i.id AS invoice, i.amount_paid_cents, p.standing, p.invoice_id, p.user_id, p.amount_cents
        FROM invoices i LEFT JOIN payments p ON p.id = i.payment_id
        WHERE (p.standing, p.invoice_id, p.user_id, p.amount_cents)
            IS DISTINCT FROM ('fulfilled', i.id, i.user_id, i.amount_paid_cents)""",
    ),
    Invariant(
        "I4",
        "a payment was fulfilled as nothing that was paid",
        """
        SELECT p.payment_intent_id AS payment, p.checkout_id, p.invoice_id, p.points
        FROM payments p
            LEFT JOIN checkouts c ON c.payment_intent_id = p.payment_intent_id AND c.status = 'paid'
            LEFT JOIN invoices i ON i.payment_id = p.id
            LEFT JOIN quarantine q ON q.payment_id = p.id AND q.status = 'fulfilled'
        WHERE p.standing = 'fulfilled' AND num_nonnulls(c.id, i.id, q.id) = 0""",
    ),
    Invariant(
        "I4",
        "a payment and its place in the quarantine do not match",
        """
        SELECT coalesce(p.payment_intent_id, q.payment_intent_id) AS payment, p.standing, q.status,
            p.amount_cents, p.refunded_cents
        FROM payments p
            FULL JOIN (SELECT * FROM quarantine WHERE payment_id IS NOT NULL) q ON q.payment_id = p.id
        WHERE p.id IS NULL
            OR (p.standing = 'quarantined' AND coalesce(q.status, 'fulfilled') = 'fulfilled')
            OR (p.standing = 'fulfilled' AND q.status <> 'fulfilled')
            OR (q.status = 'refunded' AND p.refunded_cents + p.lost_cents < p.amount_cents)""",
    ),
    Invariant(
        "I4",
        "what was refunded or asked back is not the sum of the refunds",
        """
        SELECT p.payment_intent_id AS payment, p.refunded_cents, coalesce(r.back, 0) AS listed,
            p.requested_cents, coalesce(r.asked, 0) AS asked
        FROM payments p LEFT JOIN (
            SELECT payment_id,
                sum(amount_cents) FILTER (WHERE status IN ('pending', 'requires_action', 'succeeded'))
                    AS back,
                sum(amount_cents) FILTER (WHERE is_ours AND status NOT IN ('failed', 'canceled')) AS asked
            FROM refunds GROUP BY payment_id) r ON r.payment_id = p.id
        WHERE (p.refunded_cents, p.requested_cents)
            IS DISTINCT FROM (coalesce(r.back, 0), coalesce(r.asked, 0))""",
    ),
    Invariant(
        "I4",
        "a payment is not disputed as its disputes are",
        """
        SELECT p.payment_intent_id AS payment, p.dispute, p.disputed_cents, p.lost_cents, d.gravest,
            d.held, d.lost
        FROM payments p LEFT JOIN (
            SELECT payment_id,
                coalesce(sum(coalesce(share_cents, amount_cents))
                    FILTER (WHERE status IN ('needs_response', 'under_review')), 0) AS held,
                coalesce(sum(coalesce(lost_cents, amount_cents)) FILTER (WHERE status = 'lost'), 0) AS lost,
                CASE WHEN bool_or(status IN ('needs_response', 'under_review')) THEN 'open'
                    WHEN bool_or(status = 'lost') THEN 'lost'
                    WHEN bool_or(status = 'won') THEN 'won' END AS gravest
            FROM disputes GROUP BY payment_id) d ON d.payment_id = p.id
        WHERE (p.dispute, p.disputed_cents, p.lost_cents) IS DISTINCT FROM
            (coalesce(d.gravest, 'none'), coalesce(d.held + d.lost, 0), coalesce(d.lost, 0))""",
    ),
    Invariant(
        "I7",
        "a key stands for no checkout of its user",
        """
        SELECT k.key, k.user_id, k.route, k.resource_id AS checkout, c.user_id AS buyer
        FROM idempotency_keys k LEFT JOIN checkouts c ON c.id = k.resource_id
        WHERE k.resource_id IS NOT NULL AND c.user_id IS DISTINCT FROM k.user_id""",
    ),
    Invariant(
        "I7",
        "two keys stand for one checkout",
        """
        SELECT resource_id AS checkout, count(*) AS keys FROM idempotency_keys
        WHERE resource_id IS NOT NULL GROUP BY resource_id HAVING count(*) > 1""",
    ),
)
