"""Buckets of one process: what passes, what waits for how long, and how much they remember."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from services.chassis.rates import LocalBuckets, Rate, RateLimiter, RateSetting, Try

START_US = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.us = START_US

    def __call__(self) -> int:
        return self.us


@pytest.fixture
def clock() -> Clock:
    return Clock()


def passing(buckets: LocalBuckets, *tries: Try, most: int = 1_000) -> Iterator[None]:
    """The tries that pass in this very moment."""
    for _ in range(most):
        if buckets.take(tries):
            return
        yield


@pytest.mark.parametrize("rate", [Rate(1, 0.1), Rate(100, 3), Rate(300, 50), Rate(7, 100_000)], ids=str)
def test_exactly_the_burst_passes_at_once_and_then_one_each_interval(clock: Clock, rate: Rate) -> None:
    buckets, wanted = LocalBuckets(now_us=clock), Try("user:1", rate)
    assert len(list(passing(buckets, wanted))) == rate.burst
    wait_seconds = buckets.take([wanted])
    assert wait_seconds == pytest.approx(1 / rate.per_second)
    clock.us += rate.interval_us - 1
    assert buckets.take([wanted]) > 0
    clock.us += 1
    assert len(list(passing(buckets, wanted))) == 1


@given(st.lists(st.integers(0, 3_000_000), max_size=60))
def test_in_no_stretch_of_time_more_passes_than_the_rate_allows(pauses_us: list[int]) -> None:
    clock, rate = Clock(), Rate(5, 2)
    buckets = LocalBuckets(now_us=clock)
    passed_at: list[int] = []
    for pause_us in pauses_us:
        clock.us += pause_us
        passed_at += [clock.us] * len(list(passing(buckets, Try("a", rate))))
    for first, began in enumerate(passed_at):
        for last, ended in enumerate(passed_at[first:], first):
            assert last - first + 1 <= rate.burst + (ended - began) // rate.interval_us


def test_buckets_are_apart_and_a_refused_try_takes_from_none(clock: Clock) -> None:
    buckets = LocalBuckets(now_us=clock)
    wide, narrow = Try("user:1", Rate(3, 1)), Try("checkout:1", Rate(1, 1))
    assert len(list(passing(buckets, wide, narrow))) == 1
    # Two of the three are left: what the narrow one refused took nothing of the wide one.
    assert len(list(passing(buckets, wide))) == 2
    assert len(list(passing(buckets, Try("user:2", Rate(3, 1))))) == 3


def test_whoever_was_away_the_longest_is_forgotten_first(clock: Clock) -> None:
    buckets, rate = LocalBuckets(most=2, now_us=clock), Rate(2, 1)
    for name in ("a", "b", "a", "c"):
        assert buckets.take([Try(name, rate)]) == 0
    assert buckets.take([Try("a", rate)]) > 0
    assert len(list(passing(buckets, Try("b", rate)))) == 2, "forgotten: as if it was never here"


async def test_without_a_limit_nothing_is_counted() -> None:
    limiter = RateLimiter()
    assert [await limiter.wait_seconds() for _ in range(3)] == [0.0] * 3


class Limited(BaseSettings):
    rate: RateSetting


@pytest.mark.parametrize(
    ("text", "rate"),
    [("300, 50/s", Rate(300, 50)), (" 1,0.5/s ", Rate(1, 0.5)), ("off", None)],
)
def test_a_rate_reads_as_it_is_written(monkeypatch: pytest.MonkeyPatch, text: str, rate: Rate | None) -> None:
    monkeypatch.setenv("RATE", text)
    assert Limited().rate == rate


@pytest.mark.parametrize(
    "text", ["", "300", "300/s", "0, 5/s", "5, 0/s", "-1, 5/s", "5, 5/m", "1e3, 5/s", "on"]
)
def test_what_is_no_rate_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RATE", text)
    with pytest.raises(ValidationError, match="such as '300, 50/s'"):
        Limited()
