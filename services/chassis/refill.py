"""Fills a stream that the broker has lost, from the outbox, while fresh facts go on.

The row `relay` remembers when the stream was made into which the outbox was published. A broker that has
another one has lost it: with its disk, or with a volume that somebody removed, whether or not we ran. The
leader says so, and makes the facts of the stream's age unsent again, a few at a time, so that fresh ones wait
for few old ones. How far it is stands in the row, for whoever leads next. Consumers know what they have had
by their inbox, which is kept for ever, as the outbox is: no login of ours may delete from either.
"""

import time

from services.chassis import logs
from services.chassis.bus import STREAM_DAYS, Bus
from services.chassis.leadership import Connection, Leadership

log = logs.get(__name__)

# A thousand a second: a consumer drops what it knows faster than that.
_BATCH = 500
_PAUSE_SECONDS = 0.5

# Of a database that remembers no stream the oldest fact tells: was it sent before this stream was made?
_COMPARE = f"""
    WITH found AS (
        SELECT coalesce((
            SELECT relay.stream_created_at IS NOT NULL OR sent_at < %(made_at)s
            FROM outbox WHERE id > uuidv7(interval '-{STREAM_DAYS} days') AND sent_at IS NOT NULL
            ORDER BY id LIMIT 1), false) AS is_lost
        FROM relay)
    UPDATE relay SET stream_created_at = %(made_at)s,
        stream_lost_at = CASE WHEN is_lost THEN now() ELSE stream_lost_at END,
        refill_after = CASE WHEN is_lost THEN uuidv7(interval '-{STREAM_DAYS} days') ELSE refill_after END,
        refill_until = CASE WHEN is_lost THEN uuidv7() ELSE refill_until END
    FROM found
    WHERE token = %(token)s AND stream_created_at IS DISTINCT FROM %(made_at)s
    RETURNING is_lost"""
_IS_FILLING = "SELECT refill_after IS NOT NULL FROM relay WHERE token = %(token)s"
_UNSEND = """
    WITH open AS (
        SELECT refill_after, refill_until FROM relay
        WHERE token = %(token)s AND refill_after IS NOT NULL FOR UPDATE),
    batch AS (
        SELECT id FROM outbox WHERE sent_at IS NOT NULL
            AND id > (SELECT refill_after FROM open) AND id <= (SELECT refill_until FROM open)
        ORDER BY id LIMIT %(batch)s),
    unsent AS (UPDATE outbox SET sent_at = NULL WHERE id IN (SELECT id FROM batch) RETURNING id)
    UPDATE relay SET refill_after = (SELECT id FROM unsent ORDER BY id DESC LIMIT 1),
        refill_until = CASE WHEN EXISTS (SELECT FROM unsent) THEN refill_until END
    WHERE token = %(token)s AND refill_after IS NOT NULL
    RETURNING (SELECT count(*) FROM unsent)"""


class Refill:
    """The leader's part of it; another leader makes one of its own."""

    def __init__(self, bus: Bus, leadership: Leadership) -> None:
        self._bus = bus
        self._leadership = leadership
        self._compared_with: object = None
        self._is_filling = False
        self._next_at = 0.0
        self._facts = 0

    async def go_on(self, connection: Connection) -> None:
        """Costs nothing while the stream is the one that we know."""
        if self._bus.stream_made_at != self._compared_with:
            await self._compare(connection)
        if self._is_filling and time.monotonic() >= self._next_at:
            await self._unsend(connection)

    async def _compare(self, connection: Connection) -> None:
        made_at = self._bus.stream_made_at
        values = self._leadership.fence | {"made_at": made_at}
        compared = await (await connection.execute(_COMPARE.encode(), values)).fetchone()
        if compared is not None and compared[0]:
            log.error("relay.stream_lost", stream=self._bus.stream, made_again_at=str(made_at))
        # Another process may have begun it.
        filling = await (await connection.execute(_IS_FILLING, self._leadership.fence)).fetchone()
        self._is_filling = filling is not None and bool(filling[0])
        self._compared_with = made_at

    async def _unsend(self, connection: Connection) -> None:
        values = self._leadership.fence | {"batch": _BATCH}
        row = await (await connection.execute(_UNSEND, values)).fetchone()
        facts = int(str(row[0])) if row else 0
        self._facts += facts
        self._next_at = time.monotonic() + _PAUSE_SECONDS
        if not facts:
            self._is_filling = False
            log.info("relay.stream_filled", stream=self._bus.stream, facts=self._facts)
