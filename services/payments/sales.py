"""Pure decisions about sales: a checkout, an order or an invoice that was paid, by 0 to n payments.

Amounts are all that a sale has; its points, its status and what an operator may still do follow from them
(docs/payments.md, "A sale is its amounts").
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from services.payments.rules import Checkout, Contest, Payment, net_points
from services.payments.stripe_objects import Invoice, InvoicePart

# What a subscription is billed for by itself; anything else was made by hand.
_RENEWALS = ("subscription_create", "subscription_cycle")


@dataclass(frozen=True, slots=True)
class PointsSale:
    """A sale that gives points: one fact about it tells wallet all."""

    # Under which wallet knows it: the checkout, the invoice, or a payment that an operator fulfilled.
    source_id: str
    user_id: UUID
    points: int
    paid_cents: int
    # Of all its payments together: refunded, held by the bank or lost to it.
    taken_back_cents: int
    version: int
    # The first of its payments; empty when Stripe has none.
    payment_intent_id: str
    of_subscription: bool

    @property
    def net_points(self) -> int:
        return net_points(self.points, self.paid_cents, self.taken_back_cents)


def sale_of_payment(payment: Payment) -> PointsSale:
    """A sale that has this payment and no other."""
    assert payment.grant_source, "it gives points"
    assert payment.user_id, "what was fulfilled has a user"
    return PointsSale(
        source_id=payment.grant_source,
        user_id=payment.user_id,
        points=payment.points,
        paid_cents=payment.amount_cents,
        taken_back_cents=payment.taken_back_cents,
        version=payment.version,
        payment_intent_id=payment.payment_intent_id,
        of_subscription=payment.invoice_id is not None,
    )


def free_sale(checkout: Checkout) -> PointsSale:
    """Points that promotion codes paid for in full: no payment, so that nothing ever goes back."""
    return PointsSale(
        source_id=str(checkout.id),
        user_id=checkout.user_id,
        points=checkout.points,
        paid_cents=0,
        taken_back_cents=0,
        version=checkout.version,
        payment_intent_id="",
        of_subscription=False,
    )


def gives_nothing(invoice: Invoice) -> bool:
    """Nothing was billed: a trial, or a change of plan that left the customer a credit."""
    return invoice.amount_paid <= 0 and invoice.total <= 0 and invoice.subtotal <= 0


def billed_cents(invoice: Invoice) -> int:
    """What was paid of a paid invoice, in whatever way: by card, by credit, outside of Stripe."""
    return max(invoice.total, invoice.amount_paid)


def invoice_mismatch(
    invoice: Invoice, parts: Sequence[InvoicePart], *, price_cents: int, currency: str
) -> str | None:
    """Why a paid invoice must not give the points of its subscription by itself. Credit is no payment: a
    change to a cheaper plan makes credit that pays later invoices while the first points stay."""
    if invoice.billing_reason not in _RENEWALS:
        return "unexpected_invoice"
    if any(each.lower() != currency for each in (invoice.currency, *(part.currency for part in parts))):
        return "currency_mismatch"
    if billed_cents(invoice) == 0:
        return "free_invoice"
    if billed_cents(invoice) != price_cents:
        return "amount_mismatch"
    if invoice.amount_paid < price_cents:
        return "paid_by_credit"
    by_intents = sum(part.amount_cents for part in parts if part.payment_intent_id)
    return None if by_intents == price_cents else "paid_outside"


def shows_all_parts(invoice: Invoice, parts: Iterable[InvoicePart]) -> bool:
    """Whether what is listed adds up to what Stripe says was paid through it."""
    at_stripe = invoice.amount_paid - invoice.amount_paid_off_stripe
    return sum(part.amount_cents for part in parts) >= at_stripe


@dataclass(frozen=True, slots=True)
class Due:
    """A sale in quarantine: what the customer is due, until it is all decided."""

    billed_cents: int
    payments: Sequence[Payment]
    settled_outside_cents: int = 0
    written_off_cents: int = 0

    @property
    def returned_cents(self) -> int:
        """Refunded, by whomever, or taken by the bank for good; no payment returns more than it brought."""
        return sum(min(each.amount_cents, each.refunded_cents + each.lost_cents) for each in self.payments)

    @property
    def due_cents(self) -> int:
        decided = self.settled_outside_cents + self.written_off_cents
        return max(0, self.billed_cents - self.returned_cents - decided)

    @property
    def is_contested(self) -> bool:
        """The bank decides first: what is left shows afterwards."""
        return any(each.dispute is Contest.OPEN for each in self.payments)

    @property
    def is_under_way(self) -> bool:
        """Refunds were asked for that Stripe has not confirmed."""
        return any(each.requested_cents > each.refunded_cents for each in self.payments)

    @property
    def status(self) -> str:
        """Where its amounts put it: what is not due any more is settled, by what settled it last."""
        if self.due_cents:
            return "refunding" if self.is_under_way else "parked"
        if self.written_off_cents:
            return "written_off"
        return "settled_outside" if self.settled_outside_cents else "refunded"

    def refunds(self) -> list[tuple[Payment, int]]:
        """What is asked back of which payment, to give back all that is due and still at Stripe."""
        left, wanted = self.due_cents, []
        for payment in self.payments:
            amount = min(left, payment.refundable_cents)
            if amount:
                wanted.append((payment, amount))
                left -= amount
        return wanted
