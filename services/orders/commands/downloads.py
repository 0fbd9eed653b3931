"""Download grants, changed by their owner.

    active ──count──▶ one download fewer, a row in `downloads`
       └───reissue──▶ the full count and time again, the next generation: older links are void

Both decide in the WHERE of one UPDATE, so that any number of requests at once get what is left and no more.
The pivot of an order writes grants (fulfilment.py); refunds and disputes change their status.
"""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Text, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import tracing
from services.orders import errors
from services.orders.fulfilment import Terms
from services.orders.models import download_grants, downloads
from services.orders.queries.downloads import ACTIVE, find_grant, is_counted


async def count_download(
    connection: AsyncConnection, *, download_id: UUID, grant_id: UUID, generation: int, ends_at: datetime
) -> None:
    """Counts one download of a link, once per `download_id`. Raises why the link gives nothing (any more)."""
    if not await _note(connection, download_id=download_id, grant_id=grant_id):
        # The same request, sent again.
        return
    taken = await connection.execute(
        update(download_grants)
        .where(
            download_grants.c.id == grant_id,
            download_grants.c.status == ACTIVE,
            download_grants.c.generation == generation,
            download_grants.c.downloads_left > 0,
            download_grants.c.expires_at > func.now(),
            func.now() < ends_at,
        )
        .values(downloads_left=download_grants.c.downloads_left - 1, updated_at=func.now())
    )
    if taken.rowcount == 0:
        grant = await find_grant(connection, grant_id)
        assert grant is not None, "grants are never deleted"
        grant.check_usable(generation=generation, ends_at=ends_at)
        # It has changed once more since the UPDATE looked.
        raise errors.download_expired()


async def _note(connection: AsyncConnection, *, download_id: UUID, grant_id: UUID) -> bool:
    """Writes the download down; False when it is there."""
    columns = [downloads.c[name] for name in ("grant_id", "order_id", "product_id", "user_id")]
    download = select(
        literal(download_id),
        download_grants.c.id,
        *(download_grants.c[column.name] for column in columns[1:]),
        literal(tracing.trace_id(), Text),
    ).where(download_grants.c.id == grant_id)
    noted = await connection.execute(
        pg_insert(downloads)
        .from_select([downloads.c.id, *columns, downloads.c.trace_id], download)
        .on_conflict_do_nothing()
        .returning(downloads.c.id)
    )
    if noted.first() is not None:
        return True
    if not await is_counted(connection, download_id=download_id, grant_id=grant_id):
        raise errors.download_not_found()
    return False


async def reissue_download(connection: AsyncConnection, *, grant_id: UUID, terms: Terms) -> bool:
    """Gives the full count and time again; False, with nothing changed, when that is not possible."""
    reissued = await connection.execute(
        update(download_grants)
        .where(
            download_grants.c.id == grant_id,
            download_grants.c.status == ACTIVE,
            download_grants.c.reissues_left > 0,
        )
        .values(
            reissues_left=download_grants.c.reissues_left - 1,
            downloads_left=terms.downloads,
            generation=download_grants.c.generation + 1,
            expires_at=func.now() + timedelta(days=terms.grant_days),
            updated_at=func.now(),
        )
    )
    return reissued.rowcount == 1
