"""I4 and I7: what was paid and what came back of it, in the payments database."""

from services.chassis.invariants import Invariant

INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "I4",
        "a paid checkout has not exactly its payment",
        """
        SELECT c.id AS checkout, c.payment_intent_id, p.standing, p.checkout_id, p.user_id, p.points,
            p.order_id, c.discount_cents, p.amount_cents
        FROM checkouts c LEFT JOIN payments p ON p.payment_intent_id = c.payment_intent_id
        -- What promotion codes paid for in full has none.
        WHERE c.status = 'paid' AND c.plan_id IS NULL AND c.discount_cents < c.amount_cents
            AND ((p.standing, p.checkout_id, p.user_id, p.points, p.order_id)
                IS DISTINCT FROM ('fulfilled', c.id, c.user_id, c.points, c.order_id)
                -- An operator may have let another amount count.
                OR c.discount_cents > 0 AND p.amount_cents <> c.amount_cents - c.discount_cents)""",
    ),
    Invariant(
        "I4",
        "a paid invoice has not exactly its payments",
        """
        SELECT i.id AS invoice, i.amount_paid_cents, i.billed_cents, p.payments, p.cents, q.status
        FROM invoices i
            LEFT JOIN quarantine q ON q.invoice_id = i.id
            CROSS JOIN LATERAL (
                SELECT count(*) AS payments, coalesce(sum(amount_cents), 0) AS cents,
                    bool_or((standing, user_id) IS DISTINCT FROM ('fulfilled', i.user_id)) AS differ,
                    bool_or(id = i.payment_id) AS has_first
                FROM payments WHERE invoice_id = i.id) p
        WHERE p.differ OR NOT coalesce(p.has_first, i.payment_id IS NULL)
            OR p.cents > coalesce(i.billed_cents, i.amount_paid_cents)
            -- What an operator fulfilled may have been paid elsewhere.
            OR (q.id IS NULL AND p.cents <> i.amount_paid_cents)
            OR q.status <> 'fulfilled'""",
    ),
    Invariant(
        "I4",
        "a payment was fulfilled as nothing that was paid",
        """
        SELECT p.payment_intent_id AS payment, p.checkout_id, p.invoice_id, p.points
        FROM payments p
            LEFT JOIN checkouts c ON c.payment_intent_id = p.payment_intent_id AND c.status = 'paid'
            LEFT JOIN invoices i ON i.id = p.invoice_id
            LEFT JOIN quarantine q ON q.payment_id = p.id AND q.status = 'fulfilled'
        WHERE p.standing = 'fulfilled' AND num_nonnulls(c.id, i.id, q.id) = 0""",
    ),
    Invariant(
        "I4",
        "a payment and its place in the quarantine do not match",
        """
        SELECT p.payment_intent_id AS payment, p.standing, coalesce(q.status, s.status) AS status,
            p.amount_cents, p.refunded_cents
        FROM payments p
            LEFT JOIN quarantine q ON q.payment_id = p.id
            -- Payments of one invoice stand there together.
            LEFT JOIN quarantine s ON s.invoice_id = p.invoice_id
        WHERE (p.standing = 'quarantined' AND coalesce(q.status, s.status, 'fulfilled') = 'fulfilled')
            OR (p.standing = 'fulfilled' AND coalesce(q.status, s.status) <> 'fulfilled')
        UNION ALL
        SELECT q.payment_intent_id, NULL, q.status, q.amount_cents, NULL
        FROM quarantine q LEFT JOIN payments p ON p.id = q.payment_id
        WHERE q.payment_id IS NOT NULL AND p.id IS NULL""",
    ),
    Invariant(
        "I4",
        "what was settled in the quarantine is still due",
        """
        SELECT q.id AS quarantine, q.status, q.amount_cents, q.settled_outside_cents, q.written_off_cents,
            coalesce(p.gone, s.gone, 0) AS gone
        FROM quarantine q
            LEFT JOIN LATERAL (
                SELECT least(amount_cents, refunded_cents + lost_cents) AS gone
                FROM payments WHERE id = q.payment_id AND q.invoice_id IS NULL) p ON true
            LEFT JOIN LATERAL (
                SELECT sum(least(amount_cents, refunded_cents + lost_cents)) AS gone
                FROM payments WHERE invoice_id = q.invoice_id) s ON true
        WHERE q.status IN ('refunded', 'settled_outside', 'written_off')
            AND coalesce(p.gone, s.gone, 0) + q.settled_outside_cents + q.written_off_cents
                < coalesce(q.amount_cents, 0)""",
    ),
    Invariant(
        "I4",
        "what was settled outside is not the sum of its references",
        """
        SELECT q.id AS quarantine, q.settled_outside_cents, q.settlement_reference, s.settled
        FROM quarantine q CROSS JOIN LATERAL (
            SELECT coalesce(sum(value::bigint), 0) AS settled FROM jsonb_each_text(q.settlements)) s
        WHERE s.settled > q.settled_outside_cents
            OR (q.settlements ? q.settlement_reference AND s.settled <> q.settled_outside_cents)""",
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
                    FILTER (WHERE status ~ '^(appeal_)?(needs_response|under_review)$'), 0) AS held,
                coalesce(sum(coalesce(lost_cents, amount_cents)) FILTER (WHERE status = 'lost'), 0) AS lost,
                CASE WHEN bool_or(status ~ '^(appeal_)?(needs_response|under_review)$') THEN 'open'
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
        -- The open page of a plan is the answer to every request for one.
        SELECT k.resource_id AS checkout, count(*) AS keys
        FROM idempotency_keys k LEFT JOIN checkouts c ON c.id = k.resource_id
        WHERE k.resource_id IS NOT NULL AND c.plan_id IS NULL
        GROUP BY k.resource_id HAVING count(*) > 1""",
    ),
)
