"""Invariants of one database as queries, and the sample that looks whether they hold.

Each service lists its own in invariants.py; `aishop audit` runs the same queries, and those that need two
databases or read whole chains (deploy/local/audit/).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.chassis import logs
from services.chassis.db import Database
from services.chassis.metrics import INVARIANT_VIOLATIONS
from services.chassis.sampling import Sampler

log = logs.get(__name__)

EVERY_SECONDS = 300.0
_SECOND_LOOK_SECONDS = 2.0
# They read whole tables: more than a worker may take, less than until the next time.
_STATEMENT_SECONDS = 60
_SHOWN = 100


@dataclass(frozen=True)
class Invariant:
    """A query that must return nothing. Its first column says where, the others what is there."""

    # docs/guarantees.md
    number: str
    what: str
    query: str


@dataclass(frozen=True)
class Broken:
    """A row that an invariant's query returned."""

    invariant: Invariant
    row: tuple[str, ...]


class Books:
    """Looks whether the invariants hold, in one process for each database: `is_ours` says whether it is
    this one. What is broken counts when a second look, a moment later, shows it again. Who has not looked
    tells nothing: 0 would say that all is well."""

    name = "invariants"
    every_seconds = EVERY_SECONDS

    def __init__(
        self,
        invariants: Sequence[Invariant],
        *,
        is_ours: Callable[[], bool],
        second_look_seconds: float = _SECOND_LOOK_SECONDS,
    ) -> None:
        self._invariants = invariants
        self._is_ours = is_ours
        self._second_look_seconds = second_look_seconds

    async def take(self, database: Database) -> None:
        if not self._is_ours():
            INVARIANT_VIOLATIONS.clear()
            return
        broken = await self._look(database)
        if broken:
            await asyncio.sleep(self._second_look_seconds)
            again = set(await self._look(database))
            broken = [each for each in broken if each in again]
        self._tell(broken)

    async def _look(self, database: Database) -> list[Broken]:
        return [broken for invariant in self._invariants for broken in await _violations(database, invariant)]

    def _tell(self, broken: Sequence[Broken]) -> None:
        counts = Counter(each.invariant.number for each in broken)
        for number in {invariant.number for invariant in self._invariants}:
            INVARIANT_VIOLATIONS.labels(number).set(counts[number])
        for each in broken:
            log.error(
                "invariant.broken",
                invariant=each.invariant.number,
                what=each.invariant.what,
                where=each.row[0],
            )


def watching(database: Database, invariants: Sequence[Invariant], *, is_ours: Callable[[], bool]) -> Sampler:
    """Looks now and then. Not at once: a process that is started over and over must not read whole tables
    each time."""
    return Sampler(database, [Books(invariants, is_ours=is_ours)], first_after_seconds=EVERY_SECONDS)


async def _violations(database: Database, invariant: Invariant) -> list[Broken]:
    async with database.worker_sql(deadline_seconds=_STATEMENT_SECONDS + 5) as connection:
        await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_SECONDS}s'".encode())
        rows = await connection.execute(
            f"SELECT * FROM ({invariant.query}) AS broken LIMIT {_SHOWN}".encode()
        )
        return [Broken(invariant, tuple(map(str, row))) for row in await rows.fetchall()]
