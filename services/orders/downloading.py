"""Downloads at the edge: links are given out, files are given out once they are counted.

    1. the token is opened, the grant read: whoever may not have it hears why
    2. the file is opened: when that fails, nothing is counted
    3. one transaction takes the download off the count and notes it, under the id of the request
    4. head and chunks, each sent when the one before has left

Crash points: after 2 nothing has happened; after 3 the same request, sent again, is not counted again.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from uuid import UUID

from services.chassis import failpoints, idempotency, logs
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.errors import Unavailable
from services.orders import errors
from services.orders.commands.downloads import count_download, reissue_download
from services.orders.fulfilment import Terms
from services.orders.links import Link, open_link, seal_link
from services.orders.queries.downloads import Grant, find_grant, find_grant_of, is_counted, list_grants
from services.orders.queries.orders import find_order
from services.orders.storage import Asset, AssetStore

log = logs.get(__name__)

REISSUE_ROUTE = "downloads.reissue"
# Files that go out at once; each holds a call of the server.
_AT_ONCE = 96


@dataclass(frozen=True, slots=True)
class Offered:
    """A grant with its fresh link; no token when there is nothing to download now."""

    grant: Grant
    token: str
    token_ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A file that was counted and is on its way."""

    file_name: str
    asset: Asset


class Downloads:
    """What the owners of orders do with their downloads."""

    def __init__(self, database: Database, keyring: Keyring, store: AssetStore, terms: Terms) -> None:
        self._database = database
        self._keyring = keyring
        self._store = store
        self._terms = terms
        self._running = 0

    async def offered(self, *, user_id: UUID, order_id: UUID) -> Sequence[Offered]:
        """All of an order, with fresh links."""
        async with self._database.customer(user_id) as connection:
            if await find_order(connection, order_id) is None:
                raise errors.order_not_found(order_id)
            grants = await list_grants(connection, order_id)
        return [self._offer(grant, user_id) for grant in grants]

    async def reissue(self, request: idempotency.Request, *, order_id: UUID, product_id: UUID) -> Offered:
        """The grant renewed, once per key."""
        async with self._database.customer(request.user_id) as connection:
            grant = await find_grant_of(connection, order_id=order_id, product_id=product_id)
            if grant is None:
                raise errors.download_not_found()
            known = await idempotency.find(connection, request)
            if known is None and await idempotency.keep_resource(connection, request, resource_id=grant.id):
                renewed = await reissue_download(connection, grant_id=grant.id, terms=self._terms)
                if not renewed:
                    grant.check_standing()
                    raise errors.reissues_used_up()
            grant = await find_grant(connection, grant.id)
        assert grant is not None, "grants are never deleted"
        return self._offer(grant, request.user_id)

    @asynccontextmanager
    async def deliver(self, *, user_id: UUID, token: str, download_id: UUID) -> AsyncIterator[Delivery]:
        """Counts the download and opens its file, in the order that the module tells of."""
        link = open_link(self._keyring, token)
        if link is None or link.user_id != user_id:
            raise errors.download_not_found()
        if self._running >= _AT_ONCE:
            raise Unavailable("BUSY", "too many files are on their way; try again")
        self._running += 1
        try:
            grant = await self._usable_grant(link, download_id)
            asset = await self._store.open(grant.asset_key)
            failpoints.hit("orders.download.opened")
            await self._count(link, download_id)
            yield Delivery(_file_name(grant), asset)
        finally:
            self._running -= 1

    async def _usable_grant(self, link: Link, download_id: UUID) -> Grant:
        async with self._database.customer(link.user_id) as connection:
            grant = await find_grant(connection, link.grant_id)
            if grant is None:
                raise errors.download_not_found()
            if not await is_counted(connection, download_id=download_id, grant_id=grant.id):
                grant.check_usable(generation=link.generation, ends_at=link.ends_at)
        return grant

    async def _count(self, link: Link, download_id: UUID) -> None:
        async with self._database.customer(link.user_id) as connection:
            await count_download(
                connection,
                download_id=download_id,
                grant_id=link.grant_id,
                generation=link.generation,
                ends_at=link.ends_at,
            )
            failpoints.hit("orders.download.writing")
        failpoints.hit("orders.download.counted")
        log.info("download.counted", grant_id=str(link.grant_id), download_id=str(download_id))

    def _offer(self, grant: Grant, user_id: UUID) -> Offered:
        if not grant.is_open:
            return Offered(grant, "", None)
        ends_at = min(grant.now + timedelta(seconds=self._terms.link_seconds), grant.expires_at)
        link = Link(grant.id, grant.generation, user_id, ends_at)
        return Offered(grant, seal_link(self._keyring, link), ends_at)


def _file_name(grant: Grant) -> str:
    """The title, as a file of any system may be called, with the ending of the file itself."""
    title = "".join(each if each.isprintable() and each not in '/\\:*?"<>|' else " " for each in grant.title)
    stem = " ".join(title.split()).strip(".") or "picture"
    return stem + PurePosixPath(grant.asset_key).suffix
