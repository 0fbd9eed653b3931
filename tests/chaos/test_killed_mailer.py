"""Orders is killed again and again while it sends mails: none comes twice, none that was sent is missing."""

import asyncio
from collections import Counter
from collections.abc import Callable

import httpx
import psycopg
import pytest

from deploy.local.ephemeral import RunningStack, pauses, running_stack, wait_until
from deploy.local.quiet import is_quiet
from tests.chaos.shopping import buy_points, insist, see
from tests.e2e.rest_client import Customer, sign_in, until

_CUSTOMERS = 8
_ORDERS_BETWEEN_KILLS = 30


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_no_mail_comes_twice_however_often_its_sender_is_killed(
    record_property: Callable[[str, object], None],
) -> None:
    kills = 20
    with running_stack() as stack:
        await _kill_while_customers_buy(stack, kills)
        wait_until(lambda: is_quiet(stack.file.database_urls), seconds=120, what="quiet")
        came, mails = _came(stack), _mails(stack)
    doubted = [name for name, is_sent in mails.items() if not is_sent]
    record_property(
        "proof",
        {
            "kills": kills,
            "mails": len(mails),
            "twice": sum(times - 1 for times in came.values()),
            "sent and not there": len({name for name, is_sent in mails.items() if is_sent} - set(came)),
            "in doubt": len(doubted),
            "of these not there": len(set(doubted) - set(came)),
        },
    )
    assert max(came.values()) == 1
    assert {name for name, is_sent in mails.items() if is_sent} <= set(came)
    assert len(mails) > kills * _ORDERS_BETWEEN_KILLS
    # What is sent at the moment of a kill: a round of four.
    assert len(doubted) <= 4 * kills


async def _kill_while_customers_buy(stack: RunningStack, kills: int) -> None:
    placed = 0

    async def buy() -> None:
        nonlocal placed
        async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as customer:
            product_id = (await see(customer, "/api/products"))["items"][0]["id"]
            while True:
                await _top_up(customer)
                body = {"paymentMethod": "points", "items": [{"productId": product_id, "quantity": 1}]}
                while (await insist(customer, "POST", "/api/checkout", body)).status_code == 201:
                    placed += 1

    customers = [asyncio.create_task(buy()) for _ in range(_CUSTOMERS)]
    try:
        for number in range(1, kills + 1):
            pause = pauses()
            while placed < number * _ORDERS_BETWEEN_KILLS:
                for customer in customers:
                    assert not customer.done(), customer.result()
                await asyncio.sleep(next(pause))
            pid = stack.file.pids["orders"]
            assert pid is not None
            stack.kill("orders")
            await asyncio.to_thread(stack.wait_restarted, "orders", pid)
    finally:
        for customer in customers:
            customer.cancel()
        await asyncio.wait(customers)


async def _top_up(customer: Customer) -> None:
    before = (await see(customer, "/api/profile"))["points"]
    await buy_points(customer, "pro")
    await until(lambda: see(customer, "/api/profile"), lambda profile: profile["points"] > before, seconds=60)


def _came(stack: RunningStack) -> Counter[str]:
    """How often each mail is in the mailbox, by customer since it lists a thousand at once."""
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        users = connection.execute("SELECT DISTINCT user_id FROM mails").fetchall()
    names: Counter[str] = Counter()
    for (user_id,) in users:
        to = {"to": f"{user_id}@example.com"}
        answer = httpx.get(f"{stack.file.mailbox_url}/api/messages", params=to, trust_env=False)
        names.update(mail["messageId"].strip("<>").partition("@")[0] for mail in answer.json()["items"])
    return names


def _mails(stack: RunningStack) -> dict[str, bool]:
    """Each mail, and whether it counts as sent."""
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        return dict(
            connection.execute("SELECT order_id || '.' || kind, sent_at IS NOT NULL FROM mails").fetchall()
        )
