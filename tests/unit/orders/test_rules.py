"""Decisions about orders, without any I/O."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Conflict, DomainError, Invalid, NotFound, Rejected
from services.orders import rules
from services.orders.rules import Method, Offer, Status

A, B = UUID(int=1), UUID(int=2)


def offer(product_id: UUID = A, **other: object) -> Offer:
    fields: dict[str, object] = {
        "product_id": product_id,
        "title": "Picture",
        "price_cents": 500,
        "price_points": 50,
        "currency": "usd",
        "active": True,
        "available": 10,
    }
    return Offer(**(fields | other))  # type: ignore[arg-type]


@pytest.mark.parametrize("current", list(Status))
@pytest.mark.parametrize("to", list(Status))
def test_only_the_moves_of_the_table_are_legal(current: Status, to: Status) -> None:
    if to in rules.TRANSITIONS[current]:
        rules.check_move(current, to)
    else:
        with pytest.raises(Conflict, match="cannot become"):
            rules.check_move(current, to)


def test_a_bank_alone_takes_back_what_is_refunded_and_failed_is_left_by_a_late_payment() -> None:
    assert rules.TRANSITIONS[Status.REFUNDED] == {Status.COMPLETED, Status.PROCESSING}
    assert rules.TRANSITIONS[Status.FAILED] == rules.TRANSITIONS[Status.CANCELLED] == {Status.PROCESSING}


@pytest.mark.parametrize("quantity", [0, -1, 1001, 2**31 - 1, -(2**31)])
def test_a_quantity_out_of_range_is_invalid(quantity: int) -> None:
    with pytest.raises(Invalid) as refused:
        rules.sum_quantities([(A, quantity)])
    assert refused.value.reason == "INVALID_QUANTITY"


def test_lines_of_one_product_are_summed_and_bounded_together() -> None:
    assert rules.sum_quantities([(A, 2), (B, 1), (A, 3)]) == {A: 5, B: 1}
    with pytest.raises(Invalid):
        rules.sum_quantities([(A, 600), (A, 600)])
    with pytest.raises(Invalid) as refused:
        rules.sum_quantities([(uuid4(), 1) for _ in range(101)])
    assert refused.value.reason == "TOO_MANY_LINES"


@given(
    st.dictionaries(
        st.uuids(), st.tuples(st.integers(1, 1000), st.integers(1, 99), st.integers(1, 999)), min_size=1
    ),
    st.sampled_from(list(Method)),
)
def test_a_total_is_the_sum_of_its_frozen_lines(
    wanted: dict[UUID, tuple[int, int, int]], method: Method
) -> None:
    offers = [
        offer(product_id, price_cents=cents, price_points=points)
        for product_id, (_, cents, points) in wanted.items()
    ]
    basket = rules.price({id: quantity for id, (quantity, _, _) in wanted.items()}, offers, method)
    cents = sum(line.price_cents * line.quantity for line in basket.lines)
    points = sum(line.price_points * line.quantity for line in basket.lines)
    expected = (cents, 0) if method is Method.STRIPE else (0, points)
    assert (basket.total_cents, basket.total_points) == expected
    assert [line.product_id for line in basket.lines] == sorted(wanted)


@pytest.mark.parametrize(
    ("offers", "method", "kind", "reason"),
    [
        ([], Method.POINTS, NotFound, "PRODUCT_NOT_FOUND"),
        ([offer(active=False)], Method.STRIPE, Rejected, "PRODUCT_INACTIVE"),
        ([offer(price_points=0)], Method.POINTS, Rejected, "NOT_FOR_POINTS"),
        ([offer(price_cents=rules.MAX_TOTAL_CENTS + 1)], Method.STRIPE, Invalid, "ORDER_TOO_LARGE"),
    ],
)
def test_what_cannot_be_bought_says_why(
    offers: list[Offer], method: Method, kind: type[DomainError], reason: str
) -> None:
    with pytest.raises(kind) as refused:
        rules.price({A: 1}, offers, method)
    assert refused.value.reason == reason


def test_a_picture_for_money_only_is_sold_by_card() -> None:
    assert rules.price({A: 1}, [offer(price_points=0)], Method.STRIPE).total_cents == 500


def test_stock_is_short_below_what_is_wanted_and_never_when_unlimited() -> None:
    assert rules.first_short({A: 10}, [offer()]) is None
    assert rules.first_short({A: 11}, [offer()]) == offer()
    assert rules.first_short({A: 1000}, [offer(available=None)]) is None


@given(
    paid=st.integers(0, 50),
    requested=st.integers(0, 50),
    refunded=st.integers(0, 50),
    disputed=st.integers(0, 50),
    lost=st.integers(0, 50),
    promised=st.integers(0, 50),
    settled=st.integers(0, 50),
    written_off=st.integers(0, 50),
)
def test_no_amount_is_given_twice(**amounts: int) -> None:
    """Whatever is told in whatever order: what may be refunded or is owed is still with the shop."""
    capped = {name: min(cents, amounts["paid"]) for name, cents in amounts.items()}
    money = rules.Money(**capped)
    back = max(money.requested, money.refunded)
    assert 0 <= money.refundable <= money.left <= money.paid
    assert 0 <= money.owed <= money.left
    assert money.refundable == max(0, money.paid - back - money.disputed - money.lost - money.settled)
    if money.is_gone:
        assert money.left == money.owed == 0
