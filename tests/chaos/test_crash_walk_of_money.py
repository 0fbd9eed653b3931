"""A crash of wallet or payments at every boundary of an order and of a purchase: see walking.py."""

from pathlib import Path

import pytest

from deploy.local.ephemeral import RunningStack
from tests.chaos.walking import (
    Flow,
    card_order,
    points_order,
    points_purchase,
    refunded_card_order,
    refunded_points_order,
    walk,
)

WALLET = (
    "wallet.reserved.writing",
    "wallet.reserved.committed",
    "wallet.captured.writing",
    "wallet.captured.committed",
    "consumer.wallet__grant.handled",
    "consumer.wallet__grant.committed",
)
PAYMENTS = (
    "payments.checkout.written",
    "payments.stripe.session_created",
    "payments.checkout.opened",
    "payments.event.received",
    "payments.event.applied",
    "payments.event.committed",
    "relay.sent",
    "relay.acknowledged",
)
# With no session, with one that we have not written down, and with a payment that we have.
UNDER_A_CARD_ORDER = (
    "payments.checkout.written",
    "payments.stripe.session_created",
    "payments.event.applied",
)

WALLET_REFUND = ("wallet.refunded.writing", "wallet.refunded.committed")
PAYMENTS_REFUND = (
    "payments.refund.written",
    "payments.stripe.refund_created",
    "payments.refund.recorded",
)


@pytest.fixture(scope="module")
def stack(stack_to_harm: RunningStack) -> RunningStack:
    return stack_to_harm


@pytest.mark.parametrize(
    ("part", "points", "flow", "seconds"),
    [
        pytest.param("wallet", WALLET[:4], points_order, 30.0, id="wallet-under-an-order"),
        pytest.param("wallet", WALLET[4:], points_purchase, 30.0, id="wallet-under-a-purchase"),
        pytest.param("payments", PAYMENTS, points_purchase, 60.0, id="payments-under-a-purchase"),
        # The same points lie under a purchase of points: of each kind one, and all in `make chaos`.
        pytest.param("payments", UNDER_A_CARD_ORDER, card_order, 60.0, id="payments-under-a-card-order"),
        pytest.param(
            *("payments", PAYMENTS[:6], card_order, 60.0),
            id="payments-under-a-card-order-everywhere",
            marks=pytest.mark.long,
        ),
        pytest.param("wallet", WALLET_REFUND, refunded_points_order, 30.0, id="wallet-under-a-refund"),
        pytest.param("payments", PAYMENTS_REFUND, refunded_card_order, 60.0, id="payments-under-a-refund"),
    ],
)
@pytest.mark.timeout(300)
async def test_a_crash_of_whoever_keeps_the_money_leaves_nothing_lost_doubled_or_stuck(
    stack: RunningStack, tmp_path: Path, part: str, points: tuple[str, ...], flow: Flow, seconds: float
) -> None:
    await walk(stack, tmp_path / "fired", part, points, flow, seconds)
