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
    lines: Sequence[Line], method: Method, *, paid: int, refundable: int, wanted: Mapping[UUID, int]
) -> tuple[RefundLine, ...]:
    """The lines of a refund: the wanted pieces, or all that is left when none are named.

    `paid` (cents or points) is what was paid for all of them: less than their prices when promotion codes
    took something off. `refundable` is what is left of the whole order: less than its lines say when money
    went back in Stripe's dashboard. Raises NOT_IN_ORDER, REFUND_EXCEEDS_ORDER.
    """
    known = {line.product_id for line in lines}
    for product_id in wanted:
        if product_id not in known:
            raise errors.not_in_order(product_id)
    shares = shares_of(lines, method, paid)
    if not wanted:
        return _all_that_is_left(lines, method, shares, refundable)
    taken = [
        _take(line, method, shares[line.product_id], wanted[line.product_id])
        for line in lines
        if line.product_id in wanted
    ]
    requested = sum(part.cents + part.points for part in taken)
    # Of a piece that cost less than a cent nothing can go back.
    if requested > refundable or requested == 0:
        raise errors.refund_exceeds_order(requested=requested, refundable=refundable)
    return tuple(taken)


def shares_of(lines: Sequence[Line], method: Method, paid: int) -> Mapping[UUID, int]:
    """What was paid for each line, in proportion to its price: whole cents or points, and together exactly
    what was paid, since each share is a step between two sums that are rounded down."""
    total = sum(_price(line, method) * line.quantity for line in lines)
    shares: dict[UUID, int] = {}
    before = 0
    for line in lines:
        after = before + _price(line, method) * line.quantity
        shares[line.product_id] = paid * after // total - paid * before // total
        before = after
    return shares


def _all_that_is_left(
    lines: Sequence[Line], method: Method, shares: Mapping[UUID, int], refundable: int
) -> tuple[RefundLine, ...]:
    """The last lines get less when the order has less left than its lines."""
    taken: list[RefundLine] = []
    left = refundable
    for line in lines:
        pieces = line.quantity - line.refunded_quantity
        amount = min(left, shares[line.product_id] - _refunded(line, method))
        # With what cost less than a cent: it goes back with the rest.
        if pieces and (amount or not shares[line.product_id]):
            taken.append(_part(line, method, pieces, amount))
            left -= amount
    if left == refundable:
        raise errors.refund_exceeds_order(requested=sum(shares.values()), refundable=0)
    return tuple(taken)


def _take(line: Line, method: Method, share: int, quantity: int) -> RefundLine:
    left = share - _refunded(line, method)
    pieces_left = line.quantity - line.refunded_quantity
    if quantity > pieces_left:
        raise errors.refund_exceeds_order(requested=share * quantity // line.quantity, refundable=left)
    # The last piece takes what rounding has left.
    amount = left if quantity == pieces_left else min(left, share * quantity // line.quantity)
    return _part(line, method, quantity, amount)


def _part(line: Line, method: Method, quantity: int, amount: int) -> RefundLine:
    by_card = method is Method.STRIPE
    return RefundLine(line.product_id, quantity, amount if by_card else 0, 0 if by_card else amount)


def _price(line: Line, method: Method) -> int:
    return line.price_cents if method is Method.STRIPE else line.price_points


def _refunded(line: Line, method: Method) -> int:
    return line.refunded_cents if method is Method.STRIPE else line.refunded_points
