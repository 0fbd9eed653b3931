"""What the webhooks bench calls lost and double."""

import pytest

from bench.figures import percentile
from bench.purchases import Purchase
from bench.webhooks import Credit, judge, with_twins

PURCHASE = Purchase("c", 550, b"")
ONCE = Credit(550, 100.25)


@pytest.mark.parametrize(
    ("credits", "lost", "double"),
    [
        ({"c": [ONCE]}, 0, 0),
        ({}, 1, 0),
        ({"other": [ONCE]}, 1, 0),
        ({"c": [Credit(549, 100.25)]}, 1, 0),
        ({"c": [ONCE, ONCE]}, 0, 1),
        ({"c": [Credit(551, 100.25)]}, 0, 1),
        ({"c": [ONCE, Credit(-550, 101.0), Credit(550, 102.0)]}, 0, 1),
        ({"c": [ONCE, Credit(-550, 101.0)]}, 1, 1),
    ],
)
def test_a_purchase_is_whole_only_with_one_posting_of_its_points(
    credits: dict[str, list[Credit]], lost: int, double: int
) -> None:
    verdict = judge([PURCHASE], {"c": 100.0}, credits)
    assert (verdict.lost, verdict.double) == (lost, double)


def test_the_time_runs_from_the_first_delivery_to_the_first_credit() -> None:
    verdict = judge([PURCHASE], {"c": 100.0}, {"c": [Credit(550, 101.0), ONCE]})
    assert verdict.latencies_ms == [250]
    assert verdict.seconds == 0.25


def test_nothing_credited_is_no_speed_at_all() -> None:
    verdict = judge([PURCHASE], {"c": 100.0}, {})
    assert verdict.latencies_ms == []
    assert 1 / verdict.seconds == 0


def test_each_tenth_purchase_is_delivered_twice_side_by_side() -> None:
    purchases = [Purchase(str(number), 1, b"") for number in range(11)]
    told = [purchase.checkout_id for purchase in with_twins(purchases)]
    assert told == ["0", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "10"]


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (51, 100, 100)
