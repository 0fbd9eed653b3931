"""Domain errors of orders: one function each, so that reason and fields are spelled once."""

from collections.abc import Sequence
from uuid import UUID

from services.chassis.errors import Conflict, Invalid, NotFound, Rejected, Unavailable


class TooMuchHeld(Conflict):
    """A customer holds as much unpaid as one may. It passes: the request's key stands for nothing yet."""


def product_not_found(product_id: UUID) -> NotFound:
    return NotFound("PRODUCT_NOT_FOUND", "there is no such product", product_id=product_id)


def product_inactive(product_id: UUID) -> Rejected:
    return Rejected("PRODUCT_INACTIVE", "this product is no longer sold", product_id=product_id)


def price_below_minimum(*, price_cents: int, minimum: int) -> Rejected:
    return Rejected("PRICE_BELOW_MINIMUM", "Stripe charges no less", price_cents=price_cents, minimum=minimum)


def product_exists(product_id: UUID) -> Conflict:
    return Conflict("PRODUCT_EXISTS", "this product_id stands for another product", product_id=product_id)


def product_changed(version: int) -> Conflict:
    return Conflict("PRODUCT_CHANGED", "the product changed since it was read", version=version)


def invalid_asset_key() -> Invalid:
    return Invalid(
        "INVALID_FIELD",
        "asset_key must be names of letters, digits, '.', '_' and '-' between single slashes, none of which"
        " begins with '.' or '-'; a digital product has one",
        field="asset_key",
    )


def stock_reserved(*, reserved: int, stock: int) -> Rejected:
    return Rejected("STOCK_RESERVED", "fewer would be left than are reserved", reserved=reserved, stock=stock)


def stock_unlimited(product_id: UUID) -> Rejected:
    return Rejected("STOCK_UNLIMITED", "this product's stock is not counted", product_id=product_id)


def stock_movement_mismatch(movement_id: UUID) -> Conflict:
    return Conflict(
        "STOCK_MOVEMENT_MISMATCH", "this movement_id was used for another movement", movement_id=movement_id
    )


def not_for_points(product_id: UUID) -> Rejected:
    return Rejected("NOT_FOR_POINTS", "this product is sold for money only", product_id=product_id)


def out_of_stock(product_id: UUID, *, available: int, order_id: UUID) -> Rejected:
    return Rejected(
        "OUT_OF_STOCK",
        "fewer pieces are left than wanted",
        product_id=product_id,
        available=available,
        order_id=order_id,
    )


def insufficient_points(*, needed: int, available: int, order_id: UUID) -> Rejected:
    return Rejected(
        "INSUFFICIENT_POINTS",
        f"the order costs {needed} points, {available} are available",
        needed=needed,
        available=available,
        order_id=order_id,
    )


def cart_empty() -> Rejected:
    return Rejected("CART_EMPTY", "the cart is empty: put something in, or send items")


def cart_changed(version: int) -> Conflict:
    return Conflict("CART_CHANGED", "the cart changed since it was read", version=version)


def invalid_quantity(product_id: UUID, limit: int) -> Invalid:
    return Invalid(
        "INVALID_QUANTITY", f"quantity is 1 to {limit} pieces of one product", product_id=product_id
    )


def too_many_lines(limit: int) -> Invalid:
    return Invalid("TOO_MANY_LINES", f"at most {limit} different products at once")


def order_too_large(limit_cents: int) -> Invalid:
    return Invalid("ORDER_TOO_LARGE", "the order's total is too large", limit_cents=limit_cents)


def invalid_payment_method() -> Invalid:
    return Invalid("INVALID_PAYMENT_METHOD", "payment_method is stripe or points", field="payment_method")


def order_not_found(order_id: UUID | str) -> NotFound:
    return NotFound("ORDER_NOT_FOUND", "there is no such order", order_id=order_id)


def request_in_flight(order_id: UUID) -> Conflict:
    return Conflict(
        "REQUEST_IN_FLIGHT",
        "a request with this Idempotency-Key is still running; ask again in a moment",
        order_id=order_id,
    )


def too_many_open_orders(*, limit: int, opened: Sequence[UUID]) -> TooMuchHeld:
    return TooMuchHeld(
        "TOO_MANY_OPEN_ORDERS",
        f"{limit} orders by card wait for their payment: pay or cancel one",
        limit=limit,
        open_order_ids=_listed(opened),
    )


def too_many_pieces(
    product_id: UUID, *, limit: int, requested: int, reserved: int, opened: Sequence[UUID]
) -> TooMuchHeld:
    return TooMuchHeld(
        "TOO_MANY_PIECES",
        f"{limit} pieces of one product at most may wait for their payment by card",
        product_id=product_id,
        limit=limit,
        requested=requested,
        reserved=reserved,
        open_order_ids=_listed(opened),
    )


