"""Pure decisions of payments: states of a checkout, what Stripe's objects mean for us, keys and times."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from services.payments.errors import IllegalMove
from services.payments.stripe_objects import (
    Dispute,
    Intent,
    Item,
    Malformed,
    Metadata,
    Movement,
    Session,
)
from services.payments.stripe_objects import Subscription as StripeSubscription

SHOP_CURRENCY = "usd"
# Stripe takes eight digits at most.
MAX_AMOUNT_CENTS = 99_999_999

CHECKOUT_LIFETIME = timedelta(minutes=45)
ATTEMPT_LIFETIME = timedelta(minutes=10)
# Stripe refuses sessions that live for less than 30 minutes; the rest is for the way and for clocks.
SHORTEST_SESSION = timedelta(minutes=31)
LEASE = timedelta(seconds=10)
# Stripe's own `expired` event comes within this time of the session's end, if it comes at all.
OVERDUE_GRACE = timedelta(seconds=60)


class Status(StrEnum):
    CREATING = "creating"
    OPEN = "open"
    PROCESSING = "processing"
    PAID = "paid"
    EXPIRED = "expired"
    FAILED = "failed"


# Stripe is the truth: a checkout that we gave up is still paid when Stripe says so.
TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.CREATING: frozenset(
        {Status.OPEN, Status.PROCESSING, Status.PAID, Status.EXPIRED, Status.FAILED},
    ),
    Status.OPEN: frozenset({Status.PROCESSING, Status.PAID, Status.EXPIRED, Status.FAILED}),
    Status.PROCESSING: frozenset({Status.PAID, Status.FAILED}),
    Status.EXPIRED: frozenset({Status.PROCESSING, Status.PAID}),
    Status.FAILED: frozenset({Status.PAID}),
    Status.PAID: frozenset(),
}


def moves(current: Status, target: Status) -> bool:
    """Whether news of `target` changes the state. Stripe's events come late, twice and in any order:
    what a further state has overtaken changes nothing. Nothing leads back to `creating`."""
    if target is Status.CREATING:
        raise IllegalMove(current, target)
    return target in TRANSITIONS[current]


@dataclass(frozen=True, slots=True)
class Package:
    id: str
    name: str
    points: int
    price_cents: int
    currency: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a subscription gives for each paid invoice, and what that costs."""

    id: str
    name: str
    points: int
    price_cents: int
    currency: str
    interval: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the hosted page."""

    title: str
    unit_price_cents: int
    quantity: int
    # month or year for a subscription, empty for what is paid once.
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Checkout:
    id: UUID
    user_id: UUID
    status: Status
    version: int
    order_id: UUID | None
    package_id: str | None
    plan_id: str | None
    points: int
    amount_cents: int
    currency: str
    # Sealed: the lines and the e-mail, so that every call under one key has the same parameters.
    request: bytes
    attempt: int
    attempt_until: datetime
    expires_at: datetime
    session_id: str | None
    url: str | None
    payment_intent_id: str | None
    failure_reason: str | None
    lease_token: UUID | None
    lease_until: datetime
    tries: int
    created_at: datetime
    # The database's clock when the row was read.
    read_at: datetime
    traceparent: str | None = None
    # Whether it is the one open page of its user and plan.
    plan_page: bool = False
    # Ended without anybody knowing whether it was paid.
    unknown_since: datetime | None = None
    # Whether its page takes promotion codes, and what those of a paid one took off.
    promotion_codes: bool = False
    discount_cents: int = 0

    @property
    def is_in_flight(self) -> bool:
        """Someone is talking to Stripe about it right now."""
        return self.lease_token is not None and self.lease_until > self.read_at

    @property
    def due_cents(self) -> int:
        """What the customer pays, or has paid."""
        return self.amount_cents - self.discount_cents

    @property
    def is_settled(self) -> bool:
        """Paid, or not to be paid any more as far as anybody knows."""
        return self.status in (Status.PAID, Status.EXPIRED, Status.FAILED)

    @property
    def is_tombstone(self) -> bool:
        """Remembers that the order was given up before its checkout was asked for."""
        return self.status is Status.EXPIRED and self.amount_cents == 0


def news_of(session: Session, *, payment_failed: bool = False) -> Status:
    """The state that a session stands for. A delayed payment that failed leaves the session as it was
    (`complete`, `unpaid`), so that only the event's type tells it from one under way."""
    if session.status == "complete":
        if session.payment_status in _NOTHING_DUE:
            return Status.PAID
        return Status.FAILED if payment_failed else Status.PROCESSING
    if session.status == "open" and not session.url:
        raise Malformed("an open session has no url")
    try:
        return {"open": Status.OPEN, "expired": Status.EXPIRED}[session.status]
    except KeyError:
        raise Malformed("status is none of open, complete, expired") from None


