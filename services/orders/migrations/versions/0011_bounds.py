"""A history is forgotten with an order that bought nothing: it stays append-only otherwise, for every role."""

from alembic import op

revision = "0011"
down_revision = "0010"

_FORGET = """
    CREATE FUNCTION order_history_is_forgotten() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (
            SELECT FROM orders WHERE id = OLD.order_id AND status = 'failed'
                AND failure_reason IN ('out_of_stock', 'insufficient_points')
                AND created_at < now() - interval '30 days') THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION 'order_history is append-only' USING ERRCODE = 'restrict_violation';
    END $$"""


def upgrade() -> None:
    op.execute(_FORGET)
    op.execute("GRANT DELETE ON order_history TO orders_worker")
    op.execute(
        "CREATE TRIGGER order_history_is_forgotten BEFORE DELETE ON order_history"
        " FOR EACH ROW EXECUTE FUNCTION order_history_is_forgotten()"
    )
    # Now each row answers for itself.
    op.execute("DROP TRIGGER order_history_append_only ON order_history")
    op.execute(
        "CREATE TRIGGER order_history_append_only BEFORE UPDATE OR TRUNCATE ON order_history"
        " FOR EACH STATEMENT EXECUTE FUNCTION order_history_append_only()"
    )
