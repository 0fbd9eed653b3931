"""I5 (totals) and I9: orders and stock of the orders database."""

from deploy.local.audit.snapshot import Check, SqlCheck

CHECKS: tuple[Check, ...] = (
    SqlCheck(
        ("I5",),
        "an order's total is not the sum of its lines",
        "orders",
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
    SqlCheck(
        ("I5",),
        "an order's status is not where its history ends",
        "orders",
        """
        SELECT o.id AS order, o.status, h.to_status AS history
        FROM orders o LEFT JOIN LATERAL
            (SELECT to_status FROM order_history WHERE order_id = o.id ORDER BY id DESC LIMIT 1) h ON true
        WHERE h.to_status IS DISTINCT FROM o.status""",
    ),
    SqlCheck(
        ("I9",),
        "more is reserved than there is in stock",
        "orders",
        """
        SELECT product_id AS product, stock_quantity, reserved_quantity FROM product_inventory
        WHERE reserved_quantity < 0 OR reserved_quantity > stock_quantity""",
    ),
    SqlCheck(
        ("I9",),
        "the stock is not the sum of its movements",
        "orders",
        """
        SELECT i.product_id AS product, i.stock_quantity, coalesce(sum(m.delta), 0) AS moved
        FROM product_inventory i LEFT JOIN stock_movements m ON m.product_id = i.product_id
        WHERE i.stock_quantity IS NOT NULL
        GROUP BY i.product_id HAVING i.stock_quantity <> coalesce(sum(m.delta), 0)""",
    ),
    SqlCheck(
        ("I9",),
        "reserved_quantity is not the sum of the held reservations",
        "orders",
        """
        SELECT i.product_id AS product, i.reserved_quantity, coalesce(sum(r.quantity), 0) AS held
        FROM product_inventory i
            LEFT JOIN stock_reservations r ON r.product_id = i.product_id AND r.status = 'held'
        GROUP BY i.product_id HAVING i.reserved_quantity <> coalesce(sum(r.quantity), 0)""",
    ),
    SqlCheck(
        ("I9",),
        "an order that has ended still holds stock, or a completed one never took it",
        "orders",
        """
        SELECT r.order_id AS order, r.product_id, r.status AS reservation, o.status
        FROM stock_reservations r JOIN orders o ON o.id = r.order_id
        WHERE CASE r.status
            WHEN 'held' THEN o.status NOT IN ('pending', 'processing')
            WHEN 'taken' THEN o.status NOT IN ('completed', 'refunded')
            -- Paid too late for its goods: processing, then refunded.
            ELSE o.status NOT IN ('failed', 'cancelled', 'processing', 'refunded') END""",
    ),
    SqlCheck(
        ("I9",),
        "stock is reserved past its time and nobody asks",
        "orders",
        """
        SELECT r.order_id AS order, r.product_id, r.quantity, r.due_at FROM stock_reservations r
        WHERE r.status = 'held' AND r.due_at < now() AND NOT EXISTS (
            SELECT FROM saga_runs s
            WHERE s.order_id = r.order_id AND s.status IN ('running', 'undoing', 'stuck'))""",
    ),
    SqlCheck(
        ("I9",),
        "what was sold is not what was reserved and taken",
        "orders",
        """
        SELECT coalesce(r.order_id, m.order_id) AS order, coalesce(r.product_id, m.product_id) AS product,
            r.quantity AS taken, m.delta AS sold
        FROM (SELECT * FROM stock_reservations WHERE status = 'taken') r
            FULL JOIN (SELECT * FROM stock_movements WHERE reason = 'sold') m
            ON m.order_id = r.order_id AND m.product_id = r.product_id
        WHERE m.delta IS DISTINCT FROM -r.quantity""",
    ),
    SqlCheck(
        ("I9",),
        "stock came back that no refund returned",
        "orders",
        """
        SELECT m.id AS movement, m.product_id, m.delta, m.refund_id, t.quantity, f.return_stock
        FROM stock_movements m LEFT JOIN refunds f ON f.id = m.refund_id AND f.order_id = m.order_id
            LEFT JOIN refund_items t ON t.refund_id = m.refund_id AND t.product_id = m.product_id
        WHERE m.reason = 'returned'
            AND (f.return_stock IS NOT TRUE OR t.quantity IS DISTINCT FROM m.delta
                OR f.status NOT IN ('succeeded', 'failed'))""",
    ),
)