def has_failed(intent: Intent) -> bool:
    """Whether the payment of a session that the customer completed will not come any more."""
    return intent.status in ("canceled", "requires_payment_method")


# A session that was free is over as a paid one is; of a checkout of ours its amount is wrong.
_NOTHING_DUE = ("paid", "no_payment_required")


def as_id(text: str | None) -> UUID | None:
    """An id of ours out of Stripe's metadata, which anyone with the dashboard may edit."""
    try:
        return UUID(text or "")
    except ValueError:
        return None


def checkout_of(session: Session) -> UUID | None:
    """The checkout that a session names as its own."""
    return as_id(session.metadata.get("checkout_id") or session.client_reference_id)


# Names the shop that made an object at Stripe; older objects bear none.
SHOP_MARK = "shop"


def bears_our_metadata(metadata: Metadata) -> bool:
    """Whether the object was made by this shop, whatever has become of its checkout. What bears another
    shop's mark has been taken out by then (looks.py); an older one of ours bears a checkout's id alone."""
    return SHOP_MARK in metadata or "checkout_id" in metadata


def is_of_another_shop(metadata: Metadata, shop_id: str) -> bool:
    """Whether the object bears the mark of another shop, or of another copy of this one."""
    return metadata.get(SHOP_MARK, shop_id) != shop_id


def metadata_of(checkout: Checkout) -> dict[str, str]:
    """What is written on the session, and on its payment intent or subscription; never the lines: a value
    holds 500 characters."""
    common = {"user_id": str(checkout.user_id), "checkout_id": str(checkout.id)}
    if checkout.order_id:
        return common | {"order_id": str(checkout.order_id)}
    common |= {"points_amount": str(checkout.points)}
    if checkout.plan_id:
        return common | {"plan_id": checkout.plan_id}
    return common | {"package_id": str(checkout.package_id)}


@dataclass(frozen=True, slots=True)
class Paid:
    """A payment that Stripe says was made: by a session, by an intent of ours, or of an invoice."""

    payment_intent_id: str | None
    amount_cents: int | None
    currency: str | None
    metadata: Metadata
    session_id: str | None = None
    invoice_id: str | None = None
    # What a session was worth before its discount; an intent does not tell.
    subtotal_cents: int | None = None
    discount_cents: int = 0


def paid_by(session: Session) -> Paid:
    return Paid(
        payment_intent_id=session.payment_intent_id if session.mode == "payment" else None,
        amount_cents=session.amount_total,
        currency=session.currency,
        metadata=session.metadata,
        session_id=session.id,
        subtotal_cents=session.amount_subtotal,
        discount_cents=session.amount_discount,
    )


def discount_of(checkout: Checkout, paid: Paid) -> int:
    """What promotion codes took off the price, on a page that takes them: only if price, discount and total
    add up. Any other discount is none of ours, and the amount is wrong."""
    if not checkout.promotion_codes or paid.amount_cents is None:
        return 0
    adds_up = checkout.amount_cents == paid.subtotal_cents == paid.amount_cents + paid.discount_cents
    return max(0, paid.discount_cents) if adds_up else 0


def mismatch(checkout: Checkout, paid: Paid) -> str | None:
    """Why a payment must not be fulfilled as this checkout; None when all of it agrees."""
    discount = discount_of(checkout, paid)
    is_free = 0 < discount == checkout.amount_cents
    if paid.amount_cents == 0 and not paid.payment_intent_id and not is_free:
        # A coupon that somebody put on it at Stripe: nothing was due, and nothing failed.
        return "free_session"
    if paid.amount_cents != checkout.amount_cents - discount:
        return "amount_mismatch"
    if (paid.currency or "").lower() != checkout.currency:
        return "currency_mismatch"
    # Of what is free there is none.
    if bool(paid.payment_intent_id) is is_free:
        return "not_a_payment"
    ours = metadata_of(checkout)
    if any(paid.metadata.get(name) != value for name, value in ours.items()):
        return "metadata_mismatch"
    if checkout.status is Status.PAID and paid.payment_intent_id != checkout.payment_intent_id:
        return "second_payment"
    return None


