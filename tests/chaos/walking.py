"""SIGKILL at every boundary of a flow, then restart: each order ends, nothing stays held, one effect.

Every point fires once (FAILPOINTS_FIRED), so that one walk goes through all of them: a flow is run again and
again until each of its points has killed its process. Within 30 s of its answer an order must have ended, or
have a page to pay at (60 s where payments is killed: one order may then meet several crashes in a row, each
with a lease of 10 s to wait for). At the end the audit must find nothing.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import httpx
import psycopg

from deploy.local import audit
from deploy.local.ephemeral import RunningStack, wait_until
from deploy.local.quiet import is_quiet
from tests.chaos.shopping import buy_points, insist, see, settled
from tests.e2e.rest_client import JSON, Customer, pay, sign_in, until

_MAX_RUNS = 40
# What a dead process holds is free again soon.
_SHORT_LEASES = {
    "SAGA_LEASE_SECONDS": "2",
    "MAIL_LEASE_SECONDS": "4",
    "EVENT_LEASE_SECONDS": "2",
    "CONSUMER_ACK_WAIT_SECONDS": "2",
}

Flow = Callable[[Customer, str, float], Awaitable[None]]


async def walk(
    stack: RunningStack, fired: Path, part: str, points: tuple[str, ...], flow: Flow, seconds: float
) -> None:
    """Runs a flow until each of the points has killed the part; `fired` is a file that does not exist yet."""
    # Who buys may also refund.
    operator = {"app_metadata": {"role": "operator"}}
    async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret, **operator) as customer:
        await buy_points(customer, "premium")
        await _until(customer, "/api/profile", lambda profile: profile["points"] >= 550, 30)
        product_id = (await see(customer, "/api/products"))["items"][0]["id"]
        armed = {"FAILPOINTS": ",".join(f"{point}=kill" for point in points), "FAILPOINTS_FIRED": str(fired)}
        stack.restart(part, armed | _SHORT_LEASES)
        try:
            for _ in range(_MAX_RUNS):
                if _fired(fired) == set(points):
                    break
                await flow(customer, product_id, seconds)
                wait_until(lambda: is_quiet(stack.file.database_urls), seconds=seconds, what="quiet")
        finally:
            # Where all have fired, nothing is armed any more.
            if _fired(fired) != set(points):
                stack.restart(part, {"FAILPOINTS": "", "FAILPOINTS_FIRED": ""})
        assert _fired(fired) == set(points)
        profile = await see(customer, "/api/profile")
    assert profile["pointsHeld"] == 0
    assert _mails_that_came_twice_or_never(stack, customer.user_id) == []
    assert audit.audit(stack.file) == []


async def points_order(customer: Customer, product_id: str, seconds: float) -> None:
    order = await _place(customer, "points", product_id, quantity=1)
    assert (await settled(customer, order["orderId"], seconds=seconds))["status"] == "completed"


async def download(customer: Customer, product_id: str, seconds: float) -> None:
    """One picture, fetched until it arrives."""
    order = await _place(customer, "points", product_id, quantity=1)
    await settled(customer, order["orderId"], seconds=seconds)
    path = f"/api/orders/{order['orderId']}/downloads"
    [picture] = (await _until(customer, path, lambda page: bool(page["items"]), seconds))["items"]
    file = await insist(customer, "GET", picture["url"])
    assert (file.status_code, file.headers["Content-Type"]) == (200, "image/png")
    [after] = (await see(customer, path))["items"]
    # The gateway's own repetition of a call is counted once; the customer's is another download.
    assert picture["downloadsLeft"] - after["downloadsLeft"] in (1, 2)


async def refused_order(customer: Customer, product_id: str, seconds: float) -> None:
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


async def card_order(customer: Customer, product_id: str, seconds: float) -> None:
    order = await _place(customer, "stripe", product_id, quantity=1)
    await pay(await _page(customer, order["orderId"], seconds))
    assert (await settled(customer, order["orderId"], seconds=seconds))["status"] == "completed"


async def cancelled_order(customer: Customer, product_id: str, seconds: float) -> None:
    order = await _place(customer, "stripe", product_id, quantity=1)
    await _page(customer, order["orderId"], seconds)
    await insist(customer, "POST", f"/api/orders/{order['orderId']}/cancel")
    assert (await settled(customer, order["orderId"], seconds=seconds))["status"] == "cancelled"


async def refunded_points_order(customer: Customer, product_id: str, seconds: float) -> None:
    order = await _place(customer, "points", product_id, quantity=1)
    await settled(customer, order["orderId"], seconds=seconds)
    await _refund(customer, order["orderId"], seconds)


async def refunded_card_order(customer: Customer, product_id: str, seconds: float) -> None:
    order = await _place(customer, "stripe", product_id, quantity=1)
    await pay(await _page(customer, order["orderId"], seconds))
    await settled(customer, order["orderId"], seconds=seconds)
    await _refund(customer, order["orderId"], seconds)


async def _refund(customer: Customer, order_id: str, seconds: float) -> None:
    body = {"returnStock": True, "reason": "torn"}
    answer = await insist(customer, "POST", f"/api/admin/orders/{order_id}/refunds", body)
    assert answer.status_code == 201, answer.text
    await _until(
        customer, f"/api/orders/{order_id}", lambda order: bool(order["status"] == "refunded"), seconds
    )


async def points_purchase(customer: Customer, _: str, seconds: float) -> None:
    before = (await see(customer, "/api/profile"))["points"]
    await buy_points(customer, "basic")
    await _until(customer, "/api/profile", lambda profile: profile["points"] > before, seconds)


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


def _mails_that_came_twice_or_never(stack: RunningStack, user_id: UUID) -> list[str]:
    """Those that were handed and not marked as sent, which a crash did, may have come once or never."""
    to = {"to": f"{user_id}@example.com"}
    answer = httpx.get(f"{stack.file.mailbox_url}/api/messages", params=to, trust_env=False)
    came = [mail["messageId"].strip("<>").partition("@")[0] for mail in answer.json()["items"]]
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        sent = connection.execute(
            "SELECT order_id || '.' || replace(kind, ':', '.') FROM mails"
            " WHERE user_id = %s AND sent_at IS NOT NULL",
            (user_id,),
        ).fetchall()
    never = {name for (name,) in sent} - set(came)
    return [name for name in came if came.count(name) > 1] + sorted(never)


def _fired(file: Path) -> set[str]:
    return set(file.read_text().split()) if file.exists() else set()
