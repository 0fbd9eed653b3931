"""What an order gives to download, as its owner sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orders import errors
from services.orders.models import download_grants, downloads, order_items, products

ACTIVE, SUSPENDED, REVOKED = "active", "suspended", "revoked"


@dataclass(frozen=True, slots=True)
class Grant:
    """One line's downloads. `now` is the database's clock, which decides what has expired."""

    id: UUID
    product_id: UUID
    status: str
    downloads_left: int
    reissues_left: int
    generation: int
    expires_at: datetime
    title: str
    asset_key: str
    now: datetime

    def check_standing(self) -> None:
        """Raises when the grant itself is not to be used."""
        if self.status == REVOKED:
            raise errors.download_revoked()
        if self.status == SUSPENDED:
            raise errors.download_suspended()

    def check_usable(self, *, generation: int, ends_at: datetime) -> None:
        """Raises why a link of this generation and end gives nothing; the caller's UPDATE says the same."""
        self.check_standing()
        if generation != self.generation or self.now >= min(ends_at, self.expires_at):
            raise errors.download_expired()
        if self.downloads_left == 0:
            raise errors.downloads_used_up()

    @property
    def is_open(self) -> bool:
        """Whether a link can be given out."""
        return self.status == ACTIVE and self.downloads_left > 0 and self.now < self.expires_at


def _grants() -> "Select[tuple[object, ...]]":
    return select(
        *(
            download_grants.c[name]
            for name in Grant.__dataclass_fields__
            if name not in ("title", "asset_key", "now")
        ),
        order_items.c.title,
        products.c.asset_key,
        func.now().label("now"),
    ).where(
        order_items.c.order_id == download_grants.c.order_id,
        order_items.c.product_id == download_grants.c.product_id,
        products.c.id == download_grants.c.product_id,
    )


async def list_grants(connection: AsyncConnection, order_id: UUID) -> Sequence[Grant]:
    """Those of one order, in the order of its lines; a line without a file has none."""
    rows = await connection.execute(
        _grants().where(download_grants.c.order_id == order_id).order_by(download_grants.c.product_id)
    )
    return [Grant(**row._mapping) for row in rows]


async def find_grant(connection: AsyncConnection, grant_id: UUID) -> Grant | None:
    """Under a customer's login only when it is theirs."""
    row = (await connection.execute(_grants().where(download_grants.c.id == grant_id))).one_or_none()
    return None if row is None else Grant(**row._mapping)


async def find_grant_of(connection: AsyncConnection, *, order_id: UUID, product_id: UUID) -> Grant | None:
    query = _grants().where(
        download_grants.c.order_id == order_id, download_grants.c.product_id == product_id
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Grant(**row._mapping)


async def is_counted(connection: AsyncConnection, *, download_id: UUID, grant_id: UUID) -> bool:
    """Whether this very download was taken off the count before."""
    query = select(downloads.c.id).where(downloads.c.id == download_id, downloads.c.grant_id == grant_id)
    return (await connection.execute(query)).first() is not None
