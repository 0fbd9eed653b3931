"""What an operator decides about a message that could not be handled."""

from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from protos.messaging.v1 import messaging_pb2
from protos.messaging.v1.messaging_pb2 import DEAD_LETTER_DECISION_DROP as DROP
from protos.messaging.v1.messaging_pb2 import DEAD_LETTER_DECISION_REDELIVER as REDELIVER
from services.chassis.consumer import Subscription
from services.chassis.db import Database
from services.chassis.dead_letters import DeadLetters
from services.chassis.errors import Conflict, DomainError, Invalid, NotFound, Rejected
from tests.integration.chassis.support import rows, write

_NONE = messaging_pb2.DEAD_LETTER_DECISION_UNSPECIFIED


async def take_effect(connection: AsyncConnection, event: StringValue) -> None:
    """As a handler that refuses what it cannot take, after it has begun."""
    statement = text("INSERT INTO effects (id, note) VALUES (uuidv7(), :note)")
    await connection.execute(statement, {"note": event.value})
    if event.value == "refused":
        raise Rejected("NO_SUCH_ORDER", "there is no such order")


@pytest.fixture(autouse=True)
def emptied(url: str) -> None:
    write(url, "TRUNCATE dead_letters, effects, audit_log")


@pytest.fixture
def letters(database: Database) -> DeadLetters:
    subscription = Subscription("T", "t.a.b", "test__thing", StringValue, take_effect)
    return DeadLetters(database, [subscription], after_commit=lambda: None)


def letter(url: str, payload: bytes, consumer: str = "test__thing") -> str:
    write(
        url,
        "INSERT INTO dead_letters (consumer, message_id, subject, payload, headers, error)"
        " VALUES (%s, %s, 't.a.b', %s, '{}', 'why')",
        *(consumer, str(uuid4()), payload),
    )
    [(found,)] = rows(url, "SELECT id::text FROM dead_letters ORDER BY id DESC LIMIT 1")
    return str(found)


async def decide(letters: DeadLetters, id: str, decision: Any) -> messaging_pb2.DeadLetter:
    request = messaging_pb2.DecideDeadLetterRequest(
        letter_id=id, actor="operator", reason="mended", decision=decision
    )
    return (await letters.DecideDeadLetter(request, None)).letter


async def listed(letters: DeadLetters) -> list[str]:
    answer = await letters.ListDeadLetters(messaging_pb2.ListDeadLettersRequest(limit=10), None)
    return [each.id for each in answer.letters]


async def test_a_letter_is_handled_after_all_once_and_audited(url: str, letters: DeadLetters) -> None:
    older = letter(url, b"garbage: \xff")
    id = letter(url, StringValue(value="late").SerializeToString())
    assert await listed(letters) == [id, older]
    assert (await decide(letters, id, REDELIVER)).decision == "redelivered"
    assert rows(url, "SELECT note FROM effects") == [("late",)]
    assert await listed(letters) == [older]
    for again in (REDELIVER, DROP):
        with pytest.raises(Conflict, match="redelivered already"):
            await decide(letters, id, again)
    assert rows(url, "SELECT note FROM effects") == [("late",)]
    audited = "SELECT action, subject, actor, reason, details->>'consumer' FROM audit_log"
    assert rows(url, audited) == [
        ("dead_letter.redelivered", id, "operator", "mended", "test__thing"),
    ]


@pytest.mark.parametrize(
    ("payload", "consumer", "why"),
    [
        (b"garbage: \xff", "test__thing", "still not be handled"),
        (StringValue(value="refused").SerializeToString(), "test__thing", "there is no such order"),
        (b"", "test__gone", "nobody listens as test__gone"),
    ],
)
async def test_what_can_still_not_be_handled_stays_as_it_was_until_it_is_dropped(
    url: str, letters: DeadLetters, payload: bytes, consumer: str, why: str
) -> None:
    id = letter(url, payload, consumer)
    with pytest.raises(DomainError, match=why) as refused:
        await decide(letters, id, REDELIVER)
    assert refused.value.reason == "DEAD_LETTER_REJECTED"
    assert await listed(letters) == [id]
    assert rows(url, "SELECT count(*) FROM effects") == rows(url, "SELECT count(*) FROM audit_log") == [(0,)]
    assert (await decide(letters, id, DROP)).decision == "dropped"
    assert await listed(letters) == []
    assert rows(url, "SELECT action FROM audit_log") == [("dead_letter.dropped",)]


async def test_a_decision_is_about_a_letter_and_is_one(url: str, letters: DeadLetters) -> None:
    with pytest.raises(NotFound, match="no such dead letter"):
        await decide(letters, str(uuid4()), DROP)
    with pytest.raises(Invalid, match="REDELIVER or DROP"):
        await decide(letters, letter(url, b""), _NONE)
