"""Dead letters over REST and by command, as operators decide about them."""

from uuid import uuid4

import psycopg

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import Customer
from tests.e2e.test_operator_commands import aishop
from tests.e2e.test_rest_operators import act, audited

_PATH = "/api/admin/dead-letters"


def letter(stack: RunningStack, database: str, consumer: str, payload: bytes) -> str:
    with psycopg.connect(stack.file.database_urls[database]) as connection:
        row = connection.execute(
            "INSERT INTO dead_letters (consumer, message_id, subject, payload, headers, error)"
            " VALUES (%s, %s, 'payments.a.b', %s, '{}', 'for this test') RETURNING id",
            (consumer, str(uuid4()), payload),
        ).fetchone()
    assert row is not None
    return str(row[0])


def heard_already(stack: RunningStack) -> bytes:
    """A fact about points that wallet knows: once more it changes nothing."""
    with psycopg.connect(stack.file.database_urls["payments"]) as connection:
        query = "SELECT payload FROM outbox WHERE subject = 'payments.points.grant_changed' LIMIT 1"
        row = connection.execute(query).fetchone()
    assert row is not None
    return bytes(row[0])


async def test_a_dead_letter_is_listed_redelivered_or_dropped(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    await customer.top_up()
    mended = letter(stack, "wallet", "wallet__grant", heard_already(stack))
    hopeless = letter(stack, "orders", "orders__payment", b"garbage: \xff")
    by_command = letter(stack, "orders", "orders__payment", b"")
    page = await operator.read(f"{_PATH}?limit=2")
    assert [(each["service"], each["id"]) for each in page["items"]] == [
        ("orders", by_command),
        ("orders", hopeless),
    ]
    following = await operator.read(f"{_PATH}?limit=2&cursor={page['nextCursor']}")
    assert (following["items"][0]["service"], following["items"][0]["id"]) == ("wallet", mended)

    done = await act(operator, f"{_PATH}/wallet/{mended}/redeliver")
    assert done.status_code == 200, done.text
    assert done.json()["decision"] == "redelivered"
    refused = await act(operator, f"{_PATH}/orders/{hopeless}/redeliver")
    assert (refused.status_code, refused.json()["code"]) == (409, "dead_letter_rejected")
    assert (await act(operator, f"{_PATH}/orders/{hopeless}/drop")).status_code == 200
    again = await act(operator, f"{_PATH}/orders/{hopeless}/drop")
    assert (again.status_code, again.json()["code"]) == (409, "dead_letter_decided")
    unknown = await act(operator, f"{_PATH}/wallet/{uuid4()}/drop")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "dead_letter_not_found")
    nowhere = await act(operator, f"{_PATH}/payments/{uuid4()}/drop")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "dead_letter_not_found")
    assert (await customer.http.get(_PATH)).status_code == 403

    data = str(stack.data)
    assert by_command in (await aishop("dead-letters", "list", "--data", data)).out
    dropped = await aishop(
        *("dead-letters", "drop", "orders", by_command, "--reason", "a test of ours", "--data", data)
    )
    assert dropped.code == 0, dropped.err
    assert audited(stack, "orders", operator) == [("dead_letter.dropped", hopeless, "a test")]
    assert audited(stack, "wallet", operator) == [("dead_letter.redelivered", mended, "a test")]
