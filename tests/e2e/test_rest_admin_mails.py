"""Mails in doubt over REST and by command, as operators decide about them."""

from collections import Counter
from typing import Any

import httpx
import psycopg

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import JSON, Customer, unknown_code, until
from tests.e2e.test_operator_commands import aishop
from tests.e2e.test_rest_admin_orders import bought
from tests.e2e.test_rest_operators import act, audited


async def in_doubt(stack: RunningStack, customer: Customer) -> str:
    """An order of whose two mails (one of the version before) no answer was kept, as a crash leaves them."""
    _, order_id = await bought(customer)
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        connection.execute(
            "INSERT INTO mails (order_id, kind, user_id) VALUES (%s, 'downloads', %s)",
            [order_id, customer.user_id],
        )
    await until(lambda: mails_of(stack, order_id), lambda mails: all(mails.values()))
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        connection.execute(
            "UPDATE mails SET sent_at = NULL, handed_at = now() - interval '3 min' WHERE order_id = %s",
            [order_id],
        )
    return order_id


async def mails_of(stack: RunningStack, order_id: str) -> dict[str, bool]:
    """The kinds of an order's mails, and whether they were sent."""
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        return dict(
            connection.execute(
                "SELECT kind, sent_at IS NOT NULL FROM mails WHERE order_id = %s", [order_id]
            ).fetchall()
        )


async def arrived(stack: RunningStack, customer: Customer) -> dict[str, int]:
    """How often each Message-ID is in the customer's mailbox."""
    async with httpx.AsyncClient(base_url=stack.file.mailbox_url, trust_env=False) as mailbox:
        to = {"to": f"{customer.user_id}@example.com"}
        found = (await mailbox.get("/api/messages", params=to)).json()["items"]
    return Counter(mail["messageId"].partition("@")[0] for mail in found)


async def test_a_mail_in_doubt_is_listed_and_sent_again_or_confirmed(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    order_id = await in_doubt(stack, customer)

    async def listed(**query: Any) -> list[JSON]:
        answer = await operator.http.get("/api/admin/mails", params={"limit": 100, **query})
        assert answer.status_code == 200, answer.text
        return [mail for mail in answer.json()["items"] if mail["orderId"] == order_id]

    assert [mail["kind"] for mail in await listed(status="in_doubt")] == ["downloads", "receipt"]
    assert [mail["status"] for mail in await listed()] == ["in_doubt", "in_doubt"]
    assert await listed(status="waiting") == []
    first = (await operator.http.get("/api/admin/mails", params={"limit": 1})).json()
    following = await operator.read(f"/api/admin/mails?limit=1&cursor={first['nextCursor']}")
    assert following["items"] != first["items"]

    mails = f"/api/admin/orders/{order_id}/mails"
    for odd in ("shipped", "null", "%00", "refund:1", "x" * 5000, "receipt%0a"):
        unknown = await act(operator, f"{mails}/{odd}/send-again")
        assert (unknown.status_code, unknown.json()["code"]) == (404, unknown_code(odd, "mail_not_found")), (
            odd
        )
    again = await act(operator, f"{mails}/receipt/send-again")
    assert (again.status_code, again.json()["kind"]) == (200, "receipt")
    twice = {f"<{order_id}.receipt": 2, f"<{order_id}.downloads": 1}
    await until(lambda: arrived(stack, customer), lambda mails: mails == twice)
    settled = await act(operator, f"{mails}/downloads/delivered")
    assert (settled.status_code, settled.json()["status"]) == (200, "sent")
    late = await act(operator, f"{mails}/downloads/send-again")
    assert (late.status_code, late.json()["code"], late.json()["currentStatus"]) == (
        *(409, "mail_not_in_doubt"),
        "sent",
    )
    assert audited(stack, "orders", operator) == [
        ("mail.sent_again", order_id, "a test"),
        ("mail.delivered", order_id, "a test"),
    ]


async def test_commands_list_and_settle_a_mail_in_doubt(stack: RunningStack, customer: Customer) -> None:
    order_id, data = await in_doubt(stack, customer), ("--data", str(stack.data))
    listed = await aishop("mails", "list", "--status", "in_doubt", "--limit", "500", *data)
    assert listed.out.count(order_id) == 2, listed
    for kind in ("receipt", "downloads"):
        settled = await aishop("mails", "delivered", order_id, kind, "--reason", "in the log", *data)
        assert settled.code == 0, settled
        assert " sent " in settled.out
