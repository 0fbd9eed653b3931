"""A crash of orders at every boundary of its sagas: see walking.py."""

from pathlib import Path

import pytest

from deploy.local.ephemeral import RunningStack
from tests.chaos.walking import (
    Flow,
    cancelled_order,
    card_order,
    download,
    points_order,
    refunded_card_order,
    refunded_points_order,
    refused_order,
    walk,
)

PLACING = ("orders.place.writing", "orders.place.committed")
POINTS_ORDER = (
    *PLACING,
    "saga.reserve_points.calling",
    "saga.reserve_points.called",
    "saga.reserve_points.recorded",
    "saga.capture_points.called",
    "saga.capture_points.recorded",
    "relay.sent",
    "relay.acknowledged",
    "mail.handed",
    "mail.sent",
)
DOWNLOAD = ("orders.download.opened", "orders.download.writing", "orders.download.counted", "mail.claimed")
REFUSED_ORDER = ("orders.end.writing", "saga.reserve_points.refused")
CARD_ORDER = (
    *PLACING,
    "saga.open_checkout.calling",
    "saga.open_checkout.called",
    "orders.keep_session.writing",
    "saga.open_checkout.recorded",
    "consumer.orders__checkout.handled",
    "consumer.orders__checkout.committed",
    "mail.sent",
)
CANCELLED_ORDER = (
    "saga.undo.calling",
    "saga.undo.called",
    "orders.end.writing",
    "saga.undo.recorded",
)

REFUND = (
    "orders.refund.requesting",
    "orders.refund.requested",
    "saga.give_back.calling",
    "saga.give_back.called",
    "orders.refund.writing",
    "saga.give_back.recorded",
)
TOLD_OF_REFUND = (
    "consumer.orders__payment.handled",
    "consumer.orders__payment.committed",
    "consumer.orders__refund.handled",
    "consumer.orders__refund.committed",
)


@pytest.fixture(scope="module")
def stack(stack_to_harm: RunningStack) -> RunningStack:
    return stack_to_harm


@pytest.mark.parametrize(
    ("points", "flow"),
    [
        pytest.param(POINTS_ORDER, points_order, id="points-order"),
        pytest.param(DOWNLOAD, download, id="download"),
        pytest.param(REFUSED_ORDER, refused_order, id="refused-order"),
        pytest.param(CARD_ORDER, card_order, id="card-order"),
        pytest.param(CANCELLED_ORDER, cancelled_order, id="cancelled-order"),
        pytest.param(REFUND, refunded_points_order, id="refunded-points-order"),
        pytest.param(TOLD_OF_REFUND, refunded_card_order, id="refunded-card-order"),
    ],
)
@pytest.mark.timeout(300)
async def test_a_crash_of_orders_at_every_boundary_leaves_nothing_lost_doubled_or_stuck(
    stack: RunningStack, tmp_path: Path, points: tuple[str, ...], flow: Flow
) -> None:
    await walk(stack, tmp_path / "fired", "orders", points, flow, 30.0)
