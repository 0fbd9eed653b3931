"""The states of a checkout, and what a session says of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

import pytest

from services.payments import rules, stripe_objects
from services.payments.errors import IllegalMove
from services.payments.rules import Checkout, Status
from services.payments.stripe_objects import Dispute, Malformed, Movement, Session

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHECKOUT = Checkout(
    id=UUID(int=1),
    user_id=UUID(int=2),
    status=Status.OPEN,
    version=2,
    order_id=None,
    package_id="premium",
    plan_id=None,
    points=550,
    amount_cents=3999,
    currency="usd",
    request=b"",
    attempt=1,
    attempt_until=NOW + rules.ATTEMPT_LIFETIME,
    expires_at=NOW + rules.CHECKOUT_LIFETIME,
    session_id="cs_1",
    url="https://pay",
    payment_intent_id=None,
    failure_reason=None,
    lease_token=None,
    lease_until=NOW,
    tries=0,
    created_at=NOW,
    read_at=NOW,
)
PAID = Session(
    id="cs_1",
    mode="payment",
    status="complete",
    payment_status="paid",
    amount_total=3999,
    currency="usd",
    url=None,
    payment_intent_id="pi_1",
    subscription_id=None,
    client_reference_id=str(UUID(int=1)),
    metadata=rules.metadata_of(CHECKOUT),
)
WIRE: dict[str, Any] = {
    "object": "checkout.session",
    "id": "cs_1",
    "mode": "payment",
    "status": "open",
    "payment_status": "unpaid",
    "url": "https://pay",
    "metadata": {},
}


def _final(news: tuple[Status, ...]) -> Status:
    state = Status.CREATING
    for target in news:
        state = target if rules.moves(state, target) else state
    return state


@pytest.mark.parametrize("others", [(Status.OPEN, Status.PROCESSING), (Status.EXPIRED, Status.OPEN)])
def test_news_of_a_paid_session_end_paid_in_any_order(others: tuple[Status, ...]) -> None:
    assert {_final(order) for order in permutations((*others, Status.PAID, Status.PAID))} == {Status.PAID}


def test_news_of_a_failed_delayed_payment_end_failed_in_any_order() -> None:
    news = (Status.OPEN, Status.PROCESSING, Status.FAILED)
    assert {_final(order) for order in permutations(news)} == {Status.FAILED}


def test_a_paid_checkout_never_moves_again() -> None:
    assert not any(rules.moves(Status.PAID, target) for target in Status if target is not Status.CREATING)


def test_nothing_leads_back_to_creating() -> None:
    with pytest.raises(IllegalMove):
        rules.moves(Status.OPEN, Status.CREATING)


@pytest.mark.parametrize(
    ("status", "payment_status", "failed", "expected"),
    [
        ("open", "unpaid", False, Status.OPEN),
        ("expired", "unpaid", False, Status.EXPIRED),
        ("complete", "unpaid", False, Status.PROCESSING),
        ("complete", "unpaid", True, Status.FAILED),
        ("complete", "paid", False, Status.PAID),
        ("complete", "paid", True, Status.PAID),
        ("complete", "no_payment_required", False, Status.PAID),
    ],
)
def test_a_session_stands_for_one_state(
    status: str, payment_status: str, failed: bool, expected: Status
) -> None:
    session = stripe_objects.parse_session(WIRE | {"status": status, "payment_status": payment_status})
    assert rules.news_of(session, payment_failed=failed) is expected


@pytest.mark.parametrize(
    "change",
    [
        {"object": "event"},
        {"id": None},
        {"id": 7},
        {"status": ""},
        {"amount_total": "3999"},
        {"amount_total": True},
        {"metadata": "x"},
        {"payment_intent": {"id": None}},
    ],
)
def test_a_malformed_session_is_named_as_such(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        stripe_objects.parse_session(WIRE | change)


@pytest.mark.parametrize("change", [{"status": "dancing"}, {"url": None}])
def test_a_session_of_no_known_state_is_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        rules.news_of(stripe_objects.parse_session(WIRE | change))


def test_an_expanded_payment_intent_is_its_id() -> None:
    assert stripe_objects.parse_session(WIRE | {"payment_intent": {"id": "pi_9"}}).payment_intent_id == "pi_9"


def test_a_paid_session_that_agrees_has_no_mismatch() -> None:
    assert rules.mismatch(CHECKOUT, rules.paid_by(PAID)) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount_total": 3998}, "amount_mismatch"),
        ({"amount_total": None}, "amount_mismatch"),
        ({"currency": "eur"}, "currency_mismatch"),
        ({"currency": None}, "currency_mismatch"),
        ({"mode": "subscription"}, "not_a_payment"),
        ({"payment_intent_id": None}, "not_a_payment"),
        ({"metadata": {}}, "metadata_mismatch"),
        ({"metadata": dict(PAID.metadata) | {"user_id": str(UUID(int=3))}}, "metadata_mismatch"),
        ({"metadata": dict(PAID.metadata) | {"points_amount": "5500"}}, "metadata_mismatch"),
    ],
)
def test_a_paid_session_that_differs_is_not_fulfilled(change: dict[str, Any], reason: str) -> None:
    assert rules.mismatch(CHECKOUT, rules.paid_by(replace(PAID, **change))) == reason


def test_a_second_payment_of_one_checkout_is_a_mismatch() -> None:
    paid = replace(CHECKOUT, status=Status.PAID, payment_intent_id="pi_0")
    assert rules.mismatch(paid, rules.paid_by(PAID)) == "second_payment"


def test_an_order_of_another_id_is_a_mismatch() -> None:
    order = replace(CHECKOUT, package_id=None, points=0, order_id=UUID(int=8))
    session = replace(PAID, metadata=rules.metadata_of(replace(order, order_id=UUID(int=9))))
    assert rules.mismatch(order, rules.paid_by(session)) == "metadata_mismatch"


@pytest.mark.parametrize(
    ("metadata", "ours"),
    [
        ({"checkout_id": "x"}, True),
        ({"shop": "ours"}, True),
        ({"user_id": "u", "points_amount": "5"}, False),
        ({"user_id": "u", "order_id": "o"}, False),
        ({"order_id": "somebody else's"}, False),
        ({}, False),
    ],
)
def test_our_sessions_are_known_by_their_metadata(metadata: dict[str, str], ours: bool) -> None:
    assert rules.bears_our_metadata(metadata) is ours


@pytest.mark.parametrize(
    ("metadata", "is_anothers"),
    [
        ({"shop": "ours"}, False),
        ({"shop": "theirs"}, True),
        ({"shop": ""}, True),
        ({"checkout_id": "x"}, False),
    ],
)
def test_another_shop_is_known_by_its_mark_alone(metadata: dict[str, str], is_anothers: bool) -> None:
    assert rules.is_of_another_shop(metadata, "ours") is is_anothers


def test_a_key_is_used_until_its_attempt_ends() -> None:
    last = replace(CHECKOUT, read_at=CHECKOUT.attempt_until - timedelta(seconds=1))
    assert rules.may_create(last)
    assert not rules.may_create(replace(CHECKOUT, read_at=CHECKOUT.attempt_until))


def test_no_attempt_begins_when_stripe_would_refuse_the_rest_of_the_lifetime() -> None:
    early = replace(CHECKOUT, read_at=NOW + timedelta(minutes=14))
    assert rules.may_try_anew(early)
    assert not rules.may_try_anew(replace(CHECKOUT, read_at=NOW + timedelta(minutes=14, seconds=1)))


def test_each_attempt_has_its_own_key() -> None:
    assert rules.creation_key(CHECKOUT) != rules.creation_key(replace(CHECKOUT, attempt=2))


def test_backoff_grows_to_its_limit() -> None:
    assert [rules.backoff_seconds(tries, longest=5) for tries in (0, 1, 2, 3, 4, 99)] == [1, 1, 2, 4, 5, 5]


@pytest.mark.parametrize(
    ("points", "paid", "back", "net"),
    [
        (550, 3999, 0, 550),
        (550, 3999, 3999, 0),
        # $3, then $7 more, of $10: exact in the end, floored on the way.
        (1000, 1000, 300, 700),
        (1000, 1000, 1000, 0),
        (100, 999, 1, 100),
        (100, 999, 10, 99),
        (100, 999, 998, 1),
        # Refunded and disputed at once: never more than was given.
        (550, 3999, 7998, 0),
    ],
)
def test_points_leave_in_proportion_to_the_money(points: int, paid: int, back: int, net: int) -> None:
    assert rules.net_points(points, paid, back) == net


def dispute(status: str, amount: int = 100) -> Dispute:
    return Dispute("du_1", "pi_1", amount, "usd", status, "fraudulent", NOW)


@pytest.mark.parametrize(
    ("statuses", "cents", "contest"),
    [
        ((), 0, "none"),
        (("warning_needs_response",), 0, "none"),
        (("warning_under_review",), 0, "none"),
        (("warning_closed",), 0, "none"),
        (("needs_response",), 100, "open"),
        (("under_review",), 100, "open"),
        (("won",), 0, "won"),
        (("lost",), 100, "lost"),
        (("won", "needs_response"), 100, "open"),
        (("lost", "needs_response"), 200, "open"),
        (("lost", "won"), 100, "lost"),
        # A status that is new to us moves nothing.
        (("prevented",), 0, "none"),
    ],
)
def test_disputes_take_what_the_bank_holds_or_kept(
    statuses: tuple[str, ...], cents: int, contest: str
) -> None:
    disputes = [dispute(status) for status in statuses]
    shares = [rules.share_of(each, amount_cents=500, currency="usd", settled=None) for each in disputes]
    assert sum(share.held_cents for share in shares) == cents
    assert rules.contest_of(disputes) == contest


@pytest.mark.parametrize(
    ("moved", "lost"),
    [
        ((), 499),
        ((-499,), 499),
        # Partly won: Stripe calls it lost, and gives a part back.
        ((-499, 200), 299),
        ((-499, 499), 0),
    ],
)
def test_a_lost_dispute_took_what_its_transactions_say(moved: tuple[int, ...], lost: int) -> None:
    ended = replace(dispute("lost", 499), movements=[Movement(amount, "usd") for amount in moved])
    share = rules.share_of(ended, amount_cents=2297, currency="usd", settled=None)
    assert (share.held_cents, share.lost_cents, share.share_cents) == (lost, lost, 499)


@pytest.mark.parametrize(
    ("moved", "settled", "held"),
    [
        # 2900 yen of 39.99 dollars: 18.50 of the 37.00 euros that it brought.
        ((Movement(-1850, "eur"),), Movement(3700, "eur"), 2000),
        ((Movement(-3700, "eur"),), Movement(3700, "eur"), 3999),
        # The rate has moved: never more than was paid.
        ((Movement(-3900, "eur"),), Movement(3700, "eur"), 3999),
        # Unknown, or not to be compared: the whole.
        ((), Movement(3700, "eur"), 3999),
        ((Movement(-1850, "eur"),), None, 3999),
        ((Movement(-1850, "gbp"),), Movement(3700, "eur"), 3999),
        ((Movement(-1850, "eur"),), Movement(0, "eur"), 3999),
    ],
)
def test_a_dispute_in_another_currency_counts_by_its_share_of_the_charge(
    moved: tuple[Movement, ...], settled: Movement | None, held: int
) -> None:
    in_yen = replace(dispute("needs_response", 2900), currency="jpy", movements=moved)
    share = rules.share_of(in_yen, amount_cents=3999, currency="usd", settled=settled)
    assert (share.held_cents, share.lost_cents) == (held, 0)


def test_a_dispute_in_another_currency_that_is_partly_won_takes_the_rest_of_its_share() -> None:
    moved = [Movement(-1850, "eur"), Movement(925, "eur")]
    ended = replace(dispute("lost", 2900), currency="jpy", movements=moved)
    share = rules.share_of(ended, amount_cents=3999, currency="usd", settled=Movement(3700, "eur"))
    assert (share.held_cents, share.lost_cents) == (1000, 1000)


HALF = replace(PAID, amount_total=1999, amount_subtotal=3999, amount_discount=2000)
FREE = replace(PAID, amount_total=0, amount_subtotal=3999, amount_discount=3999, payment_intent_id=None)


@pytest.mark.parametrize(
    ("session", "promotion_codes", "reason"),
    [
        (HALF, True, None),
        (HALF, False, "amount_mismatch"),
        (FREE, True, None),
        (FREE, False, "free_session"),
        (replace(FREE, payment_intent_id="pi_1"), True, "not_a_payment"),
        (replace(HALF, payment_intent_id=None), True, "not_a_payment"),
        # A discount that does not add up is none.
        (replace(HALF, amount_discount=1999), True, "amount_mismatch"),
        (replace(HALF, amount_subtotal=3998), True, "amount_mismatch"),
        (replace(HALF, amount_subtotal=None), True, "amount_mismatch"),
        (replace(PAID, amount_total=4999, amount_subtotal=3999), True, "amount_mismatch"),
        (replace(PAID, amount_total=4000, amount_subtotal=3999, amount_discount=-1), True, "amount_mismatch"),
        (replace(FREE, amount_subtotal=2000, amount_discount=2000), True, "free_session"),
        (replace(FREE, currency="eur"), True, "currency_mismatch"),
    ],
)
def test_a_discount_counts_on_a_page_that_takes_codes_and_adds_up(
    session: Session, promotion_codes: bool, reason: str | None
) -> None:
    checkout = replace(CHECKOUT, promotion_codes=promotion_codes)
    assert rules.mismatch(checkout, rules.paid_by(session)) == reason
