"""What payments tells its callers."""

from collections.abc import Sequence
from uuid import UUID

from services.chassis.errors import Conflict, Invalid, NotFound, OutcomeUnknown, Rejected, Unavailable

REQUEST_RETRY_SECONDS = 1
# docs.stripe.com/error-codes#email-invalid
EMAIL_INVALID = "email_invalid"


def package_not_found(package_id: str) -> NotFound:
    return NotFound("PACKAGE_NOT_FOUND", "there is no such points package", package_id=package_id)


def price_below_minimum(what: str, *, price_cents: int, minimum: int) -> Rejected:
    return Rejected(
        "PRICE_BELOW_MINIMUM",
        f"{what} costs {price_cents}, and Stripe charges no less than {minimum}",
        price_cents=price_cents,
        minimum=minimum,
    )


def price_changed(*, points: int, price_cents: int, currency: str) -> Conflict:
    return Conflict(
        "PRICE_CHANGED",
        "the package is not what the client believes",
        points=points,
        price_cents=price_cents,
        currency=currency,
    )


def request_in_flight() -> Conflict:
    return Conflict(
        "REQUEST_IN_FLIGHT",
        "the first request with this key is still running",
        retry_after_seconds=REQUEST_RETRY_SECONDS,
    )


def checkout_not_found() -> NotFound:
    return NotFound("CHECKOUT_NOT_FOUND", "there is no such checkout")


def checkout_mismatch(order_id: object) -> Conflict:
    return Conflict(
        "CHECKOUT_MISMATCH", "the order has a checkout that differs from this request", order_id=order_id
    )


def checkout_expired(order_id: object) -> Conflict:
    return Conflict("CHECKOUT_EXPIRED", "the checkout of this order has ended unpaid", order_id=order_id)


def checkout_creating() -> Unavailable:
    return Unavailable("CHECKOUT_CREATING", "the checkout is being opened at Stripe; try again")


def checkout_unconfirmed() -> Unavailable:
    return Unavailable("CHECKOUT_UNCONFIRMED", "Stripe has not confirmed the end of the checkout; try again")


def checkout_refused(reason: str) -> Rejected:
    return Rejected("CHECKOUT_REFUSED", "Stripe refused to open the checkout", stripe_code=reason)


def plan_not_found(plan_id: str) -> NotFound:
    return NotFound("PLAN_NOT_FOUND", "there is no such plan", plan_id=plan_id)


def too_many_open_checkouts(*, limit: int, opened: Sequence[UUID]) -> Conflict:
    return Conflict(
        "TOO_MANY_OPEN_CHECKOUTS",
        f"{limit} payment pages are open: pay at one, or wait until one ends",
        limit=limit,
        open_checkout_ids=" ".join(map(str, opened)),
    )


def subscription_exists(subscription_id: object) -> Conflict:
    return Conflict(
        "SUBSCRIPTION_EXISTS", "the user has a subscription of this plan", subscription_id=subscription_id
    )


def subscription_not_found() -> NotFound:
    return NotFound("SUBSCRIPTION_NOT_FOUND", "there is no such subscription")


def subscription_elsewhere(account_id: str) -> Conflict:
    return Conflict(
        "SUBSCRIPTION_ELSEWHERE",
        "the subscription belongs to an account of Stripe that the shop has left",
        account_id=account_id,
    )


def subscription_unconfirmed() -> Unavailable:
    return Unavailable("SUBSCRIPTION_UNCONFIRMED", "Stripe has not confirmed the cancellation; try again")


def payment_not_found() -> NotFound:
    return NotFound("PAYMENT_NOT_FOUND", "the order has no payment")


def payment_disputed() -> Conflict:
    return Conflict("PAYMENT_DISPUTED", "the bank decides about a disputed payment, not a refund")


def refund_exceeds_payment(*, requested: int, refundable: int) -> Rejected:
    return Rejected(
        "REFUND_EXCEEDS_PAYMENT",
        "more than is left of what was paid",
        requested=requested,
        refundable=refundable,
    )


