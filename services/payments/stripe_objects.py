"""What we read of Stripe's objects, from an event or from the API: parsed once, typed, nothing else kept.

Malformed names what is wrong and never quotes the payload.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_BEYOND_BIGINT = 1 << 63


class Malformed(ValueError):
    """Stripe's object is not of the shape that its API promises."""


class Incomplete(Malformed):
    """A listing lacks what Stripe has shown before: it is no evidence of anything."""


Fields = Mapping[str, Any]
Metadata = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Session:
    """docs.stripe.com/api/checkout/sessions/object"""

    id: str
    mode: str
    status: str
    payment_status: str
    amount_total: int | None
    currency: str | None
    url: str | None
    payment_intent_id: str | None
    subscription_id: str | None
    client_reference_id: str | None
    metadata: Metadata
    # Before discounts, and what they take off.
    amount_subtotal: int | None = None
    amount_discount: int = 0


@dataclass(frozen=True, slots=True)
class Intent:
    """docs.stripe.com/api/payment_intents/object; `amount_received` is 0 until it succeeded."""

    id: str
    amount_received: int
    currency: str
    metadata: Metadata
    status: str = ""


@dataclass(frozen=True, slots=True)
class Refund:
    """docs.stripe.com/api/refunds/object"""

    id: str
    payment_intent_id: str | None
    amount: int
    currency: str
    status: str
    failure_reason: str | None
    metadata: Metadata
    created: datetime


@dataclass(frozen=True, slots=True)
class Movement:
    """docs.stripe.com/api/balance_transactions/object: what moved, in the currency that the account is
    settled in; what left is negative."""

    amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class Charge:
    """docs.stripe.com/api/charges/object; `settled` is what it brought, when Stripe showed it."""

    id: str
    payment_intent_id: str | None
    amount: int
    currency: str
    # "succeeded", "pending" or "failed"; an authorization that was not captured has brought nothing.
    status: str
    is_captured: bool
    amount_refunded: int
    is_disputed: bool
    settled: Movement | None
    metadata: Metadata
    created: datetime


@dataclass(frozen=True, slots=True)
class Dispute:
    """docs.stripe.com/api/disputes/object"""

    id: str
    payment_intent_id: str | None
    amount: int
    currency: str
    status: str
    reason: str
    created: datetime
    charge_id: str | None = None
    # What was withdrawn, and what came back: none, one or two.
    movements: Sequence[Movement] = ()


@dataclass(frozen=True, slots=True)
class Invoice:
    """docs.stripe.com/api/invoices/object; the subscription is under `parent`, its metadata as it was when
    the invoice was made."""

    id: str
    status: str
    billing_reason: str | None
    # Below zero when the customer is left a credit.
    subtotal: int
    total: int
    # Not what credit paid; what was paid outside of Stripe is in both.
    amount_paid: int
    amount_paid_off_stripe: int
    currency: str
    subscription_id: str | None
    subscription_metadata: Metadata
    created: datetime
    paid_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class InvoicePart:
    """docs.stripe.com/api/invoice-payment/object: what paid (a part of) an invoice. Only a payment intent can
    be refunded by the shop: a bare charge, or a record of money that came elsewhere, names none."""

    invoice_id: str | None
    payment_intent_id: str | None
    amount_cents: int
    currency: str


@dataclass(frozen=True, slots=True)
class Item:
    """What a subscription bills, how often, and until when that is paid. `interval` is empty and
    `unit_amount` None where Stripe names none: a price by tiers, say."""

    interval: str
    current_period_end: datetime
    unit_amount: int | None = None
    currency: str = ""
    quantity: int = 1
    interval_count: int = 1


@dataclass(frozen=True, slots=True)
class Subscription:
    """docs.stripe.com/api/subscriptions/object"""

    id: str
    customer_id: str
    status: str
    cancel_at_period_end: bool
    # The shop sells one; in the dashboard others may be added, or all taken away.
    items: Sequence[Item]
    ended_at: datetime | None
    metadata: Metadata
    created: datetime
    # When it ends, however that was said: in the customer portal, by a schedule, or with the period.
    cancel_at: datetime | None = None

    @property
    def current_period_end(self) -> datetime:
        """Until when all of it is paid."""
        return min((item.current_period_end for item in self.items), default=self.created)

    @property
    def is_ending(self) -> bool:
        return self.cancel_at_period_end or self.cancel_at is not None


