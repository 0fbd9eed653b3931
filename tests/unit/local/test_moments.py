"""The times that operators type."""

from datetime import UTC, datetime

import pytest

from deploy.local.operator.options import moment_of

NOW = datetime(2026, 7, 4, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", "2026-07-04T12:28:30Z"),
        ("30m", "2026-07-04T12:00:00Z"),
        ("2h", "2026-07-04T10:30:00Z"),
        ("7d", "2026-06-27T12:30:00Z"),
        (" 1w ", "2026-06-27T12:30:00Z"),
        ("2026-07-01T10:00:00+02:00", "2026-07-01T08:00:00Z"),
        ("2026-07-01T10:00Z", "2026-07-01T10:00:00Z"),
    ],
)
def test_durations_count_back_and_times_are_taken_with_their_offset(text: str, moment: str) -> None:
    assert moment_of(text, now=NOW) == datetime.fromisoformat(moment)


def test_a_time_without_an_offset_is_this_machines() -> None:
    assert moment_of("2026-07-01", now=NOW) == datetime(2026, 7, 1).astimezone()


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2", "h", "-2h", "2 h", "2y", "٢h", "999999999w", "0001-01-01T00:00+14:00"]
)
def test_whatever_else_is_refused(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        moment_of(text, now=NOW)