class Standing(StrEnum):
    FULFILLED = "fulfilled"
    QUARANTINED = "quarantined"


class Contest(StrEnum):
    """What the disputes of a payment amount to."""

    NONE = "none"
    OPEN = "open"
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Payment:
    """A PaymentIntent that was paid, and how much of it is left."""

    id: UUID
    user_id: UUID | None
    payment_intent_id: str
    checkout_id: UUID | None
    order_id: UUID | None
    invoice_id: str | None
    amount_cents: int
    currency: str
    points: int
    # Under which wallet knows the points; empty until they are granted.
    grant_source: str | None
    standing: Standing
    version: int
    # Asked for by us and not failed; Σ of these is never more than the amount.
    requested_cents: int
    # As Stripe lists them, whoever asked.
    refunded_cents: int
    # What open disputes hold, and what lost ones took: together what is neither ours nor to be given back.
    disputed_cents: int
    lost_cents: int
    dispute: Contest
    refunds_observed_at: datetime | None
    disputes_observed_at: datetime | None

    @property
    def taken_back_cents(self) -> int:
        """Refunded, held by the bank or lost to it; never more than was paid, however often it is claimed."""
        return min(self.amount_cents, self.refunded_cents + self.disputed_cents)

    @property
    def open_cents(self) -> int:
        """What the bank has not decided."""
        return max(0, self.disputed_cents - self.lost_cents)

    @property
    def refundable_cents(self) -> int:
        """What may still be asked back: neither asked for by us nor refunded in the dashboard, nor held or
        taken by the bank."""
        back = max(self.requested_cents, self.refunded_cents)
        return max(0, self.amount_cents - back - self.disputed_cents)


def net_points(points: int, paid_cents: int, taken_back_cents: int) -> int:
    """What a sale is worth after refunds and disputes; exact however it was split, since it depends on the
    sum alone. Of one that cost nothing nothing comes back."""
    return points - points * min(paid_cents, taken_back_cents) // paid_cents if paid_cents else points


# docs.stripe.com/api/refunds/object#refund_object-status: these have left, or are about to leave, the shop.
GIVEN_BACK = frozenset({"pending", "requires_action", "succeeded"})
# docs.stripe.com/disputes/how-disputes-work: `warning_*` is an inquiry and moves no money.
# An appeal opens anew what was lost, and the bank still has the money.
OPEN_DISPUTES = frozenset({"needs_response", "under_review", "appeal_needs_response", "appeal_under_review"})


@dataclass(frozen=True, slots=True)
class Share:
    """What a dispute is about, in the currency of its payment, and what of that the bank keeps for good."""

    share_cents: int
    lost_cents: int
    is_open: bool

    @property
    def held_cents(self) -> int:
        return self.share_cents if self.is_open else self.lost_cents


def share_of(dispute: Dispute, *, amount_cents: int, currency: str, settled: Movement | None) -> Share:
    """`settled` is what the payment brought. One that ended lost may be partly won: what came back of what
    was withdrawn was not lost."""
    share = _share_cents(dispute, amount_cents, currency, settled)
    lost = _kept(dispute, share) if dispute.status == "lost" else 0
    return Share(share, lost, dispute.status in OPEN_DISPUTES)


def _share_cents(dispute: Dispute, amount_cents: int, currency: str, settled: Movement | None) -> int:
    if dispute.currency.lower() == currency:
        return dispute.amount
    withdrawn = _withdrawn(dispute)
    is_comparable = settled is not None and {each.currency for each in dispute.movements} == {
        settled.currency
    }
    if settled is None or not is_comparable or not withdrawn or settled.amount <= 0:
        return amount_cents
    return min(amount_cents, _in_proportion(amount_cents, withdrawn, settled.amount))


def _kept(dispute: Dispute, share_cents: int) -> int:
    withdrawn = _withdrawn(dispute)
    if not withdrawn:
        return share_cents
    kept = max(0, -sum(each.amount for each in dispute.movements))
    return min(share_cents, _in_proportion(share_cents, kept, withdrawn))


def _withdrawn(dispute: Dispute) -> int:
    return -sum(each.amount for each in dispute.movements if each.amount < 0)


def _in_proportion(amount: int, part: int, whole: int) -> int:
    """amount × part ÷ whole, to the nearest."""
    return (2 * amount * part + whole) // (2 * whole)


