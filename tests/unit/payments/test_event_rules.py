"""Which events are set aside by rule, and how event types are asked for."""

import pytest

from services.payments.errors import StripeMissing, StripeRefused, StripeUnknown
from services.payments.events import READERS, is_set_aside_by_rule
from services.payments.reconciliation import portions
from services.payments.stripe_client import MAX_EVENT_TYPES

MISSING = StripeMissing("resource_missing")


def test_in_test_mode_what_is_missing_is_set_aside_after_a_few_tries() -> None:
    tries = [is_set_aside_by_rule(MISSING, livemode=False, attempts=attempts) for attempts in range(1, 5)]
    assert tries == [False, False, True, True]


@pytest.mark.parametrize(
    ("error", "livemode"),
    [
        (MISSING, True),
        (StripeRefused("resource_missing_or_so"), False),
        (StripeUnknown("http_403"), False),
        (TimeoutError(), False),
    ],
)
def test_nothing_else_is_ever_set_aside_by_rule(error: Exception, livemode: bool) -> None:
    assert not is_set_aside_by_rule(error, livemode=livemode, attempts=1000)


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 40, 41])
def test_event_types_are_asked_for_in_portions_that_stripe_takes(count: int) -> None:
    types = [f"a.{number}" for number in range(count)]
    asked = portions(types)
    assert [each for portion in asked for each in portion] == types
    assert all(1 <= len(portion) <= MAX_EVENT_TYPES for portion in asked)


def test_every_type_that_is_handled_is_asked_for() -> None:
    assert {each for portion in portions(tuple(READERS)) for each in portion} == set(READERS)
