"""One look at every database, and what a look may find."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr

from services.chassis.connections import OPERATOR, connect_now
from services.chassis.invariants import Invariant

Row = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """A broken invariant. `where` names the row, `found` what stands there."""

    invariant: str
    what: str
    where: str
    found: str


@dataclass(frozen=True)
class Snapshots:
    """A read-only snapshot of each database."""

    connections: Mapping[str, psycopg.Connection[Row]]

    def rows(self, database: str, query: str) -> list[Row]:
        return self.connections[database].execute(query.encode()).fetchall()


Check = Callable[[Snapshots], Iterable[Finding]]


@dataclass(frozen=True)
class SqlCheck:
    """An invariant of one database by itself."""

    database: str
    invariant: Invariant

    @property
    def proves(self) -> tuple[str, ...]:
        return (self.invariant.number,)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        for row in databases.rows(self.database, self.invariant.query):
            (name, value), *others = row.items()
            found = ", ".join(f"{column} {content}" for column, content in others)
            yield Finding(self.invariant.number, self.invariant.what, f"{name} {value}", found)


@contextmanager
def snapshots(urls: Mapping[str, str]) -> Iterator[Snapshots]:
    """Opens a repeatable-read, read-only transaction in every database."""
    with ExitStack() as stack:
        yield Snapshots({name: stack.enter_context(_snapshot(url)) for name, url in urls.items()})


@contextmanager
def _snapshot(url: str) -> Iterator[psycopg.Connection[Row]]:
    with connect_now(SecretStr(url), OPERATOR, name="audit") as connection_:
        connection = cast("psycopg.Connection[Row]", connection_)
        connection.row_factory = dict_row
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield connection
