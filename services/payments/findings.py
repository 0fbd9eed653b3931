"""What was found out about money at Stripe, whoever brought the news; settled by commands/settlement.py."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from services.payments.stripe_objects import (
    Dispute,
    Intent,
    Invoice,
    InvoicePart,
    Movement,
    Refund,
    Session,
    Subscription,
)


@dataclass(frozen=True, slots=True)
class SessionFound:
    session: Session
    # A delayed payment that failed leaves the session as it was: only the event's type tells.
    payment_failed: bool = False


@dataclass(frozen=True, slots=True)
class IntentFound:
    intent: Intent


@dataclass(frozen=True, slots=True)
class DeclineFound:
    """Recorded only: the customer tries again in the same session."""

    intent: Intent


@dataclass(frozen=True, slots=True)
class RefundsFound:
    """All refunds of a payment, as listed at `observed_at` or later."""

    payment_intent_id: str
    refunds: Sequence[Refund]
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class DisputesFound:
    """All disputes of a payment, as listed at `observed_at` or later."""

    payment_intent_id: str
    disputes: Sequence[Dispute]
    observed_at: datetime
    # What the payment brought, asked for only when a dispute is in another currency; None when unknown.
    settled: Movement | None = None


@dataclass(frozen=True, slots=True)
class InvoiceFound:
    invoice: Invoice
    # What paid it, as listed at `observed_at` or later.
    parts: Sequence[InvoicePart]
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class SubscriptionFound:
    """The subscription as it was at `observed_at` or later."""

    subscription: Subscription
    observed_at: datetime


Finding = (
    SessionFound
    | IntentFound
    | DeclineFound
    | RefundsFound
    | DisputesFound
    | InvoiceFound
    | SubscriptionFound
)


class Settlement(Enum):
    APPLIED = auto()
    # Known already, or overtaken by something later.
    OLD_NEWS = auto()
    # The checkout has another session: this one should not be paid.
    OTHER_SESSION = auto()
    QUARANTINED = auto()
    # Nothing of this shop.
    NOT_OURS = auto()


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that changed, for the operator who asks what an event caused."""

    kind: str
    id: str
    change: str


@dataclass(frozen=True, slots=True)
class Outcome:
    settlement: Settlement
    effects: tuple[Effect, ...] = ()


OLD_NEWS = Outcome(Settlement.OLD_NEWS)
NOT_OURS = Outcome(Settlement.NOT_OURS)
OTHER_SESSION = Outcome(Settlement.OTHER_SESSION)


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several findings: as grave as the gravest, with all effects."""
    outcomes = tuple(outcomes)
    settlements = {outcome.settlement for outcome in outcomes}
    gravest = next(
        (settlement for settlement in _BY_GRAVITY if settlement in settlements), Settlement.NOT_OURS
    )
    return Outcome(gravest, tuple(effect for outcome in outcomes for effect in outcome.effects))


_BY_GRAVITY = (
    Settlement.QUARANTINED,
    Settlement.APPLIED,
    Settlement.OTHER_SESSION,
    Settlement.OLD_NEWS,
)
