"""Tables of the payments database. Amounts are minor units of the row's currency, points are whole.

Every invariant of rules.py stands here again as a constraint: the code's check is for the message, the
constraint is for the truth.
"""

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.chassis import audit_log, tables

metadata = MetaData()
tables.messaging_tables(metadata)
tables.relay_table(metadata)
tables.decided_dead_letters(metadata)
tables.idempotency_table(metadata)
audit_log.audit_log_table(metadata)


def _time(name: str) -> "Column[object]":
    return Column(name, TIMESTAMP(timezone=True), nullable=False, server_default=func.now())


def _new_id() -> "Column[object]":
    return Column("id", Uuid, primary_key=True, server_default=text("uuidv7()"))


points_packages = Table(
    "points_packages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("price_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    _time("created_at"),
    CheckConstraint("points > 0", name="points_positive"),
    CheckConstraint("price_cents > 0", name="price_cents_positive"),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
)

plans = Table(
    "plans",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("price_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("interval", Text, nullable=False),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    _time("created_at"),
    CheckConstraint("points > 0", name="points_positive"),
    CheckConstraint("price_cents > 0", name="price_cents_positive"),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
    CheckConstraint("interval IN ('month', 'year')", name="known_interval"),
)

# Accounts of Stripe that objects of this shop were made by; a trigger writes the current one on them.
stripe_accounts = Table(
    "stripe_accounts",
    metadata,
    _new_id(),
    # Stripe's.
    Column("account_id", Text, nullable=False),
    Column("livemode", Boolean, nullable=False),
    Column("is_current", Boolean, nullable=False),
    # Of the key that was last seen to be this account's.
    Column("key_hash", LargeBinary),
    _time("adopted_at"),
    Column("adopted_by", Text, nullable=False),
    Column("left_at", TIMESTAMP(timezone=True)),
    UniqueConstraint("account_id", "livemode", name="stripe_accounts_account_key"),
    CheckConstraint("is_current = (left_at IS NULL)", name="left_or_current"),
    CheckConstraint("length(account_id) BETWEEN 1 AND 255", name="account_is_named"),
    Index("idx_stripe_accounts_current", "is_current", unique=True, postgresql_where=text("is_current")),
)


def _made_by() -> "Column[object]":
    """The account that made it; none on rows of before there were accounts: the first one's."""
    return Column("stripe_account", Uuid, ForeignKey("stripe_accounts.id"))


checkouts = Table(
    "checkouts",
    metadata,
    _new_id(),
    Column("user_id", Uuid, nullable=False),
    Column("status", Text, nullable=False, server_default="creating"),
    # Rises with every change of the state: what wallet and orders compare.
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("order_id", Uuid),
    Column("package_id", Text, ForeignKey("points_packages.id")),
    Column("plan_id", Text, ForeignKey("plans.id")),
    # What the payment gives; of a plan, what each paid invoice gives.
    Column("points", BigInteger, nullable=False, server_default="0"),
    # 0 only in the tombstone of an order that was given up before its checkout was asked for.
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    # Sealed: lines and e-mail, so that each call under one key sends the same parameters.
    Column("request", LargeBinary, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("attempt_until", TIMESTAMP(timezone=True), nullable=False),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False),
    Column("session_id", Text),
    Column("url", Text),
    Column("payment_intent_id", Text),
    Column("failure_reason", Text),
    _made_by(),
    # Ended without anybody knowing whether it was paid: Stripe has no such session under our key.
    Column("unknown_since", TIMESTAMP(timezone=True)),
    # Held while someone talks to Stripe about the row; without a token `lease_until` is a backoff.
    Column("lease_token", Uuid),
    _time("lease_until"),
    Column("tries", Integer, nullable=False, server_default="0"),
    # Whether it is the one page of its user and plan while it is open.
    Column("plan_page", Boolean, nullable=False, server_default=text("false")),
    # Whether its page takes promotion codes, and what those of a paid one took off the amount.
    Column("promotion_codes", Boolean, nullable=False, server_default=text("false")),
    Column("discount_cents", BigInteger, nullable=False, server_default="0"),
    # W3C: the trace of whoever asked for it, which Stripe's news continue.
    Column("traceparent", Text),
    _time("created_at"),
    _time("updated_at"),
    UniqueConstraint("order_id", name="checkouts_order_id_key"),
    UniqueConstraint("session_id", name="checkouts_session_id_key"),
    UniqueConstraint("payment_intent_id", name="checkouts_payment_intent_id_key"),
    CheckConstraint(
        "status IN ('creating', 'open', 'processing', 'paid', 'expired', 'failed')", name="known_status"
    ),
    CheckConstraint("num_nonnulls(order_id, package_id, plan_id) = 1", name="one_purpose"),
    CheckConstraint("(order_id IS NULL) = (points > 0) AND points >= 0", name="all_but_orders_give_points"),
    CheckConstraint(
        "amount_cents > 0 OR amount_cents = 0 AND status = 'expired' AND session_id IS NULL",
        name="amount_positive",
    ),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
    CheckConstraint("version > 0 AND attempt > 0 AND tries >= 0", name="counters_in_range"),
    CheckConstraint("attempt_until <= expires_at", name="attempt_within_lifetime"),
    CheckConstraint("status <> 'open' OR url IS NOT NULL", name="open_has_a_page"),
    CheckConstraint(
        "status NOT IN ('open', 'processing', 'paid') OR session_id IS NOT NULL", name="begun_has_a_session"
    ),
    # The money of a subscription comes by its invoices; what is free has none.
    CheckConstraint(
        "(status = 'paid' AND plan_id IS NULL AND discount_cents < amount_cents)"
        " = (payment_intent_id IS NOT NULL)",
        name="paid_has_a_payment",
    ),
    CheckConstraint(
        "discount_cents = 0 OR discount_cents BETWEEN 1 AND amount_cents AND promotion_codes"
        " AND status = 'paid' AND plan_id IS NULL",
        name="discount_by_promotion_codes",
    ),
    CheckConstraint("(status = 'failed') = (failure_reason IS NOT NULL)", name="failed_has_a_reason"),
    CheckConstraint(
        "unknown_since IS NULL OR status IN ('expired', 'processing', 'paid', 'failed')",
        name="unknown_has_ended",
    ),
    Index("idx_checkouts_user_created", "user_id", "created_at"),
    Index(
        "idx_checkouts_one_page",
        "user_id",
        "plan_id",
        unique=True,
        postgresql_where=text("plan_page AND status IN ('creating', 'open')"),
    ),
    Index("idx_checkouts_creating", "lease_until", postgresql_where=text("status = 'creating'")),
    Index("idx_checkouts_unsettled", "expires_at", postgresql_where=text("status IN ('open', 'processing')")),
)

stripe_events = Table(
    "stripe_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    # Stripe's own time of the event.
    Column("created", TIMESTAMP(timezone=True), nullable=False),
    # The raw body as it was signed, sealed.
    Column("payload", LargeBinary, nullable=False),
    # Stripe's ids of what the event is about, to find it by.
    Column("object_id", Text),
    Column("payment_intent_id", Text),
    Column("status", Text, nullable=False, server_default="received"),
    # What it caused: [{kind, id, change}].
    Column("effects", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text),
    Column("lease_token", Uuid),
    _time("lease_until"),
    _time("received_at"),
    Column("processed_at", TIMESTAMP(timezone=True)),
    # Under which it was handled.
    Column("trace_id", Text),
    # Since when its fast tries are spent.
    Column("failed_at", TIMESTAMP(timezone=True)),
    Column("set_aside_at", TIMESTAMP(timezone=True)),
    # An operator, or "rule".
    Column("set_aside_by", Text),
    Column("set_aside_reason", Text),
    # When an operator decided, or saw what a rule had decided.
    Column("acknowledged_at", TIMESTAMP(timezone=True)),
    CheckConstraint(
        "status IN ('received', 'processed', 'ignored', 'failed', 'set_aside')", name="known_status"
    ),
    CheckConstraint("(status IN ('received', 'failed')) = (processed_at IS NULL)", name="settled_has_a_time"),
    CheckConstraint("attempts >= 0", name="attempts_not_negative"),
    CheckConstraint("status <> 'failed' OR failed_at IS NOT NULL", name="failed_has_a_time"),
    CheckConstraint(
        "status <> 'set_aside' OR num_nonnulls(set_aside_at, set_aside_by, set_aside_reason) = 3",
        name="set_aside_says_who_and_why",
    ),
    CheckConstraint(
        "status <> 'set_aside' OR set_aside_by = 'rule' OR acknowledged_at IS NOT NULL",
        name="operators_acknowledge",
    ),
    Index(
        "idx_stripe_events_unsettled",
        text("(status = 'failed')"),
        "lease_until",
        postgresql_where=text("status IN ('received', 'failed')"),
    ),
    Index("idx_stripe_events_set_aside", "set_aside_at", postgresql_where=text("status = 'set_aside'")),
    Index("idx_stripe_events_received", "received_at", "id"),
    Index("idx_stripe_events_object", "object_id"),
    Index("idx_stripe_events_payment_intent", "payment_intent_id"),
)

payments = Table(
    "payments",
    metadata,
    _new_id(),
    # Unknown only while a stray payment is in quarantine.
    Column("user_id", Uuid),
    Column("payment_intent_id", Text, nullable=False),
    Column("checkout_id", Uuid, ForeignKey("checkouts.id")),
    Column("order_id", Uuid),
    Column("invoice_id", Text),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("points", BigInteger, nullable=False, server_default="0"),
    # Under which wallet knows the points: the checkout, the invoice, or the payment itself. Of an invoice's
    # payments the first bears it, with the points; what they are worth, the invoice and all of them tell.
    Column("grant_source", Text),
    Column("standing", Text, nullable=False),
    # Rises with every change: what wallet and orders compare.
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("requested_cents", BigInteger, nullable=False, server_default="0"),
    Column("refunded_cents", BigInteger, nullable=False, server_default="0"),
    # What open disputes hold, and what lost ones took.
    Column("disputed_cents", BigInteger, nullable=False, server_default="0"),
    Column("lost_cents", BigInteger, nullable=False, server_default="0"),
    Column("dispute", Text, nullable=False, server_default="none"),
    # When the listing that was last applied was asked for: an older one is void.
    Column("refunds_observed_at", TIMESTAMP(timezone=True)),
    Column("disputes_observed_at", TIMESTAMP(timezone=True)),
    _time("created_at"),
    _time("updated_at"),
    _made_by(),
    UniqueConstraint("payment_intent_id", name="payments_payment_intent_id_key"),
    UniqueConstraint("grant_source", name="payments_grant_source_key"),
    CheckConstraint("amount_cents > 0", name="amount_positive"),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
    CheckConstraint("points >= 0", name="points_not_negative"),
    CheckConstraint("version > 0", name="version_positive"),
    CheckConstraint("standing IN ('fulfilled', 'quarantined')", name="known_standing"),
    CheckConstraint("standing <> 'fulfilled' OR user_id IS NOT NULL", name="fulfilled_has_a_user"),
    CheckConstraint(
        "(standing = 'fulfilled' AND points > 0) = (grant_source IS NOT NULL)", name="points_have_a_source"
    ),
    CheckConstraint("requested_cents BETWEEN 0 AND amount_cents", name="never_asked_for_more_than_paid"),
    CheckConstraint("refunded_cents BETWEEN 0 AND amount_cents", name="never_refunded_more_than_paid"),
    CheckConstraint("disputed_cents >= 0", name="disputed_not_negative"),
    CheckConstraint("lost_cents >= 0", name="lost_not_negative"),
    CheckConstraint("dispute IN ('none', 'open', 'won', 'lost')", name="known_dispute"),
    Index("idx_payments_user_created", "user_id", "created_at"),
    # An order is paid once.
    Index(
        "idx_payments_one_per_order",
        "order_id",
        unique=True,
        postgresql_where=text("standing = 'fulfilled'"),
    ),
    Index("idx_payments_checkout", "checkout_id"),
    Index("idx_payments_invoice", "invoice_id", postgresql_where=text("invoice_id IS NOT NULL")),
)

refunds = Table(
    "refunds",
    metadata,
    # Ours: the id that the caller chose, or a new one for a refund that was made in the dashboard.
    _new_id(),
    Column("payment_id", Uuid, ForeignKey("payments.id"), nullable=False),
    Column("payment_intent_id", Text, nullable=False),
    Column("order_id", Uuid),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    # Stripe's, or `creating` until Stripe has answered.
    Column("status", Text, nullable=False),
    # Whether it was asked for by us, and so counts in payments.requested_cents.
    Column("is_ours", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("failure_reason", Text),
    Column("stripe_refund_id", Text),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("attempt_until", TIMESTAMP(timezone=True)),
    Column("lease_token", Uuid),
    _time("lease_until"),
    Column("tries", Integer, nullable=False, server_default="0"),
    # W3C: the trace of whoever asked for it.
    Column("traceparent", Text),
    _time("created_at"),
    _time("updated_at"),
    _made_by(),
    UniqueConstraint("stripe_refund_id", name="refunds_stripe_refund_id_key"),
    CheckConstraint("amount_cents > 0", name="amount_positive"),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
    CheckConstraint(
        "status IN ('creating', 'pending', 'requires_action', 'succeeded', 'failed', 'canceled')",
        name="known_status",
    ),
    CheckConstraint("status <> 'creating' OR is_ours AND attempt_until IS NOT NULL", name="creating_is_ours"),
    CheckConstraint(
        "stripe_refund_id IS NOT NULL OR status IN ('creating', 'failed')", name="begun_is_known_to_stripe"
    ),
    CheckConstraint("version > 0 AND attempt > 0 AND tries >= 0", name="counters_in_range"),
    Index("idx_refunds_payment", "payment_id"),
    Index("idx_refunds_creating", "lease_until", postgresql_where=text("status = 'creating'")),
)

disputes = Table(
    "disputes",
    metadata,
    # Stripe's.
    Column("id", Text, primary_key=True),
    Column("payment_id", Uuid, ForeignKey("payments.id"), nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    # In the payment's currency: what it is about, and, once it ended lost, what of that the bank kept. Null
    # where the release before wrote it: then the amount is meant.
    Column("share_cents", BigInteger),
    Column("lost_cents", BigInteger),
    # Stripe's; a status that is new to us is kept and moves nothing.
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False),
    _time("updated_at"),
    CheckConstraint("amount_cents >= 0", name="amount_not_negative"),
    CheckConstraint("lost_cents BETWEEN 0 AND share_cents", name="lost_within_share"),
    Index("idx_disputes_payment", "payment_id"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    # The checkout that began it.
    Column("id", Uuid, ForeignKey("checkouts.id"), primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("plan_id", Text, ForeignKey("plans.id"), nullable=False),
    Column("stripe_subscription_id", Text, nullable=False),
    Column("stripe_customer_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    # As agreed when it began: what each invoice gives and costs.
    Column("points", BigInteger, nullable=False),
    Column("price_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("interval", Text, nullable=False),
    Column("current_period_end", TIMESTAMP(timezone=True), nullable=False),
    # Whether it ends by itself, and when, as far as that is known.
    Column("cancel_at_period_end", Boolean, nullable=False),
    Column("cancel_at", TIMESTAMP(timezone=True)),
    # Whether Stripe bills something else than what was agreed: changed in the dashboard.
    Column("changed_outside", Boolean, nullable=False, server_default=text("false")),
    # A second one of its plan, which gives nothing: canceled at Stripe as soon as that answers.
    Column("duplicate_of", Uuid, ForeignKey("subscriptions.id")),
    Column("cancel_due_at", TIMESTAMP(timezone=True)),
    Column("cancel_tries", Integer, nullable=False, server_default="0"),
    Column("ended_at", TIMESTAMP(timezone=True)),
    # When the state that is kept here was asked for: an older one is void.
    Column("observed_at", TIMESTAMP(timezone=True), nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False),
    _time("updated_at"),
    _made_by(),
    UniqueConstraint("stripe_subscription_id", name="subscriptions_stripe_subscription_id_key"),
    CheckConstraint(
        "status IN ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'canceled',"
        " 'unpaid', 'paused')",
        name="known_status",
    ),
    CheckConstraint("points > 0 AND price_cents > 0", name="terms_positive"),
    CheckConstraint("interval IN ('month', 'year')", name="known_interval"),
    CheckConstraint("status <> 'canceled' OR ended_at IS NOT NULL", name="canceled_has_ended"),
    # A user pays for a plan once. What ends by itself makes room for the next one.
    Index(
        "idx_subscriptions_one_live",
        "user_id",
        "plan_id",
        unique=True,
        postgresql_where=text(
            "status IN ('trialing', 'active', 'past_due', 'paused') AND NOT cancel_at_period_end"
            " AND duplicate_of IS NULL"
        ),
    ),
    Index(
        "idx_subscriptions_cancel_due", "cancel_due_at", postgresql_where=text("cancel_due_at IS NOT NULL")
    ),
    Index("idx_subscriptions_user_created", "user_id", "created_at", "id"),
)

invoices = Table(
    "invoices",
    metadata,
    # Stripe's.
    Column("id", Text, primary_key=True),
    # Unknown when an operator fulfilled one that bears our metadata and belongs to none.
    Column("subscription_id", Uuid, ForeignKey("subscriptions.id")),
    Column("user_id", Uuid, nullable=False),
    # The first of its payments, for the release before; payments.invoice_id names all of them, or none does.
    Column("payment_id", Uuid, ForeignKey("payments.id")),
    Column("billing_reason", Text),
    Column("amount_paid_cents", BigInteger, nullable=False),
    # What was paid of it in whatever way, and what it gives; null where the release before wrote it: the
    # amount paid, and the points of its subscription.
    Column("billed_cents", BigInteger),
    Column("points", BigInteger),
    # Of the sale itself: added to those of its payments.
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("currency", Text, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False),
    UniqueConstraint("payment_id", name="invoices_payment_id_key"),
    CheckConstraint("amount_paid_cents >= 0", name="amount_not_negative"),
    CheckConstraint("billed_cents >= 0", name="billed_not_negative"),
    CheckConstraint("points > 0", name="points_positive"),
    CheckConstraint("version >= 0", name="version_not_negative"),
    Index("idx_invoices_user_created", "user_id", "created_at"),
)

# Money that came and was not credited: an operator decides. Not a customer's row, hence no user_id.
quarantine = Table(
    "quarantine",
    metadata,
    _new_id(),
    Column("session_id", Text),
    Column("payment_intent_id", Text),
    Column("invoice_id", Text),
    # The payment, when Stripe named one; of an invoice the first.
    Column("payment_id", Uuid, ForeignKey("payments.id")),
    # The checkout that it names, when there is one.
    Column("checkout_id", Uuid, ForeignKey("checkouts.id")),
    # What the customer paid; of an invoice all that was billed, also by credit or outside of Stripe.
    Column("amount_cents", BigInteger),
    # What an operator decided of it, and, once the row is closed, what went back by refunds and disputes.
    Column("settled_outside_cents", BigInteger, nullable=False, server_default="0"),
    Column("settlement_reference", Text),
    # Cents by reference: all of them, the one above is the last. The release before writes that alone.
    Column("settlements", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("written_off_cents", BigInteger, nullable=False, server_default="0"),
    Column("returned_cents", BigInteger),
    Column("currency", Text),
    # Ours, as Stripe gave it back: whose payment it may be.
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("reason", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="parked"),
    Column("refund_id", Uuid, ForeignKey("refunds.id")),
    Column("resolved_by", Text),
    Column("resolution_reason", Text),
    Column("resolved_at", TIMESTAMP(timezone=True)),
    _time("created_at"),
    UniqueConstraint("session_id", name="quarantine_session_id_key"),
    UniqueConstraint("payment_id", name="quarantine_payment_id_key"),
    CheckConstraint("num_nonnulls(session_id, payment_intent_id, invoice_id) > 0", name="something_is_known"),
    CheckConstraint(
        "status IN ('parked', 'fulfilled', 'refunding', 'refunded', 'settled_outside', 'written_off')",
        name="known_status",
    ),
    CheckConstraint(
        "(status IN ('fulfilled', 'refunded', 'settled_outside', 'written_off')) = (resolved_at IS NOT NULL)",
        name="resolved_has_a_time",
    ),
    CheckConstraint(
        "reason IN ('amount_mismatch', 'currency_mismatch', 'not_a_payment', 'metadata_mismatch',"
        " 'second_payment', 'unknown_checkout', 'unexpected_invoice', 'paid_outside', 'paid_by_credit',"
        " 'free_invoice', 'free_session', 'second_subscription')",
        name="known_reason",
    ),
    CheckConstraint(
        "settled_outside_cents >= 0 AND written_off_cents >= 0"
        " AND settled_outside_cents + written_off_cents <= coalesce(amount_cents, 0)",
        name="settled_within_amount",
    ),
    CheckConstraint(
        "(settled_outside_cents > 0) = (settlement_reference IS NOT NULL)",
        name="settled_outside_has_a_reference",
    ),
    CheckConstraint("jsonb_typeof(settlements) = 'object'", name="settlements_by_reference"),
    CheckConstraint(
        "status <> 'settled_outside' OR settled_outside_cents > 0", name="settled_outside_has_an_amount"
    ),
    CheckConstraint("status <> 'written_off' OR written_off_cents > 0", name="written_off_has_an_amount"),
    # What the customer is due never vanishes. Null: closed by the release before.
    CheckConstraint(
        "status NOT IN ('refunded', 'settled_outside', 'written_off') OR returned_cents IS NULL"
        " OR returned_cents + settled_outside_cents + written_off_cents >= coalesce(amount_cents, 0)",
        name="what_is_settled_is_not_due",
    ),
    Index(
        "idx_quarantine_invoice",
        "invoice_id",
        unique=True,
        postgresql_where=text("invoice_id IS NOT NULL"),
    ),
    Index("idx_quarantine_created", "created_at", "id"),
)

# Comparisons with Stripe, by schedule and on demand.
reconciliations = Table(
    "reconciliations",
    metadata,
    _new_id(),
    Column("since", TIMESTAMP(timezone=True), nullable=False),
    Column("until", TIMESTAMP(timezone=True), nullable=False),
    # "schedule", or the operator.
    Column("requested_by", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="running"),
    Column("events_seen", BigInteger, nullable=False, server_default="0"),
    Column("events_missing", BigInteger, nullable=False, server_default="0"),
    Column("objects_seen", BigInteger, nullable=False, server_default="0"),
    Column("objects_changed", BigInteger, nullable=False, server_default="0"),
    Column("percent", Integer, nullable=False, server_default="0"),
    # Whether it also looks at what was final, and may have changed since.
    Column("second_look", Boolean, nullable=False, server_default=text("false")),
    # {kind: down to when it was read, in Unix seconds; 0 to the end}
    Column("swept", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # {kind: count}
    Column("drift", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("error", Text),
    Column("lease_token", Uuid),
    _time("lease_until"),
    Column("tries", Integer, nullable=False, server_default="0"),
    _time("started_at"),
    Column("finished_at", TIMESTAMP(timezone=True)),
    CheckConstraint("since <= until", name="goes_forward"),
    CheckConstraint("status IN ('running', 'done')", name="known_status"),
    CheckConstraint("(status = 'done') = (finished_at IS NOT NULL)", name="done_has_a_time"),
    CheckConstraint("percent BETWEEN 0 AND 100", name="percent_in_range"),
    # One at a time for each who asks, however many replicas there are.
    Index(
        "idx_reconciliations_running",
        "requested_by",
        unique=True,
        postgresql_where=text("status = 'running'"),
    ),
    Index("idx_reconciliations_started", "started_at"),
)
