"""The one schedule: fast for seconds, slow for days, then an operator."""

import pytest

from services.chassis.backoff import DEFAULT, Phase, Schedule

both = pytest.mark.parametrize("schedule", [DEFAULT, Schedule(fast_tries=3, slow_tries=2)])


@both
def test_fast_tries_double_from_a_second(schedule: Schedule) -> None:
    assert [schedule.pause_after(tries).seconds for tries in (0, 1, 2)] == [1, 1, 2]
    assert not schedule.pause_after(schedule.fast_tries - 1).needs_operator


@both
def test_the_last_fast_failure_begins_the_slow_phase_and_the_operators_list(schedule: Schedule) -> None:
    first = schedule.pause_after(schedule.fast_tries)
    assert (first.phase, first.seconds, first.needs_operator) == (Phase.SLOW, 900, True)
    assert schedule.pause_after(schedule.fast_tries + 1).seconds == 1800


@both
def test_after_the_slow_tries_only_an_operator_helps(schedule: Schedule) -> None:
    tries = schedule.fast_tries + schedule.slow_tries
    assert schedule.pause_after(tries - 1).phase is Phase.SLOW
    assert schedule.pause_after(tries).phase is Phase.SPENT
    assert schedule.pause_after(10**9).phase is Phase.SPENT


@both
def test_the_pauses_never_shrink_within_a_phase_and_have_an_end(schedule: Schedule) -> None:
    pauses = [schedule.pause_after(tries) for tries in range(1, 100)]
    assert [pause.seconds for pause in pauses] == sorted(pause.seconds for pause in pauses)
    assert max(pause.seconds for pause in pauses) <= schedule.slow_longest_seconds


def test_the_schedule_takes_minutes_and_then_days() -> None:
    pauses = [DEFAULT.pause_after(tries) for tries in range(1, 100)]
    fast = sum(pause.seconds for pause in pauses if pause.phase is Phase.FAST)
    slow = sum(pause.seconds for pause in pauses if pause.phase is Phase.SLOW)
    assert 300 < fast < 900
    assert 3 * 86_400 < slow < 7 * 86_400
