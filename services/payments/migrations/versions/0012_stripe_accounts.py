"""The account of Stripe stands with every object that was made there; a checkout may end without anybody knowing
whether it was paid.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

_MADE_AT_STRIPE = ("checkouts", "payments", "refunds", "subscriptions")
_ACCOUNTS = """
    CREATE TABLE stripe_accounts (
        id uuid DEFAULT uuidv7() PRIMARY KEY,
        account_id text NOT NULL,
        livemode boolean NOT NULL,
        is_current boolean NOT NULL,
        key_hash bytea,
        adopted_at timestamptz DEFAULT now() NOT NULL,
        adopted_by text NOT NULL,
        left_at timestamptz,
        CONSTRAINT stripe_accounts_account_key UNIQUE (account_id, livemode),
        CONSTRAINT left_or_current CHECK (is_current = (left_at IS NULL)),
        CONSTRAINT account_is_named CHECK (length(account_id) BETWEEN 1 AND 255)
    )"""
# Whoever writes the row: the version before knows no accounts.
_MARK = """
    CREATE FUNCTION mark_stripe_account() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.stripe_account := coalesce(
            NEW.stripe_account, (SELECT id FROM public.stripe_accounts WHERE is_current));
        RETURN NEW;
    END $$"""


def upgrade() -> None:
    op.execute(_ACCOUNTS)
    op.execute(
        "CREATE UNIQUE INDEX idx_stripe_accounts_current ON stripe_accounts (is_current) WHERE is_current"
    )
    op.execute("GRANT SELECT ON stripe_accounts TO payments_app")
    op.execute("GRANT SELECT, INSERT, UPDATE ON stripe_accounts TO payments_worker")
    op.execute(_MARK)
    for table in _MADE_AT_STRIPE:
        op.execute(f"ALTER TABLE {table} ADD COLUMN stripe_account uuid")
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT {table}_stripe_account_fkey"
            " FOREIGN KEY (stripe_account) REFERENCES stripe_accounts (id) NOT VALID"
        )
        op.execute(
            f"CREATE TRIGGER mark_stripe_account BEFORE INSERT ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION mark_stripe_account()"
        )
    op.execute("ALTER TABLE checkouts ADD COLUMN unknown_since timestamptz")
    op.execute(
        "ALTER TABLE checkouts ADD CONSTRAINT unknown_has_ended CHECK (unknown_since IS NULL"
        " OR status IN ('expired', 'processing', 'paid', 'failed')) NOT VALID"
    )
