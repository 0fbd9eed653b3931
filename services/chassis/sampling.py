"""What can only be measured by asking: the database, or the broker. One task of the process asks in turn.

`Reading` sets gauges to what stands in the tables. `Tally` counts the rows that came into a table that only
grows, so that each is counted once, whichever code path wrote it, off the customer's path. A sample that
fails keeps its old value; when it was last taken is a metric of its own, so that a stale one is seen.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from prometheus_client import REGISTRY, Gauge
from psycopg.rows import dict_row

from services.chassis import logs, rounds
from services.chassis.db import Database
from services.chassis.metrics import DEAD_LETTERS, SAMPLED_AT
from services.chassis.outages import is_outage, lasting

log = logs.get(__name__)

# As often as Prometheus scrapes (deploy/observability/prometheus.yml).
TICK_SECONDS = 15.0
# Longer than a transaction lives: a row is written at most so long before its commit makes it visible.
_SETTLED_SECONDS = 15.0
_BATCH = 5_000

Row = Mapping[str, Any]


class Sample(Protocol):
    """Something to measure now and then."""

    @property
    def name(self) -> str:
        """How it is called in logs and metrics."""

    @property
    def every_seconds(self) -> float:
        """How often it is worth its price."""

    async def take(self, database: Database) -> None:
        """Measures it, with the worker login."""


class Sampler:
    """Takes samples; `run()` is a background task of the service."""

    def __init__(
        self, database: Database, samples: Sequence[Sample], *, first_after_seconds: float = 0.0
    ) -> None:
        self._database = database
        self._samples = samples
        self._first_after_seconds = first_after_seconds
        for sample in samples:
            # As if taken now: one that never works grows old, too.
            SAMPLED_AT.labels(sample.name).set(time.time())

    @lasting
    async def run(self) -> None:
        await asyncio.sleep(self._first_after_seconds)
        due = dict.fromkeys(range(len(self._samples)), 0.0)
        while True:
            for place, sample in enumerate(self._samples):
                if due[place] <= time.monotonic():
                    due[place] = time.monotonic() + sample.every_seconds
                    await self.take(sample)
            await asyncio.sleep(max(0.0, min(due.values()) - time.monotonic()))

    async def take(self, sample: Sample) -> None:
        try:
            longest = max(rounds.LONGEST_SECONDS, 2 * sample.every_seconds)
            with rounds.under_way(f"sample {sample.name}", longest_seconds=longest):
                await sample.take(self._database)
        except Exception as error:
            if is_outage(error):
                log.warning("metrics.sample_failed", sample=sample.name, error=repr(error))
            else:
                log.exception("metrics.sample_crashed", sample=sample.name)
        else:
            SAMPLED_AT.labels(sample.name).set(time.time())


@dataclass(frozen=True)
class Reading:
    """A query whose columns set gauges; its other columns are their labels. What it no longer returns is 0.

    It must be cheap: answered from an index that holds what is open, or from a small table.
    Until it was answered for the first time its gauges are not told at all: 0 would say that all is well.
    """

    name: str
    query: str
    gauges: Mapping[str, Gauge]
    every_seconds: float = TICK_SECONDS

    def __post_init__(self) -> None:
        for gauge in self.gauges.values():
            with suppress(KeyError):
                REGISTRY.unregister(gauge)

    async def take(self, database: Database) -> None:
        rows = await _rows(database, self.query)
        for gauge in self.gauges.values():
            # It is there already but for the first time.
            with suppress(ValueError):
                REGISTRY.register(gauge)
        for column, gauge in self.gauges.items():
            _set(gauge, [(self._labels(row), float(row[column] or 0)) for row in rows])

    def _labels(self, row: Row) -> dict[str, str]:
        return {column: str(value) for column, value in row.items() if column not in self.gauges}


class Tally:
    """Counts rows, each once, in the order of their ids.

    `query` returns what `count` needs of the rows with `id > %(after)s AND id <= %(until)s`; ids are of
    version 7, so that they rise with time. Rows from before the process began are not counted: a counter
    tells of changes. Neither is a row that is committed more than 15 s after its id was drawn, or whose id
    comes from a clock that is that much behind the database's.
    """

    every_seconds = TICK_SECONDS

    def __init__(
        self,
        name: str,
        query: str,
        count: Callable[[Row], None],
        *,
        settled_seconds: float = _SETTLED_SECONDS,
    ) -> None:
        self.name = name
        self._query = f"{query} ORDER BY id LIMIT {_BATCH}"
        self._count = count
        self._settled_seconds = settled_seconds
        self._after: UUID | None = None

    async def take(self, database: Database) -> None:
        [row] = await _rows(database, _SETTLED, {"seconds": self._settled_seconds})
        until: UUID = row["until"]
        if self._after is None:
            self._after = until
        while self._after < until:
            rows = await _rows(database, self._query, {"after": self._after, "until": until})
            for each in rows:
                self._count(each)
            self._after = rows[-1]["id"] if len(rows) == _BATCH else until


_SETTLED = "SELECT uuidv7(%(seconds)s * interval '-1 second') AS until"
# The backlog's index is as small as the backlog; of a huge one it is enough to know that it is.
MESSAGING: tuple[Reading, ...] = (
    Reading(
        "outbox",
        """
        SELECT (SELECT count(*) FROM (SELECT FROM outbox WHERE sent_at IS NULL LIMIT 10000) AS backlog)
                AS unsent,
            (SELECT extract(epoch FROM now() - created_at) FROM outbox WHERE sent_at IS NULL
                ORDER BY id LIMIT 1) AS oldest""",
        {
            "unsent": Gauge("aishop_outbox_unsent", "Facts that are yet to be published; 10,000 at most."),
            "oldest": Gauge(
                "aishop_outbox_oldest_seconds", "Age of the oldest fact that is yet to be published."
            ),
        },
    ),
    Reading(
        "relay",
        """
        SELECT extract(epoch FROM stream_lost_at) AS lost, (refill_after IS NOT NULL)::int AS filling
        FROM relay""",
        {
            "lost": Gauge(
                "aishop_stream_lost_timestamp_seconds",
                "When the broker was last found without the stream that was published into; 0: never.",
            ),
            "filling": Gauge(
                "aishop_stream_filling", "1 while facts of a lost stream are being published again."
            ),
        },
    ),
    Reading(
        "dead letters",
        """
        SELECT consumer, count(*) AS letters FROM dead_letters WHERE decision IS NULL GROUP BY consumer""",
        {"letters": DEAD_LETTERS},
    ),
)


async def _rows(database: Database, query: str, parameters: Row | None = None) -> list[dict[str, Any]]:
    async with database.worker_statement() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(query.encode(), parameters)).fetchall()


def _set(gauge: Gauge, values: Sequence[tuple[Mapping[str, str], float]]) -> None:
    [metric] = gauge.collect()
    told = [labels for labels, _ in values]
    gone = [sample.labels for sample in metric.samples if sample.labels not in told]
    for labels, value in [*values, *((labels, 0.0) for labels in gone)]:
        (gauge.labels(**labels) if labels else gauge).set(value)
