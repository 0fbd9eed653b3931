"""The invoices that were there before 0008, and what finds payments and parked money by invoice.

Without a transaction around it, so that nobody waits: broken off, it is done again from its beginning.
"""

from alembic import op

revision = "0008a"
down_revision = "0008"

_OF_0004 = (("payments", "lost_not_negative"), ("disputes", "lost_within_share"))
_BACKFILL = """
    UPDATE invoices SET points = payments.points, billed_cents = invoices.amount_paid_cents
    FROM payments WHERE payments.id = invoices.payment_id AND payments.points > 0
"""
_INDEXES = (
    ("idx_payments_invoice", "INDEX", "payments (invoice_id) WHERE invoice_id IS NOT NULL"),
    ("idx_quarantine_invoice", "UNIQUE INDEX", "quarantine (invoice_id) WHERE invoice_id IS NOT NULL"),
)
_CHECKS = (
    ("invoices", "amount_not_negative"),
    ("invoices", "points_positive"),
    ("invoices", "billed_not_negative"),
    ("invoices", "version_not_negative"),
    ("quarantine", "known_status"),
    ("quarantine", "resolved_has_a_time"),
    ("quarantine", "known_reason"),
    ("quarantine", "settled_within_amount"),
    ("quarantine", "settled_outside_has_a_reference"),
    ("quarantine", "settled_outside_has_an_amount"),
    ("quarantine", "written_off_has_an_amount"),
    ("quarantine", "what_is_settled_is_not_due"),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Not within the locks of what is above: whoever writes an invoice meanwhile waits for no other.
        op.execute(_BACKFILL)
        for table, name in (*_CHECKS, *_OF_0004):
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
        for name, kind, of in _INDEXES:
            # What an attempt that was broken off has left.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {kind} CONCURRENTLY {name} ON {of}")
