"""What operators count over a range of time, as each service counts it in its own database.

A service writes one statement of one row, so that one snapshot is read and one timeout bounds all of it. It
takes :since (included), :until (not), :first_id and :end_id. Tables whose ids are version 7 need no index by
time: the primary key finds what was made from an hour before the range until an hour after it (the clocks of
processes and of the database may differ), and `created_at` decides.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import psycopg
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import TextClause, Uuid, bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.db import Database
from services.chassis.errors import Invalid, Overloaded
from services.chassis.ids import first_of

LONGEST_RANGE = timedelta(days=366)
# How far the clock that made an id may be from the database's.
_SKEW = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PATIENCE_SECONDS = 1.0


class Request(Protocol):
    """GetAnalyticsRequest of any service."""

    @property
    def since(self) -> Timestamp: ...

    @property
    def until(self) -> Timestamp: ...


@dataclass(frozen=True, slots=True)
class Range:
    """From `since` on, before `until`."""

    since: datetime
    until: datetime

    def parameters(self) -> Mapping[str, object]:
        return {
            "since": self.since,
            "until": self.until,
            "first_id": first_of(max(self.since - _SKEW, _EPOCH)),
            "end_id": first_of(self.until + _SKEW),
        }


def wanted(request: Request) -> Range:
    """Raises Invalid for what is no range, or a longer one than LONGEST_RANGE."""
    asked = Range(_moment(request.since, "since"), _moment(request.until, "until"))
    if not timedelta(0) < asked.until - asked.since <= LONGEST_RANGE:
        raise Invalid(
            "INVALID_FIELD", f"until must be after since, by {LONGEST_RANGE.days} days at most", field="until"
        )
    return asked


def _moment(stamp: Timestamp, field: str) -> datetime:
    try:
        moment = stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid("INVALID_FIELD", f"{field} must be a time", field=field) from error
    if not 1970 <= moment.year < 9999:
        raise Invalid("INVALID_FIELD", f"{field} must be a time from 1970 on", field=field)
    return moment


def statement(sql: str) -> TextClause:
    """A service's statement."""
    return text(sql).bindparams(bindparam("first_id", type_=Uuid), bindparam("end_id", type_=Uuid))


class Counting:
    """One range at a time: what may take seconds leaves the workers' connections to sagas and consumers,
    however many operators look."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[AsyncConnection]:
        """A worker's transaction. Raises Overloaded while another range takes long, and RANGE_TOO_LARGE when
        the statement timeout cancels this one."""
        await self._take_turn()
        try:
            async with self._database.worker() as connection:
                yield connection
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.errors.QueryCanceled):
                raise Invalid("RANGE_TOO_LARGE", "ask for a shorter range") from error
            raise
        finally:
            self._turn.release()

    async def _take_turn(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise Overloaded("OVERLOADED", "another range is being counted") from None
