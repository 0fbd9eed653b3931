"""Pure decisions of payments: states of a checkout, what a Stripe session says, keys and times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from services.payments.errors import IllegalMove

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
class Line:
    """One line of the hosted page."""

    title: str
    unit_price_cents: int
    quantity: int


@dataclass(frozen=True, slots=True)
class Checkout:
    id: UUID
    user_id: UUID
    status: Status
    version: int
    order_id: UUID | None
    package_id: str | None
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

    @property
    def is_in_flight(self) -> bool:
        """Someone is talking to Stripe about it right now."""
        return self.lease_token is not None and self.lease_until > self.read_at

    @property
    def is_tombstone(self) -> bool:
        """Remembers that the order was given up before its checkout was asked for."""
        return self.status is Status.EXPIRED and self.amount_cents == 0


@dataclass(frozen=True, slots=True)
class Session:
    """What we read of Stripe's Checkout Session, from an event or from the API."""

    id: str
    mode: str
    status: str
    payment_status: str
    amount_total: int | None
    currency: str | None
    url: str | None
    payment_intent_id: str | None
    client_reference_id: str | None
    metadata: Mapping[str, str]


class Malformed(ValueError):
    """Stripe's object is not of the shape that its API promises."""


def parse_session(fields: Mapping[str, Any]) -> Session:
    """Reads a `checkout.session`; Malformed names what is wrong and never quotes the payload."""
    if fields.get("object") != "checkout.session":
        raise Malformed("object is not a checkout.session")
    metadata = fields.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise Malformed("metadata is not an object")
    amount = fields.get("amount_total")
    if amount is not None and (not isinstance(amount, int) or isinstance(amount, bool)):
        raise Malformed("amount_total is not a whole number")
    return Session(
        id=_required(fields, "id"),
        mode=_required(fields, "mode"),
        status=_required(fields, "status"),
        payment_status=_required(fields, "payment_status"),
        amount_total=amount,
        currency=_optional(fields, "currency"),
        url=_optional(fields, "url"),
        payment_intent_id=_reference(fields, "payment_intent"),
        client_reference_id=_optional(fields, "client_reference_id"),
        metadata={str(name): str(value) for name, value in metadata.items()},
    )


def _optional(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise Malformed(f"{name} is not a string")


def _required(fields: Mapping[str, Any], name: str) -> str:
    value = _optional(fields, name)
    if not value:
        raise Malformed(f"{name} is missing")
    return value


def _reference(fields: Mapping[str, Any], name: str) -> str | None:
    """An id, or the id of the object when Stripe was asked to expand it."""
    value = fields.get(name)
    return _required(value, "id") if isinstance(value, Mapping) else _optional(fields, name)


def news_of(session: Session, *, payment_failed: bool = False) -> Status:
    """The state that a session stands for. A delayed payment that failed leaves the session as it was
    (`complete`, `unpaid`), so that only the event's type tells it from one under way."""
    if session.status == "complete":
        if session.payment_status == "paid":
            return Status.PAID
        return Status.FAILED if payment_failed else Status.PROCESSING
    if session.status == "open" and not session.url:
        raise Malformed("an open session has no url")
    try:
        return {"open": Status.OPEN, "expired": Status.EXPIRED}[session.status]
    except KeyError:
        raise Malformed("status is none of open, complete, expired") from None


def checkout_of(session: Session) -> UUID | None:
    """The checkout that a session names as its own."""
    try:
        return UUID(session.metadata.get("checkout_id") or session.client_reference_id or "")
    except ValueError:
        return None


def bears_our_metadata(session: Session) -> bool:
    """Whether the session was opened by this shop, whatever has become of its checkout."""
    names = session.metadata.keys()
    return "checkout_id" in names or ("user_id" in names and not names.isdisjoint(_PURPOSES))


_PURPOSES = ("points_amount", "order_id")


def metadata_of(checkout: Checkout) -> dict[str, str]:
    """What is written on the session and on its payment intent; never the lines: a value holds 500
    characters."""
    common = {"user_id": str(checkout.user_id), "checkout_id": str(checkout.id)}
    if checkout.order_id:
        return common | {"order_id": str(checkout.order_id)}
    return common | {"points_amount": str(checkout.points), "package_id": str(checkout.package_id)}


def mismatch(checkout: Checkout, session: Session) -> str | None:
    """Why a paid session must not be fulfilled as this checkout; None when all of it agrees."""
    if session.amount_total != checkout.amount_cents:
        return "amount_mismatch"
    if (session.currency or "").lower() != checkout.currency:
        return "currency_mismatch"
    if session.mode != "payment" or not session.payment_intent_id:
        return "not_a_payment"
    ours = metadata_of(checkout)
    if any(session.metadata.get(name) != value for name, value in ours.items()):
        return "metadata_mismatch"
    if checkout.status is Status.PAID and session.payment_intent_id != checkout.payment_intent_id:
        return "second_payment"
    return None


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
