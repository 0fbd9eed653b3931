"""SIGKILL at every boundary of both sagas, then restart: each order ends, nothing stays held, one effect.

Every point fires once (FAILPOINTS_FIRED), so that one walk goes through all of them: a flow is run again and
again until each of its points has killed its process. Within 30 s of its answer an order must have ended, or
have a page to pay at (60 s where payments is killed: one order may then meet several crashes in a row, each
with a lease of 10 s to wait for). At the end the audit must find nothing.
"""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from deploy.local import audit
from deploy.local.ephemeral import RunningStack, running_stack, wait_until
from deploy.local.quiet import is_quiet
from tests.chaos.shopping import buy_points, insist, see, settled
from tests.e2e.rest_client import JSON, Customer, pay, sign_in, until

_MAX_RUNS = 40

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
    "mail.sent",
)
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

Flow = Callable[[Customer, str, float], Awaitable[None]]


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with running_stack() as running:
        yield running


async def _points_order(customer: Customer, product_id: str, seconds: float) -> None:
    order = await _place(customer, "points", product_id, quantity=1)
    assert (await settled(customer, order["orderId"], seconds=seconds))["status"] == "completed"


async def _refused_order(customer: Customer, product_id: str, seconds: float) -> None:
    body = {"paymentMethod": "points", "items": [{"productId": product_id, "quantity": 900}]}
    answer = await insist(customer, "POST", "/api/checkout", body)
    order_id = answer.json()["orderId"]
    if answer.status_code == 201:
        # The answer was given before the reason was known.
        assert (await settled(customer, order_id, seconds=seconds))["status"] == "failed"
        return
    assert (answer.status_code, answer.json()["code"]) == (402, "insufficient_points")
    order = await settled(customer, order_id, seconds=seconds)
    assert (order["status"], order["failureReason"]) == ("failed", "insufficient_points")


async def _card_order(customer: Customer, product_id: str, seconds: float) -> None:
    order = await _place(customer, "stripe", product_id, quantity=1)
    await pay(await _page(customer, order["orderId"], seconds))
    assert (await settled(customer, order["orderId"], seconds=seconds))["status"] == "completed"


async def _cancelled_order(customer: Customer, product_id: str, seconds: float) -> None:
    order = await _place(customer, "stripe", product_id, quantity=1)
    await _page(customer, order["orderId"], seconds)
    await insist(customer, "POST", f"/api/orders/{order['orderId']}/cancel")
    assert (await settled(customer, order["orderId"], seconds=seconds))["status"] == "cancelled"


async def _points_purchase(customer: Customer, _: str, seconds: float) -> None:
    before = (await see(customer, "/api/profile"))["points"]
    await buy_points(customer, "basic")
    await _until(customer, "/api/profile", lambda profile: profile["points"] > before, seconds)


@pytest.mark.parametrize(
    ("part", "points", "flow", "seconds"),
    [
        pytest.param("orders", POINTS_ORDER, _points_order, 30.0, id="points-order"),
        pytest.param("orders", REFUSED_ORDER, _refused_order, 30.0, id="refused-order"),
        pytest.param("orders", CARD_ORDER, _card_order, 30.0, id="card-order"),
        pytest.param("orders", CANCELLED_ORDER, _cancelled_order, 30.0, id="cancelled-order"),
        pytest.param("wallet", WALLET[:4], _points_order, 30.0, id="wallet-under-an-order"),
        pytest.param("wallet", WALLET[4:], _points_purchase, 30.0, id="wallet-under-a-purchase"),
        pytest.param("payments", PAYMENTS, _points_purchase, 60.0, id="payments-under-a-purchase"),
        pytest.param("payments", PAYMENTS[:6], _card_order, 60.0, id="payments-under-a-card-order"),
    ],
)
@pytest.mark.timeout(300)
async def test_a_crash_at_every_boundary_leaves_nothing_lost_doubled_or_stuck(
    stack: RunningStack, tmp_path: Path, part: str, points: tuple[str, ...], flow: Flow, seconds: float
) -> None:
    fired = tmp_path / "fired"
    async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as customer:
        await buy_points(customer, "premium")
        await _until(customer, "/api/profile", lambda profile: profile["points"] >= 550, 30)
        product_id = (await see(customer, "/api/products"))["items"][0]["id"]
        stack.restart(
            part,
            {
                "FAILPOINTS": ",".join(f"{point}=kill" for point in points),
                "FAILPOINTS_FIRED": str(fired),
                "SAGA_LEASE_SECONDS": "2",
                "MAIL_LEASE_SECONDS": "4",
            },
        )
        try:
            for _ in range(_MAX_RUNS):
                if _fired(fired) == set(points):
                    break
                await flow(customer, product_id, seconds)
                wait_until(lambda: is_quiet(stack.file.database_urls), seconds=seconds, what="quiet")
        finally:
            stack.restart(part, {"FAILPOINTS": "", "FAILPOINTS_FIRED": ""})
        assert _fired(fired) == set(points)
        profile = await see(customer, "/api/profile")
    assert profile["pointsHeld"] == 0
    assert audit.audit(stack.file) == []


async def _place(customer: Customer, method: str, product_id: str, *, quantity: int) -> JSON:
    body = {"paymentMethod": method, "items": [{"productId": product_id, "quantity": quantity}]}
    answer = await insist(customer, "POST", "/api/checkout", body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def _page(customer: Customer, order_id: str, seconds: float) -> str:
    """An unpaid card order gets a session to pay at, whatever crashed while it was opened."""
    order = await _until(customer, f"/api/orders/{order_id}", lambda order: bool(order["url"]), seconds)
    return str(order["url"])


async def _until(customer: Customer, path: str, is_so: Callable[[JSON], bool], seconds: float) -> JSON:
    return await until(lambda: see(customer, path), is_so, seconds=seconds)


def _fired(file: Path) -> set[str]:
    return set(file.read_text().split()) if file.exists() else set()