def parse_session(fields: Fields) -> Session:
    _check_kind(fields, "checkout.session")
    details = _mapping(fields, "total_details")
    return Session(
        id=_required(fields, "id"),
        mode=_required(fields, "mode"),
        status=_required(fields, "status"),
        payment_status=_required(fields, "payment_status"),
        amount_total=_amount_or_none(fields, "amount_total"),
        currency=_optional(fields, "currency"),
        url=_optional(fields, "url"),
        payment_intent_id=reference(fields, "payment_intent"),
        subscription_id=reference(fields, "subscription"),
        client_reference_id=_optional(fields, "client_reference_id"),
        metadata=_metadata(fields),
        amount_subtotal=_amount_or_none(fields, "amount_subtotal"),
        amount_discount=_amount_or_none(details, "amount_discount") or 0,
    )


def parse_intent(fields: Fields) -> Intent:
    _check_kind(fields, "payment_intent")
    return Intent(
        id=_required(fields, "id"),
        amount_received=_amount(fields, "amount_received"),
        currency=_required(fields, "currency"),
        metadata=_metadata(fields),
        status=_required(fields, "status"),
    )


def parse_refund(fields: Fields) -> Refund:
    _check_kind(fields, "refund")
    return Refund(
        id=_required(fields, "id"),
        payment_intent_id=reference(fields, "payment_intent"),
        amount=_amount(fields, "amount"),
        currency=_required(fields, "currency"),
        status=_required(fields, "status"),
        failure_reason=_optional(fields, "failure_reason"),
        metadata=_metadata(fields),
        created=_time(fields, "created"),
    )


def parse_dispute(fields: Fields) -> Dispute:
    _check_kind(fields, "dispute")
    return Dispute(
        id=_required(fields, "id"),
        payment_intent_id=reference(fields, "payment_intent"),
        amount=_amount(fields, "amount"),
        currency=_required(fields, "currency"),
        status=_required(fields, "status"),
        reason=_required(fields, "reason"),
        created=_time(fields, "created"),
        charge_id=reference(fields, "charge"),
        movements=_movements(fields.get("balance_transactions")),
    )


def _movements(value: object) -> Sequence[Movement]:
    listed = value if isinstance(value, list) else []
    return [_movement(item) for item in listed if isinstance(item, Mapping)]


def _movement(fields: Fields) -> Movement:
    return Movement(_signed(fields, "amount"), _required(fields, "currency").lower())


def parse_charge(fields: Fields) -> Charge:
    _check_kind(fields, "charge")
    settled = fields.get("balance_transaction")
    return Charge(
        id=_required(fields, "id"),
        payment_intent_id=reference(fields, "payment_intent"),
        amount=_amount(fields, "amount"),
        currency=_required(fields, "currency").lower(),
        status=_required(fields, "status"),
        is_captured=fields.get("captured") is True,
        amount_refunded=_amount(fields, "amount_refunded"),
        is_disputed=fields.get("disputed") is True,
        settled=_movement(settled) if isinstance(settled, Mapping) else None,
        metadata=_metadata(fields),
        created=_time(fields, "created"),
    )


def parse_invoice(fields: Fields) -> Invoice:
    _check_kind(fields, "invoice")
    parent = _mapping(fields, "parent").get("subscription_details")
    details: Fields = parent if isinstance(parent, Mapping) else {}
    return Invoice(
        id=_required(fields, "id"),
        status=_required(fields, "status"),
        billing_reason=_optional(fields, "billing_reason"),
        subtotal=_signed(fields, "subtotal"),
        total=_signed(fields, "total"),
        amount_paid=_amount(fields, "amount_paid"),
        amount_paid_off_stripe=_amount(fields, "amount_paid_off_stripe")
        if fields.get("amount_paid_off_stripe") is not None
        else 0,
        currency=_required(fields, "currency"),
        subscription_id=reference(details, "subscription"),
        subscription_metadata=_metadata(details),
        created=_time(fields, "created"),
        paid_at=_time_or_none(_mapping(fields, "status_transitions"), "paid_at"),
    )


