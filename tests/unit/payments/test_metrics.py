"""How calls to Stripe are told apart."""

import pytest

from services.payments import metrics
from services.payments.errors import StripeBusy, StripeKeySpent, StripeRefused, StripeUnknown
from tests.support.metrics import value


def timed_out() -> StripeUnknown:
    error = StripeUnknown("timeout")
    error.__cause__ = TimeoutError()
    return error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StripeRefused("card_declined"), "refused"),
        (StripeBusy("http_429"), "busy"),
        (StripeKeySpent("a stored failure"), "key_spent"),
        (timed_out(), "timeout"),
        (StripeUnknown("http_500"), "failed"),
        (KeyError("a defect"), "failed"),
        (None, "ok"),
    ],
    ids=["refused", "busy", "key_spent", "timeout", "http_500", "defect", "ok"],
)
def test_a_call_is_measured_by_how_it_ends(error: Exception | None, outcome: str) -> None:
    def call() -> None:
        with metrics.calling_stripe("create_session"):
            if error:
                raise error

    def count() -> float:
        name = "aishop_payments_stripe_call_duration_seconds_count"
        return value(name, call="create_session", outcome=outcome)

    before = count()
    if error is None:
        call()
    else:
        with pytest.raises(type(error)):
            call()
    assert count() == before + 1
