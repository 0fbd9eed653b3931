"""Pure decisions about refunds: what may be given back of which line, and where a refund may go. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from services.orders import errors
from services.orders.rules import Line, Method


class RefundStatus(StrEnum):
    REQUESTED = "requested"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


# Answers and facts come late and twice: what a refund has left behind changes nothing.
_MOVES: Mapping[RefundStatus, frozenset[RefundStatus]] = {
    RefundStatus.REQUESTED: frozenset({RefundStatus.PENDING, RefundStatus.SUCCEEDED, RefundStatus.FAILED}),
    RefundStatus.PENDING: frozenset({RefundStatus.SUCCEEDED, RefundStatus.FAILED}),
    # The customer's bank sent the money back.
    RefundStatus.SUCCEEDED: frozenset({RefundStatus.FAILED}),
    RefundStatus.FAILED: frozenset(),
}


def moves(current: RefundStatus, to: RefundStatus) -> bool:
    """Whether news of `to` changes a refund."""
    return to in _MOVES[current]


@dataclass(frozen=True, slots=True)
class RefundLine:
    """What a refund takes of one line. A points order has no cents, a card order no points."""

    product_id: UUID
    quantity: int
    cents: int
    points: int


def take_back(
    lines: Sequence[Line], method: Method, *, refundable: int, wanted: Mapping[UUID, int]
) -> tuple[RefundLine, ...]:
    """The lines of a refund: the wanted pieces, or all that is left when none are named.

    `refundable` (cents or points) is what is left of the whole order: less than its lines say when money went
    back in Stripe's dashboard. Raises NOT_IN_ORDER, REFUND_EXCEEDS_ORDER.
    """
    known = {line.product_id for line in lines}
    for product_id in wanted:
        if product_id not in known:
            raise errors.not_in_order(product_id)
    if not wanted:
        return _all_that_is_left(lines, method, refundable)
    taken = [_take(line, method, wanted[line.product_id]) for line in lines if line.product_id in wanted]
    requested = sum(part.cents + part.points for part in taken)
    if requested > refundable:
        raise errors.refund_exceeds_order(requested=requested, refundable=refundable)
    return tuple(taken)


def _all_that_is_left(lines: Sequence[Line], method: Method, refundable: int) -> tuple[RefundLine, ...]:
    """The last lines get less when the order has less left than its lines."""
    taken: list[RefundLine] = []
    left = refundable
    for line in lines:
        pieces = line.quantity - line.refunded_quantity
        amount = min(left, _paid(line, method) - _refunded(line, method))
        if pieces and amount:
            taken.append(_part(line, method, pieces, amount))
            left -= amount
    if not taken:
        raise errors.refund_exceeds_order(requested=sum(_paid(line, method) for line in lines), refundable=0)
    return tuple(taken)


def _take(line: Line, method: Method, quantity: int) -> RefundLine:
    amount = quantity * _price(line, method)
    left = _paid(line, method) - _refunded(line, method)
    if quantity > line.quantity - line.refunded_quantity or amount > left:
        raise errors.refund_exceeds_order(requested=amount, refundable=left)
    return _part(line, method, quantity, amount)


def _part(line: Line, method: Method, quantity: int, amount: int) -> RefundLine:
    by_card = method is Method.STRIPE
    return RefundLine(line.product_id, quantity, amount if by_card else 0, 0 if by_card else amount)


def _price(line: Line, method: Method) -> int:
    return line.price_cents if method is Method.STRIPE else line.price_points


def _paid(line: Line, method: Method) -> int:
    return _price(line, method) * line.quantity


def _refunded(line: Line, method: Method) -> int:
    return line.refunded_cents if method is Method.STRIPE else line.refunded_points
