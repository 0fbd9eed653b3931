"""The reader of queries that the tests of dashboards and alerts rest on."""

import pytest

from tests.support.promql import grouping_labels, selectors


@pytest.mark.parametrize(
    ("query", "named", "grouped"),
    [
        ("up == 0", {"up": set()}, set()),
        (
            'sum by (le, job) (rate(a_bucket{x="sum by (b)", y!~"z"}[5m])) > 1.5',
            {"a_bucket": {"x", "y"}},
            {"le", "job"},
        ),
        (
            "max(a) or time() - b offset 1d unless on (c) d > 2 * 3600",
            {"a": set(), "b": set(), "d": set()},
            {"c"},
        ),
        ("s:a:h / avg_over_time(s:a:h[1w] offset 1h)", {"s:a:h": set()}, set()),
        ('absent(up{job="a"})', {"up": {"job"}}, set()),
        ("rate(a[$__rate_interval])", {"a": set()}, set()),
    ],
)
def test_names_and_labels_are_read(query: str, named: dict[str, set[str]], grouped: set[str]) -> None:
    assert dict(selectors(query)) == named
    assert grouping_labels(query) == grouped