def parse_subscription(fields: Fields) -> Subscription:
    _check_kind(fields, "subscription")
    items = _mapping(fields, "items").get("data")
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise Malformed("items is not a list of objects")
    return Subscription(
        id=_required(fields, "id"),
        customer_id=reference(fields, "customer") or "",
        status=_required(fields, "status"),
        cancel_at_period_end=fields.get("cancel_at_period_end") is True,
        items=[_item(item) for item in items],
        ended_at=_time_or_none(fields, "ended_at"),
        metadata=_metadata(fields),
        created=_time(fields, "created"),
        cancel_at=_time_or_none(fields, "cancel_at"),
    )


def _item(fields: Fields) -> Item:
    price = _mapping(fields, "price")
    recurring = _mapping(price, "recurring")
    return Item(
        interval=_optional(recurring, "interval") or "",
        current_period_end=_time(fields, "current_period_end"),
        unit_amount=None if price.get("unit_amount") is None else _amount(price, "unit_amount"),
        currency=_optional(price, "currency") or "",
        quantity=1 if fields.get("quantity") is None else _amount(fields, "quantity"),
        interval_count=1 if recurring.get("interval_count") is None else _amount(recurring, "interval_count"),
    )


def parse_id(fields: Fields, kind: str) -> str:
    """The id alone, of an object of this kind."""
    _check_kind(fields, kind)
    return _required(fields, "id")


def parse_payment_of(fields: Fields) -> str | None:
    """The payment intent of a charge, a refund or a dispute."""
    return reference(fields, "payment_intent")


def parse_invoice_part(fields: Fields) -> InvoicePart:
    _check_kind(fields, "invoice_payment")
    return InvoicePart(
        invoice_id=reference(fields, "invoice"),
        payment_intent_id=reference(_mapping(fields, "payment"), "payment_intent"),
        amount_cents=0 if fields.get("amount_paid") is None else _amount(fields, "amount_paid"),
        currency=_required(fields, "currency"),
    )


def reference(fields: Fields, name: str) -> str | None:
    """An id, or the id of the object when Stripe was asked to expand it."""
    value = fields.get(name)
    return _required(value, "id") if isinstance(value, Mapping) else _optional(fields, name)


def _check_kind(fields: Fields, kind: str) -> None:
    if fields.get("object") != kind:
        raise Malformed(f"object is not a {kind}")


def _optional(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Malformed(f"{name} is not a string")
    if _storable(value) != value:
        raise Malformed(f"{name} is not text")
    return value


def _required(fields: Fields, name: str) -> str:
    value = _optional(fields, name)
    if not value:
        raise Malformed(f"{name} is missing")
    return value


def _amount(fields: Fields, name: str) -> int:
    value = _signed(fields, name)
    if value < 0:
        raise Malformed(f"{name} is out of range")
    return value


def _amount_or_none(fields: Fields, name: str) -> int | None:
    return None if fields.get(name) is None else _amount(fields, name)


def _signed(fields: Fields, name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Malformed(f"{name} is not a whole number")
    if not -_BEYOND_BIGINT < value < _BEYOND_BIGINT:
        raise Malformed(f"{name} is out of range")
    return value


def _time(fields: Fields, name: str) -> datetime:
    try:
        return datetime.fromtimestamp(_amount(fields, name), UTC)
    except (OverflowError, OSError, ValueError) as error:
        raise Malformed(f"{name} is not a time") from error


def _time_or_none(fields: Fields, name: str) -> datetime | None:
    return None if fields.get(name) is None else _time(fields, name)


def _mapping(fields: Fields, name: str) -> Fields:
    value = fields.get(name)
    return value if isinstance(value, Mapping) else {}


def _metadata(fields: Fields) -> Metadata:
    value = fields.get("metadata") or {}
    if not isinstance(value, Mapping):
        raise Malformed("metadata is not an object")
    return {_storable(str(name)): _storable(str(value)) for name, value in value.items()}


def _storable(text: str) -> str:
    """With a ? for what JSON can say and Postgres cannot keep: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "?").encode(errors="replace").decode()
