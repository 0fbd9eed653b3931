"""What goes back of which line when an order was paid with less than its prices."""

from dataclasses import replace
from uuid import UUID

import pytest

from services.chassis.errors import Rejected
from services.orders.refund_rules import shares_of, take_back
from services.orders.rules import Line, Method

LINES = tuple(
    Line(UUID(int=number), f"Picture {number}", cents, 0, quantity)
    for number, (cents, quantity) in enumerate([(501, 3), (1, 1), (100, 7), (999, 2)], start=1)
)
TOTAL = sum(line.price_cents * line.quantity for line in LINES)


@pytest.mark.parametrize("paid", [1, 2, 17, TOTAL // 3, TOTAL // 2, TOTAL - 1, TOTAL])
def test_shares_are_what_was_paid_and_never_more_than_a_line_costs(paid: int) -> None:
    shares = shares_of(LINES, Method.STRIPE, paid)
    assert sum(shares.values()) == paid
    assert all(0 <= shares[line.product_id] <= line.price_cents * line.quantity for line in LINES)


@pytest.mark.parametrize("paid", [TOTAL // 3, TOTAL // 2, TOTAL - 1, TOTAL])
def test_piece_by_piece_and_then_the_rest_as_much_goes_back_as_was_paid(paid: int) -> None:
    lines, left = list(LINES), paid
    for number in (0, 2, 0, 3):
        wanted = {lines[number].product_id: 1}
        [part] = take_back(lines, Method.STRIPE, paid=paid, refundable=left, wanted=wanted)
        left -= part.cents
        lines[number] = replace(
            lines[number],
            refunded_quantity=lines[number].refunded_quantity + 1,
            refunded_cents=lines[number].refunded_cents + part.cents,
        )
    rest = take_back(lines, Method.STRIPE, paid=paid, refundable=left, wanted={})
    assert sum(part.cents for part in rest) == left
    # With what cost less than a cent.
    assert {part.product_id: part.quantity for part in rest} == {
        UUID(int=1): 1,
        UUID(int=2): 1,
        UUID(int=3): 6,
        UUID(int=4): 1,
    }


def test_of_a_piece_that_cost_nothing_nothing_goes_back() -> None:
    with pytest.raises(Rejected, match="more than is left"):
        take_back(LINES, Method.STRIPE, paid=17, refundable=17, wanted={UUID(int=2): 1})
