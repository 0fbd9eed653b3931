"""I5, I9 and A2: orders, stock and what went back, in the orders database."""

from services.chassis.invariants import Invariant

INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "I5",
        "an order's total is not the sum of its lines",
        """
        SELECT o.id AS order, o.payment_method, o.total_cents, o.total_points,
            coalesce(sum(i.price_cents * i.quantity), 0) AS lines_cents,
            coalesce(sum(i.price_points * i.quantity), 0) AS lines_points
        FROM orders o LEFT JOIN order_items i ON i.order_id = o.id
        GROUP BY o.id
        HAVING CASE o.payment_method
            WHEN 'points' THEN o.total_points <> coalesce(sum(i.price_points * i.quantity), 0)
            ELSE o.total_cents <> coalesce(sum(i.price_cents * i.quantity), 0) END""",
    ),
    Invariant(
        "I5",
        "an order's status is not where its history ends",
        """
        SELECT o.id AS order, o.status, h.to_status AS history
        FROM orders o LEFT JOIN LATERAL
            (SELECT to_status FROM order_history WHERE order_id = o.id ORDER BY id DESC LIMIT 1) h ON true
        WHERE h.to_status IS DISTINCT FROM o.status""",
    ),
    Invariant(
        "I9",
        "more is reserved than there is in stock",
        """
        SELECT product_id AS product, stock_quantity, reserved_quantity FROM product_inventory
        WHERE reserved_quantity < 0 OR reserved_quantity > stock_quantity""",
    ),
    Invariant(
        "I9",
        "the stock is not the sum of its movements",
        """
        SELECT i.product_id AS product, i.stock_quantity, coalesce(sum(m.delta), 0) AS moved
        FROM product_inventory i LEFT JOIN stock_movements m ON m.product_id = i.product_id
        WHERE i.stock_quantity IS NOT NULL
        GROUP BY i.product_id HAVING i.stock_quantity <> coalesce(sum(m.delta), 0)""",
    ),
    Invariant(
        "I9",
        "reserved_quantity is not the sum of the held reservations",
        """
        SELECT i.product_id AS product, i.reserved_quantity, coalesce(sum(r.quantity), 0) AS held
        FROM product_inventory i
            LEFT JOIN stock_reservations r ON r.product_id = i.product_id AND r.status = 'held'
        GROUP BY i.product_id HAVING i.reserved_quantity <> coalesce(sum(r.quantity), 0)""",
    ),
    Invariant(
        "I9",
        "an order that has ended still holds stock, or a completed one never took it",
        """
        SELECT r.order_id AS order, r.product_id, r.status AS reservation, o.status
        FROM stock_reservations r JOIN orders o ON o.id = r.order_id
        WHERE CASE r.status
            WHEN 'held' THEN o.status NOT IN ('pending', 'processing')
            WHEN 'taken' THEN o.status NOT IN ('completed', 'refunded')
            -- Paid too late for its goods: processing, then refunded.
            ELSE o.status NOT IN ('failed', 'cancelled', 'processing', 'refunded') END""",
    ),
    Invariant(
        "I9",
        "stock is reserved past its time and nobody asks",
        """
        SELECT r.order_id AS order, r.product_id, r.quantity, r.due_at FROM stock_reservations r
        WHERE r.status = 'held' AND r.due_at < now() AND NOT EXISTS (
            SELECT FROM saga_runs s
            WHERE s.order_id = r.order_id AND s.status IN ('running', 'undoing', 'stuck'))""",
    ),
    Invariant(
        "I9",
        "what was sold is not what was reserved and taken",
        """
        SELECT coalesce(r.order_id, m.order_id) AS order, coalesce(r.product_id, m.product_id) AS product,
            r.quantity AS taken, m.delta AS sold
        FROM (SELECT * FROM stock_reservations WHERE status = 'taken') r
            FULL JOIN (SELECT * FROM stock_movements WHERE reason = 'sold') m
            ON m.order_id = r.order_id AND m.product_id = r.product_id
        WHERE m.delta IS DISTINCT FROM -r.quantity""",
    ),
    Invariant(
        "I9",
        "stock came back that no refund returned",
        """
        SELECT m.id AS movement, m.product_id, m.delta, m.refund_id, t.quantity, f.return_stock
        FROM stock_movements m LEFT JOIN refunds f ON f.id = m.refund_id AND f.order_id = m.order_id
            LEFT JOIN refund_items t ON t.refund_id = m.refund_id AND t.product_id = m.product_id
        WHERE m.reason = 'returned'
            AND (f.return_stock IS NOT TRUE OR t.quantity IS DISTINCT FROM m.delta
                OR f.status NOT IN ('succeeded', 'failed'))""",
    ),
    Invariant(
        "I5",
        "what a line says was refunded is not the sum of its refunds",
        """
        SELECT i.order_id AS order, i.product_id, i.refunded_quantity, i.refunded_cents, i.refunded_points
        FROM order_items i LEFT JOIN (
            SELECT t.order_id, t.product_id, sum(t.quantity) AS quantity, sum(t.cents) AS cents,
                sum(t.points) AS points
            FROM refund_items t JOIN refunds r ON r.id = t.refund_id WHERE r.status <> 'failed'
            GROUP BY t.order_id, t.product_id) s USING (order_id, product_id)
        WHERE (i.refunded_quantity, i.refunded_cents, i.refunded_points)
            <> (coalesce(s.quantity, 0), coalesce(s.cents, 0), coalesce(s.points, 0))""",
    ),
    Invariant(
        "I5",
        "a refund is not the sum of its lines",
        """
        SELECT r.id AS refund, r.amount_cents, r.amount_points
        FROM refunds r LEFT JOIN refund_items t ON t.refund_id = r.id
        GROUP BY r.id HAVING (r.amount_cents, r.amount_points)
            <> (coalesce(sum(t.cents), 0), coalesce(sum(t.points), 0))""",
    ),
    Invariant(
        "I5",
        "the points that went back of an order are not the sum of its refunds",
        """
        SELECT o.id AS order, o.refunded_points, coalesce(sum(r.amount_points), 0) AS refunds
        FROM orders o LEFT JOIN refunds r ON r.order_id = o.id AND r.status = 'succeeded'
        GROUP BY o.id HAVING o.refunded_points <> coalesce(sum(r.amount_points), 0)""",
    ),
    Invariant(
        "I5",
        "an order is refunded although something is left of it, or the other way round",
        """
        SELECT id AS order, status, refunded_cents, refunded_points, dispute, lost_cents, settled_cents
        FROM orders
        WHERE status IN ('completed', 'refunded') AND (status = 'refunded') <> CASE payment_method
            WHEN 'points' THEN refunded_points = total_points
            ELSE coalesce(paid_cents, total_cents) > 0 AND refunded_cents + settled_cents
                + coalesce(lost_cents, CASE dispute WHEN 'lost' THEN total_cents ELSE 0 END)
                >= coalesce(paid_cents, total_cents) END""",
    ),
    Invariant(
        "I5",
        "what an order owes is not what was promised and never came",
        """
        SELECT o.id AS order, o.owed_cents, o.promised_cents, i.requested, o.refunded_cents, o.lost_cents
        FROM orders o CROSS JOIN LATERAL (
            SELECT coalesce(sum(refunded_cents), 0) AS requested FROM order_items WHERE order_id = o.id) i
        WHERE o.promised_cents > 0 AND o.owed_cents <> greatest(0, least(
            o.promised_cents - greatest(i.requested, o.refunded_cents) - o.settled_cents
                - o.written_off_cents,
            coalesce(o.paid_cents, o.total_cents) - greatest(i.requested, o.refunded_cents)
                - coalesce(o.lost_cents, CASE o.dispute WHEN 'lost' THEN o.total_cents ELSE 0 END)
                - o.settled_cents))""",
    ),
    Invariant(
        "I5",
        "what was settled or written off of an order is not the sum of the operators' decisions",
        """
        SELECT o.id AS order, o.settled_cents, o.written_off_cents, d.settled, d.written_off
        FROM orders o LEFT JOIN (
            SELECT order_id,
                coalesce(sum(amount_cents) FILTER (WHERE decision = 'settled_outside'), 0) AS settled,
                coalesce(sum(amount_cents) FILTER (WHERE decision = 'written_off'), 0) AS written_off
            FROM owed_decisions GROUP BY order_id) d ON d.order_id = o.id
        WHERE (o.settled_cents, o.written_off_cents)
            <> (coalesce(d.settled, 0), coalesce(d.written_off, 0))""",
    ),
    Invariant(
        "I9",
        "pieces that a refund returns are not on their shelf, or were put there twice",
        """
        SELECT r.id AS refund, t.product_id, t.quantity, m.delta FROM refunds r
            JOIN refund_items t ON t.refund_id = r.id
            JOIN product_inventory i ON i.product_id = t.product_id AND i.stock_quantity IS NOT NULL
            LEFT JOIN stock_movements m ON m.refund_id = r.id AND m.product_id = t.product_id
        WHERE r.return_stock AND r.status = 'succeeded' AND m.delta IS DISTINCT FROM t.quantity""",
    ),
    Invariant(
        "I5",
        "a download is open that order or line no longer give, or shut that they do",
        """
        SELECT g.id AS download, g.status, o.status AS order, o.dispute, i.refunded_quantity
        FROM download_grants g JOIN orders o ON o.id = g.order_id
            JOIN order_items i ON i.order_id = g.order_id AND i.product_id = g.product_id
        WHERE g.status <> CASE
            WHEN o.status = 'refunded' OR i.refunded_quantity = i.quantity THEN 'revoked'
            WHEN o.dispute = 'open' THEN 'suspended' ELSE 'active' END""",
    ),
    Invariant(
        "A2",
        "a movement of stock is not the audited one",
        """
        SELECT a.details->>'movement_id' AS movement, a.subject, a.action, a.details->>'delta' AS audited,
            m.delta, m.reason, m.actor
        FROM audit_log a LEFT JOIN stock_movements m ON m.id::text = a.details->>'movement_id'
        WHERE a.action IN ('stock.received', 'stock.corrected')
            AND (m.product_id::text, m.delta::text, 'stock.' || m.reason, m.actor)
                IS DISTINCT FROM (a.subject, a.details->>'delta', a.action, a.actor)""",
    ),
)
