"""What payments tells its callers."""

from services.chassis.errors import Conflict, Invalid, NotFound, OutcomeUnknown, Rejected, Unavailable

REQUEST_RETRY_SECONDS = 1


def package_not_found(package_id: str) -> NotFound:
    return NotFound("PACKAGE_NOT_FOUND", "there is no such points package", package_id=package_id)


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
    """The call may or may not have taken effect: only the same key or Stripe's listing can tell."""

    def __init__(self, why: str) -> None:
        super().__init__("STRIPE_OUTCOME_UNKNOWN", "Stripe gave no definite answer; try again", why=why)


class StripeBusy(StripeUnknown):
    """409 (the key's first request still runs) or 429: the same key again after a short pause."""


class StripeKeySpent(StripeUnknown):
    """The key only gives its stored failure, or belongs to other parameters: the listing decides."""


class StripeRefused(Rejected):
    """A definite no: nothing was done."""

    def __init__(self, code: str) -> None:
        super().__init__("STRIPE_REFUSED", "Stripe refused the request", code=code)
        self.code = code