def contest_of(disputes: Iterable[Dispute]) -> Contest:
    """The gravest of a payment's disputes: an open one before a lost one before a won one."""
    statuses = {dispute.status for dispute in disputes}
    if statuses & OPEN_DISPUTES:
        return Contest.OPEN
    if "lost" in statuses:
        return Contest.LOST
    return Contest.WON if "won" in statuses else Contest.NONE


@dataclass(frozen=True, slots=True)
class Refund:
    """Money on its way back. `status` is Stripe's, or `creating` until Stripe has answered."""

    id: UUID
    payment_id: UUID
    payment_intent_id: str
    order_id: UUID | None
    amount_cents: int
    currency: str
    status: str
    # Whether we asked for it; else it was made in the dashboard.
    is_ours: bool
    reason: str
    failure_reason: str | None
    stripe_refund_id: str | None
    version: int
    attempt: int
    attempt_until: datetime | None
    lease_token: UUID | None
    lease_until: datetime
    tries: int
    created_at: datetime
    read_at: datetime
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a user agreed to, and Stripe's state of it when we last looked."""

    id: UUID
    user_id: UUID
    plan_id: str
    stripe_subscription_id: str
    stripe_customer_id: str
    status: str
    points: int
    price_cents: int
    currency: str
    interval: str
    current_period_end: datetime
    # Whether it ends by itself, with the period or at `cancel_at`.
    cancel_at_period_end: bool
    ended_at: datetime | None
    observed_at: datetime
    created_at: datetime
    cancel_at: datetime | None = None
    # Whether Stripe bills something else than was agreed here.
    changed_outside: bool = False
    # The live one of its user and plan that it is second to: it gives nothing, and is to be canceled.
    duplicate_of: UUID | None = None
    cancel_due_at: datetime | None = None
    cancel_tries: int = 0
    # The account that bills it; None: the shop's first.
    stripe_account: UUID | None = None

    @property
    def is_over_with_period(self) -> bool:
        """Whether no renewal is to come."""
        is_soon = self.cancel_at is None or self.cancel_at <= self.current_period_end
        return self.ended_at is not None or (self.cancel_at_period_end and is_soon)


# A user who has one of these, and has not ended it, should not buy the same plan once more.
LIVE = ("trialing", "active", "past_due", "paused")


def is_changed_outside(theirs: StripeSubscription, *, interval: str, price_cents: int, currency: str) -> bool:
    """Whether Stripe bills another thing than the one that was sold: items, price or interval were changed
    in the dashboard."""
    sold = [Item(interval, theirs.current_period_end, price_cents, currency)]
    return list(theirs.items) != sold


def refund_key(refund: Refund) -> str:
    """Stripe's idempotency key of one attempt: the same on every retry."""
    return f"refund:{refund.id}:{refund.attempt}"


def may_create_refund(refund: Refund) -> bool:
    """Whether the attempt's key may still be used."""
    return refund.attempt_until is not None and refund.read_at < refund.attempt_until


# A bank debit that was begun takes days, and is asked about for so long after its session's end.
_DEBIT_GRACE = timedelta(days=30)


def may_end_unknown(checkout: Checkout) -> bool:
    """Whether a checkout whose session Stripe does not have may end: nobody can pay its page any more, under
    whichever account it was made. Until then the page may be open under the account that made it."""
    grace = _DEBIT_GRACE if checkout.status is Status.PROCESSING else OVERDUE_GRACE
    return checkout.read_at >= checkout.expires_at + grace


def total_of(lines: Sequence[Line]) -> int:
    return sum(line.unit_price_cents * line.quantity for line in lines)


def creation_key(checkout: Checkout) -> str:
    """Stripe's idempotency key of one attempt: the same on every retry."""
    return f"checkout:{checkout.id}:{checkout.attempt}"


def may_create(checkout: Checkout) -> bool:
    """Whether the attempt's key may still be used: Stripe forgets keys, our rows do not."""
    return checkout.read_at < checkout.attempt_until


def may_try_anew(checkout: Checkout) -> bool:
    """Whether another attempt could still get a session that ends when we said."""
    return checkout.expires_at - checkout.read_at >= SHORTEST_SESSION


def backoff_seconds(tries: int, *, longest: float) -> float:
    """1, 2, 4 … seconds, at most `longest`."""
    return float(min(longest, 2 ** min(max(tries, 1) - 1, 20)))
