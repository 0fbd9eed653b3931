"""What an operator decided about a dead letter. The columns are nullable: a process of the release before only adds
letters, about which nothing is decided."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE dead_letters ADD COLUMN decision text, ADD COLUMN decided_at timestamptz")
    op.execute(
        """
        -- The columns are new, and letters are few.
        -- squawk-ignore constraint-missing-not-valid
        ALTER TABLE dead_letters ADD CONSTRAINT dead_letters_decision CHECK (
            coalesce(decision, 'dropped') IN ('redelivered', 'dropped')
            AND (decision IS NULL) = (decided_at IS NULL))"""
    )
    op.execute("GRANT UPDATE (decision, decided_at) ON dead_letters TO payments_worker")
