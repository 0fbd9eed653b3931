"""What is measured by asking the database: gauges, rows that came, invariants; and what fails."""

import time
from collections.abc import Iterator
from functools import partial
from uuid import uuid4

import psycopg
import pytest
from prometheus_client import REGISTRY, Gauge

from services.chassis.db import Database
from services.chassis.invariants import Books, Invariant
from services.chassis.sampling import MESSAGING, Reading, Row, Sampler, Tally
from tests.integration.chassis.support import eventually, write
from tests.support.metrics import value

_LETTER = """
    INSERT INTO dead_letters (consumer, message_id, subject, payload, headers, error)
    VALUES (%s, %s, 's', '', '{}', 'e')"""
_SINGLE = "INSERT INTO outbox (subject, payload) VALUES ('a', '')"
_RECENT = "SELECT id, subject FROM outbox WHERE id > %(after)s AND id <= %(until)s"


@pytest.fixture(autouse=True)
def emptied(url: str) -> None:
    write(url, "TRUNCATE outbox, dead_letters, effects")


def tally(counted: list[str], *, settled_seconds: float = 0.0) -> Tally:
    def count(row: Row) -> None:
        counted.append(row["subject"])

    return Tally("test", _RECENT, count, settled_seconds=settled_seconds)


async def test_a_reading_sets_gauges_and_what_is_gone_is_0(url: str, database: Database) -> None:
    outbox, _, letters = MESSAGING
    write(url, _LETTER, "a__b", "1")
    write(url, _LETTER, "c__d", "2")
    write(
        url, "INSERT INTO outbox (subject, payload, created_at) VALUES ('a', '', now() - interval '1 hour')"
    )
    for reading in MESSAGING:
        await reading.take(database)
    assert (value("aishop_dead_letters", consumer="a__b"), value("aishop_outbox_unsent")) == (1, 1)
    assert 3600 <= value("aishop_outbox_oldest_seconds") < 3700
    write(url, "DELETE FROM dead_letters WHERE consumer = 'c__d'")
    write(url, "UPDATE outbox SET sent_at = now()")
    for reading in (outbox, letters):
        await reading.take(database)
    assert (value("aishop_dead_letters", consumer="c__d"), value("aishop_outbox_unsent")) == (0, 0)
    assert value("aishop_outbox_oldest_seconds") == 0


async def test_what_was_never_read_is_not_told(database: Database) -> None:
    """A process that starts while its database is away knows nothing: 0 would say that nothing waits."""
    name = f"test_{uuid4().hex}"
    reading = Reading("new", "SELECT 3 AS waiting", {"waiting": Gauge(name, "What waits.")})
    assert REGISTRY.get_sample_value(name) is None
    for _ in range(2):
        await reading.take(database)
    assert REGISTRY.get_sample_value(name) == 3


async def test_a_huge_backlog_is_not_counted_to_its_end(url: str, database: Database) -> None:
    write(url, "INSERT INTO outbox (subject, payload) SELECT 'a', '' FROM generate_series(1, 10010)")
    await MESSAGING[0].take(database)
    assert value("aishop_outbox_unsent") == 10_000


async def test_rows_are_counted_once_and_not_those_from_before(url: str, database: Database) -> None:
    counted: list[str] = []
    counting = tally(counted)
    write(url, _SINGLE)
    await counting.take(database)
    assert counted == []
    # More than are read at once.
    write(url, "INSERT INTO outbox (subject, payload) SELECT g::text, '' FROM generate_series(1, 5003) g")
    for _ in range(2):
        await counting.take(database)
    assert sorted(map(int, counted)) == list(range(1, 5004))


async def test_a_row_that_is_committed_late_is_not_passed_over(url: str, database: Database) -> None:
    counted: list[str] = []
    counting = tally(counted, settled_seconds=0.5)
    await counting.take(database)
    with psycopg.connect(url) as slow:
        slow.execute(_SINGLE.encode())
        await counting.take(database)
    assert counted == []

    async def is_counted() -> bool:
        await counting.take(database)
        return bool(counted)

    await eventually(is_counted, "counted")
    await counting.take(database)
    assert counted == ["a"]


async def test_a_sample_that_fails_grows_old_beside_the_others(database: Database) -> None:
    broken = Reading("broken", "SELECT * FROM nowhere", {})
    fine = Reading("fine", "SELECT 1 AS one", {"one": Gauge(f"test_{uuid4().hex}", "One.")})
    sampler = Sampler(database, [broken, fine])
    taken_at = partial(value, "aishop_sampled_timestamp_seconds")
    begun = taken_at(sample="broken")
    assert time.time() - begun < 5
    for sample in (broken, fine):
        await sampler.take(sample)
    assert taken_at(sample="broken") == begun
    assert taken_at(sample="fine") > begun


@pytest.fixture
def bad_row(url: str) -> Iterator[None]:
    write(url, "INSERT INTO effects VALUES (%s, 'bad')", uuid4())
    yield
    write(url, "TRUNCATE effects")


NOTHING_BAD = Invariant("T1", "something is bad", "SELECT id AS effect, note FROM effects WHERE note = 'bad'")


async def test_what_breaks_an_invariant_is_counted_until_it_is_mended(
    url: str, database: Database, bad_row: None
) -> None:
    books = Books([NOTHING_BAD], is_ours=lambda: True, second_look_seconds=0)
    await books.take(database)
    assert value("aishop_invariant_violations", invariant="T1") == 1
    write(url, "TRUNCATE effects")
    await books.take(database)
    assert value("aishop_invariant_violations", invariant="T1") == 0


async def test_one_process_looks_and_forgets_when_another_takes_over(
    database: Database, bad_row: None
) -> None:
    ours = True
    books = Books([NOTHING_BAD], is_ours=lambda: ours, second_look_seconds=0)
    await books.take(database)
    assert value("aishop_invariant_violations", invariant="T1") == 1
    ours = False
    await books.take(database)
    assert value("aishop_invariant_violations", invariant="T1") == 0


async def test_what_a_second_look_does_not_show_again_is_no_finding(
    database: Database, bad_row: None
) -> None:
    """Another row breaks it at each look: none of them twice."""
    always_another = Invariant("T2", "another one each time", "SELECT uuidv7() AS one FROM effects")
    await Books([always_another], is_ours=lambda: True, second_look_seconds=0).take(database)
    assert value("aishop_invariant_violations", invariant="T2") == 0