def too_many_failed_checkouts(*, limit: int) -> TooMuchHeld:
    return TooMuchHeld(
        "TOO_MANY_FAILED_CHECKOUTS",
        f"{limit} checkouts failed within a day, for want of points or stock",
        limit=limit,
    )


def _listed(ids: Sequence[UUID]) -> str:
    return " ".join(map(str, ids))


def checkout_in_progress(order_id: UUID) -> Conflict:
    return Conflict(
        "CHECKOUT_IN_PROGRESS", "this cart is being bought with another payment method", order_id=order_id
    )


def order_not_cancellable(order_id: UUID, status: str) -> Conflict:
    return Conflict(
        "ORDER_NOT_CANCELLABLE",
        f"the order is {status}; only an unpaid order can be cancelled",
        order_id=order_id,
        status=status,
    )


def illegal_transition(current: str, to: str) -> Conflict:
    return Conflict("ILLEGAL_TRANSITION", f"an order that is {current} cannot become {to}")


def not_in_order(product_id: UUID) -> Invalid:
    return Invalid("NOT_IN_ORDER", "the order has no line of this product", product_id=product_id)


def not_refundable(order_id: UUID, status: str) -> Rejected:
    return Rejected(
        "NOT_REFUNDABLE",
        f"the order is {status}; only what was paid can be given back",
        order_id=order_id,
        status=status,
    )


def refund_exceeds_order(*, requested: int, refundable: int) -> Rejected:
    return Rejected(
        "REFUND_EXCEEDS_ORDER", "more than is left of it", requested=requested, refundable=refundable
    )


def order_disputed(order_id: UUID) -> Conflict:
    return Conflict(
        "ORDER_DISPUTED", "the customer's bank decides about this payment: wait for it", order_id=order_id
    )


def refund_mismatch(refund_id: UUID) -> Conflict:
    return Conflict("REFUND_MISMATCH", "this refund_id was used for another refund", refund_id=refund_id)


def nothing_owed(*, requested: int, owed: int) -> Rejected:
    return Rejected(
        "NOTHING_OWED", "more than the customer is owed of this order", requested=requested, owed=owed
    )


def decision_mismatch(decision_id: UUID) -> Conflict:
    return Conflict(
        "DECISION_MISMATCH", "this decision_id was used for another decision", decision_id=decision_id
    )


def saga_not_found(order_id: UUID) -> NotFound:
    return NotFound("SAGA_NOT_FOUND", "the order has no such saga", order_id=order_id)


def saga_ended(status: str) -> Rejected:
    return Rejected("SAGA_ENDED", f"the run is {status}: there is nothing left to do", status=status)


def saga_waits(step: str) -> Rejected:
    return Rejected("SAGA_WAITS", f"the run waits at {step}, with nothing to try again", step=step)


def saga_past_pivot(step: str) -> Rejected:
    return Rejected(
        "SAGA_PAST_PIVOT", "the run can only go forward: retry it, or refund its order", step=step
    )


def mail_not_found(order_id: UUID) -> NotFound:
    return NotFound("MAIL_NOT_FOUND", "the order has no such mail", order_id=order_id)


def mail_not_in_doubt(status: str) -> Rejected:
    return Rejected("MAIL_NOT_IN_DOUBT", f"the mail is {status}: there is nothing to decide", status=status)


def points_not_captured_yet(order_id: UUID) -> Unavailable:
    return Unavailable("NOT_CAPTURED_YET", "the order's points are still to be spent", order_id=order_id)


def download_not_found() -> NotFound:
    return NotFound("DOWNLOAD_NOT_FOUND", "there is no such download")


def download_revoked() -> Rejected:
    return Rejected("DOWNLOAD_REVOKED", "what was paid for this picture went back")


def download_suspended() -> Rejected:
    return Rejected("DOWNLOAD_SUSPENDED", "the payment is disputed: the bank decides")


def download_expired() -> Rejected:
    return Rejected("DOWNLOAD_EXPIRED", "this link is no longer valid: ask for the order's downloads again")


def downloads_used_up() -> Rejected:
    return Rejected("DOWNLOADS_USED_UP", "the picture was downloaded as often as allowed")


def reissues_used_up() -> Rejected:
    return Rejected("REISSUES_USED_UP", "the download was renewed as often as allowed")


def file_unavailable() -> Unavailable:
    return Unavailable("FILE_UNAVAILABLE", "the file cannot be read right now; try again")


def nothing_to_ship(order_id: UUID) -> Rejected:
    return Rejected("NOTHING_TO_SHIP", "nothing of this order is waiting to be sent", order_id=order_id)