def refund_mismatch(refund_id: object) -> Conflict:
    return Conflict("REFUND_MISMATCH", "this refund_id was used for another refund", refund_id=refund_id)


def refund_not_found() -> NotFound:
    return NotFound("REFUND_NOT_FOUND", "there is no such refund")


def stripe_event_not_found() -> NotFound:
    return NotFound("STRIPE_EVENT_NOT_FOUND", "no such event was received")


def stripe_event_settled(status: str) -> Conflict:
    return Conflict("STRIPE_EVENT_SETTLED", "the event was applied or is nothing of the shop", status=status)


def stripe_event_busy() -> Conflict:
    return Conflict("STRIPE_EVENT_BUSY", "the event is being handled right now")


def quarantine_not_found() -> NotFound:
    return NotFound("QUARANTINE_NOT_FOUND", "no such payment is in quarantine")


def quarantine_resolved(status: str) -> Conflict:
    return Conflict("QUARANTINE_RESOLVED", "the payment was settled the other way", status=status)


def cannot_fulfil(why: str) -> Rejected:
    return Rejected("CANNOT_FULFIL", f"this payment cannot be fulfilled: {why}; refund it", why=why)


def nothing_at_stripe(due: int) -> Conflict:
    return Conflict("NOTHING_AT_STRIPE", "nothing of it can be refunded at Stripe", due=due)


def settlement_exceeds_due(*, amount: int, due: int) -> Rejected:
    return Rejected("SETTLEMENT_EXCEEDS_DUE", "more than the customer is due", amount=amount, due=due)


def settlement_mismatch(*, amount: int, booked: int) -> Conflict:
    return Conflict(
        "SETTLEMENT_MISMATCH", "the reference was settled with another amount", amount=amount, booked=booked
    )


def reconciliation_not_found() -> NotFound:
    return NotFound("RECONCILIATION_NOT_FOUND", "there is no such reconciliation")


def invalid_field(field: str, expected: str) -> Invalid:
    return Invalid("INVALID_FIELD", f"{field} must be {expected}", field=field)


class IllegalMove(Conflict):
    """A checkout cannot go there from where it is."""

    def __init__(self, current: str, target: str) -> None:
        super().__init__("ILLEGAL_MOVE", f"a checkout does not go from {current} to {target}")


class LeaseLost(Conflict):
    """Someone else has taken the row over; what this worker did is rolled back."""

    def __init__(self) -> None:
        super().__init__("LEASE_LOST", "another worker holds the row")


class StripeUnknown(OutcomeUnknown):
    """The call may or may not have taken effect: only the same key or Stripe's listing can tell. `said` is
    Stripe's own message, `request_id` what its support asks for."""

    def __init__(self, why: str, *, said: str = "", request_id: str = "") -> None:
        super().__init__(
            "STRIPE_OUTCOME_UNKNOWN",
            _with_words(f"Stripe gave no definite answer: {why}", said, request_id),
            **_given(why=why, stripe_message=said, stripe_request_id=request_id),
        )


class StripeBusy(StripeUnknown):
    """409 (the key's first request still runs) or 429: the same key again after a short pause."""


class StripeKeySpent(StripeUnknown):
    """The key only gives its stored failure, or belongs to other parameters: the listing decides."""


class StripeMalformed(StripeUnknown):
    """An answer of a shape that we do not know: waiting does not mend it."""


class StripeRefused(Rejected):
    """A definite no: nothing was done."""

    def __init__(self, code: str, *, said: str = "", request_id: str = "") -> None:
        super().__init__(
            "STRIPE_REFUSED",
            _with_words(f"Stripe refused the request: {code}", said, request_id),
            **_given(code=code, stripe_message=said, stripe_request_id=request_id),
        )
        self.code = code


class StripeMissing(StripeRefused):
    """There is no such object, says the account whose key we use."""


def _with_words(message: str, said: str, request_id: str) -> str:
    message += f": {said}" if said else ""
    return message + (f" ({request_id})" if request_id else "")


def _given(**fields: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}
