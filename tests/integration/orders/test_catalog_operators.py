"""What operators do to the catalogue and its stock: once, audited, and never below what is reserved."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any
from uuid import UUID, uuid4

import pytest

from protos.orders.v1 import orders_pb2 as pb
from services.chassis.db import Database
from services.chassis.errors import DomainError
from services.orders.api.catalog import CatalogService
from services.orders.api.catalog_operator import CatalogOperatorService
from services.orders.catalog_cache import CatalogCache
from services.orders.commands.bounds import Bounds
from services.orders.commands.placing import Placement, place_order
from services.orders.points_saga import PLACE_WITH_POINTS, RESERVE
from services.orders.rules import Method
from tests.integration.orders.shop import query
from tests.support.servers import Servers

RECEIVED, CORRECTED = pb.STOCK_REASON_RECEIVED, pb.STOCK_REASON_CORRECTED
# More would wait for the pool rather than for each other.
RACERS = 6


class Backroom:
    """An operator at the catalogue."""

    def __init__(self, database: Database, admin_url: str) -> None:
        self.database = database
        self.actor = str(uuid4())
        self.published = 0
        self._admin_url = admin_url
        self._customers = CatalogService(database, CatalogCache(None))
        self._operators = CatalogOperatorService(database, CatalogCache(None), publish=self._publish)

    def _publish(self) -> None:
        self.published += 1

    async def create(self, product_id: str | None = None, **more: Any) -> pb.StockedProduct:
        fields: dict[str, Any] = {"title": "A picture", "type": "digital", "price_cents": 500, "stock": 10}
        fields |= {"price_points": 50, "asset_key": "x.png", "actor": self.actor, "reason": "new in the shop"}
        request = pb.CreateProductRequest(product_id=product_id or str(uuid4()), **(fields | more))
        return (await self._operators.CreateProduct(request, None)).product

    async def change(self, product_id: str, **changes: Any) -> pb.StockedProduct:
        fields = {"actor": self.actor, "reason": "a new season"} | changes
        request = pb.ChangeProductRequest(product_id=product_id, **fields)
        return (await self._operators.ChangeProduct(request, None)).product

    async def move(
        self, product_id: str, delta: int, *, movement_id: UUID | None = None, **more: Any
    ) -> pb.MoveStockResponse:
        fields: dict[str, Any] = {"reason": CORRECTED, "note": "counted", "actor": self.actor} | more
        request = pb.MoveStockRequest(
            movement_id=str(movement_id or uuid4()), product_id=product_id, delta=delta, **fields
        )
        return await self._operators.MoveStock(request, None)

    async def movements(self, product_id: str, *, limit: int = 0, cursor: str = "") -> Any:
        request = pb.ListStockMovementsRequest(product_id=product_id, limit=limit, cursor=cursor)
        return await self._operators.ListStockMovements(request, None)

    async def inspect(self, product_id: str) -> pb.StockedProduct:
        request = pb.InspectProductRequest(product_id=product_id)
        return (await self._operators.InspectProduct(request, None)).product

    async def found(self, **narrower: Any) -> list[str]:
        """The titles that customers find, page by page, two at a time."""
        titles: list[str] = []
        cursor = ""
        while True:
            request = pb.ListProductsRequest(limit=2, cursor=cursor, **narrower)
            page = await self._customers.ListProducts(request, None)
            titles += [product.title for product in page.items]
            cursor = page.next_cursor
            if not cursor:
                return titles

    async def all_titles(self, search: str) -> list[tuple[str, bool]]:
        request = pb.ListAllProductsRequest(limit=100, search=search)
        page = await self._operators.ListAllProducts(request, None)
        return [(item.product.title, item.product.active) for item in page.items]

    async def audited(self) -> list[str]:
        rows = await self.sql("SELECT action FROM audit_log WHERE actor = %s ORDER BY seq", self.actor)
        return [row["action"] for row in rows]

    async def told(self, product_id: str) -> int:
        """How many events there are of the product."""
        [row] = await self.sql(
            "SELECT count(*) FROM outbox WHERE subject = 'orders.product.changed'"
            " AND position(%s::bytea IN payload) > 0",
            product_id.encode(),
        )
        return int(row["count"])

    async def stock(self, product_id: str) -> tuple[int, int]:
        """In stock and reserved; asserts that they are the sums of their rows (I9)."""
        [row] = await self.sql(
            "SELECT stock_quantity, reserved_quantity,"
            " (SELECT sum(delta) FROM stock_movements m WHERE m.product_id = i.product_id) AS moved,"
            " (SELECT coalesce(sum(quantity), 0) FROM stock_reservations r"
            "  WHERE r.product_id = i.product_id AND status = 'held') AS held"
            " FROM product_inventory i WHERE product_id = %s",
            product_id,
        )
        assert (row["stock_quantity"], row["reserved_quantity"]) == (row["moved"], row["held"])
        return row["stock_quantity"], row["reserved_quantity"]

    async def sql(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        return await query(self._admin_url, statement, *parameters)

    async def reserve(self, product_id: str, quantity: int = 1) -> bool:
        """What placing an order does first; False when too few are left."""
        placement = Placement(
            order_id=uuid4(),
            user_id=uuid4(),
            method=Method.POINTS,
            quantities={UUID(product_id): quantity},
            email=None,
            idempotency_key=str(uuid4()),
            request_hash=b"x",
            cart_version=None,
            saga=PLACE_WITH_POINTS,
            first_step=RESERVE,
            lease_token=uuid4(),
            lease_seconds=3600,
            bounds=Bounds(open_orders=5, reserved_pieces=100, failed_checkouts=100),
        )
        async with self.database.customer_sql(placement.user_id) as connection:
            placed = await place_order(connection, placement)
        assert placed is not None
        return placed.short is None


@pytest.fixture
async def backroom(database: Database, migrated: Servers) -> AsyncIterator[Backroom]:
    backroom = Backroom(database, migrated.admin_url("orders"))
    yield backroom
    # Nobody drives what was only reserved.
    await backroom.sql("UPDATE saga_runs SET status = 'done' WHERE lease_until > now() + interval '30 min'")


async def refused(call: Awaitable[object], reason: str) -> dict[str, str]:
    with pytest.raises(DomainError) as error:
        await call
    assert error.value.reason == reason, error.value
    return error.value.fields


# --- products ---------------------------------------------------------------------------------------


async def test_a_product_is_created_once_under_its_id(backroom: Backroom) -> None:
    product_id = str(uuid4())
    created = await asyncio.gather(*(backroom.create(product_id) for _ in range(RACERS)))
    assert {each.SerializeToString(deterministic=True) for each in created} == {
        created[0].SerializeToString(deterministic=True)
    }
    product = created[0]
    assert (product.version, product.stock_quantity, product.product.available) == (1, 10, 10)
    assert (product.product.active, product.product.currency) == (True, "usd")
    assert (await backroom.stock(product_id), await backroom.audited()) == ((10, 0), ["product.created"])
    assert (await backroom.told(product_id), backroom.published) == (1, RACERS)
    for other in ({"title": "Another"}, {"stock": 11}, {"reason": "another"}):
        assert await refused(backroom.create(product_id, **other), "PRODUCT_EXISTS") == {
            "product_id": product_id
        }
    # The same request gives what became of the product since.
    await backroom.change(product_id, price_cents=600)
    assert (await backroom.create(product_id)).product.price_cents == 600


async def test_unlimited_stock_is_none_at_all_and_no_stock_is_none_yet(backroom: Backroom) -> None:
    unlimited = await backroom.create(stock=None)
    assert (unlimited.HasField("stock_quantity"), unlimited.product.HasField("available")) == (False, False)
    empty = await backroom.create(stock=0, type="physical", asset_key="")
    assert (empty.stock_quantity, empty.product.available) == (0, 0)
    for product in (unlimited, empty):
        assert not (await backroom.movements(product.product.id)).items


async def test_a_change_raises_the_version_and_a_stale_one_changes_nothing(backroom: Backroom) -> None:
    product_id = (await backroom.create()).product.id
    changed = await backroom.change(product_id, title="Another", price_points=0, expected_version=1)
    assert (changed.version, changed.product.title, changed.product.price_points) == (2, "Another", 0)
    stale = backroom.change(product_id, title="Stale", expected_version=1)
    assert await refused(stale, "PRODUCT_CHANGED") == {"version": "2"}
    assert (await backroom.inspect(product_id)) == changed
    # What stands so already is no change.
    assert await backroom.change(product_id, title="Another", price_points=0) == changed
    assert await backroom.told(product_id) == 2
    assert await backroom.audited() == ["product.created", "product.changed"]
    [entry] = await backroom.sql(
        "SELECT * FROM audit_log WHERE subject = %s AND action = 'product.changed'", product_id
    )
    assert entry["details"] == {
        "before": {"title": "A picture", "price_points": 50},
        "after": {"title": "Another", "price_points": 0},
    }
    await refused(backroom.change(str(uuid4()), title="x"), "PRODUCT_NOT_FOUND")
    await refused(backroom.inspect(str(uuid4())), "PRODUCT_NOT_FOUND")


async def test_of_many_who_change_one_version_one_wins(backroom: Backroom) -> None:
    product_id = (await backroom.create()).product.id
    answers = await asyncio.gather(
        *(backroom.change(product_id, price_cents=1000 + n, expected_version=1) for n in range(RACERS)),
        return_exceptions=True,
    )
    won = [answer for answer in answers if isinstance(answer, pb.StockedProduct)]
    assert [winner.version for winner in won] == [2]
    lost = [answer for answer in answers if isinstance(answer, DomainError)]
    assert Counter(error.reason for error in lost) == {"PRODUCT_CHANGED": RACERS - 1}
    assert await backroom.inspect(product_id) == won[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", ""),
        ("title", "x" * 201),
        ("title", "x\0"),
        ("description", "x" * 5001),
        ("price_cents", 0),
        ("price_cents", 100_000_000),
        ("price_points", -1),
        ("price_points", 1_000_000_001),
        ("asset_key", ""),
        *(
            ("asset_key", key)
            for key in ("/x", "../x", "a/../x", "a//x", "a/", ".x", "a b", "x" * 201, "a\n")
        ),
        ("actor", ""),
        ("reason", ""),
    ],
)
async def test_what_a_product_cannot_be_is_refused_by_name(
    backroom: Backroom, field: str, value: object
) -> None:
    product_id = (await backroom.create()).product.id
    wrong: dict[str, Any] = {"title": "x", field: value}
    for call in (backroom.create(**wrong), backroom.change(product_id, **wrong)):
        assert (await refused(call, "INVALID_FIELD"))["field"] == field
    assert (await backroom.inspect(product_id)).version == 1


async def test_what_only_a_new_product_has_is_checked_too(backroom: Backroom) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"type": "liquid"},
        {"type": ""},
        {"stock": -1},
        {"stock": 10**9 + 1},
    )
    for each in wrong:
        assert await refused(backroom.create(**each), "INVALID_FIELD") == {"field": next(iter(each))}
    await refused(backroom.change(str(uuid4())), "INVALID_FIELD")
    physical = (await backroom.create(type="physical", asset_key="")).product.id
    assert (await backroom.change(physical, asset_key="a/b-1.zip")).asset_key == "a/b-1.zip"


# --- search -----------------------------------------------------------------------------------------


async def test_titles_are_searched_whatever_the_case_and_wildcards_mean_themselves(
    backroom: Backroom,
) -> None:
    mark = uuid4().hex
    titles = [
        f"{mark} 100% Élan",
        f"{mark} 100 elan",
        f"{mark} a_b",
        f"{mark} aXb",
        f"{mark} a/b\\c δρόμος Straße",
    ]
    for title in titles:
        await backroom.create(title=title)
    poster = (await backroom.create(title=f"{mark} Poster", type="physical", asset_key="")).product.id
    assert await backroom.found(search=mark.upper()) == [*titles, f"{mark} Poster"]
    for search, expected in (
        (f"{mark} 100% éLAN", titles[:1]),
        (f"{mark} 100%", titles[:1]),
        (f"{mark} a_b", titles[2:3]),
        (f"{mark} a/b\\c", titles[4:]),
        (f"{mark} %", []),
        # By Unicode, not by what the cluster's locale knows of it.
        (f"{mark} A/B\\C ΔΡΌΜΟΣ", titles[4:]),
        (f"{mark} A/B\\C δρόμοσ STRASSE", titles[4:]),
        (f"{mark} 100% e\u0301lan", titles[:1]),
    ):
        assert await backroom.found(search=search) == expected, search
    assert await backroom.found(search=mark, type="physical") == [f"{mark} Poster"]
    assert await backroom.found(search=mark, type="digital") == titles
    await backroom.change(poster, active=False)
    assert await backroom.found(search=mark, type="physical") == []
    assert (await backroom.all_titles(mark))[-1] == (f"{mark} Poster", False)
    for wrong in ({"search": "x" * 101}, {"search": "\0"}, {"type": "liquid"}):
        await refused(backroom.found(**wrong), "INVALID_FIELD")


async def test_pages_follow_the_order_in_which_products_came_in_whatever_their_ids(
    backroom: Backroom,
) -> None:
    mark = uuid4().hex
    ids = ["f", "0", "8"]
    for number, first in enumerate(ids):
        await backroom.create(first + str(uuid4())[1:], title=f"{mark} {number}")
    # Two that came in together.
    await backroom.sql(
        "UPDATE products SET created_at = (SELECT min(created_at) FROM products WHERE title LIKE %s)"
        " WHERE title LIKE %s",
        f"{mark}%",
        f"{mark} 1",
    )
    assert await backroom.found(search=mark) == [f"{mark} 1", f"{mark} 0", f"{mark} 2"]


# --- stock ------------------------------------------------------------------------------------------


async def test_stock_moves_once_under_an_id_and_each_movement_is_audited(backroom: Backroom) -> None:
    product_id, movement_id = (await backroom.create()).product.id, uuid4()
    answers = await asyncio.gather(
        *(backroom.move(product_id, 5, movement_id=movement_id, reason=RECEIVED) for _ in range(RACERS))
    )
    assert {answer.movement.created_at.ToNanoseconds() for answer in answers} == {
        answers[0].movement.created_at.ToNanoseconds()
    }
    assert (answers[-1].product.stock_quantity, await backroom.stock(product_id)) == (15, (15, 0))
    await backroom.move(product_id, -3)
    other = (await backroom.create()).product.id
    for changed in (
        backroom.move(product_id, 6, movement_id=movement_id, reason=RECEIVED),
        backroom.move(product_id, 5, movement_id=movement_id),
        backroom.move(other, 5, movement_id=movement_id, reason=RECEIVED),
    ):
        await refused(changed, "STOCK_MOVEMENT_MISMATCH")
    assert (await backroom.stock(product_id), await backroom.stock(other)) == ((12, 0), (10, 0))
    assert await backroom.audited() == [
        *("product.created", "stock.received", "stock.corrected", "product.created")
    ]


async def test_a_count_is_never_corrected_below_what_is_reserved(backroom: Backroom) -> None:
    product_id = (await backroom.create()).product.id
    assert await backroom.reserve(product_id, 4)
    assert await refused(backroom.move(product_id, -7), "STOCK_RESERVED") == {"reserved": "4", "stock": "10"}
    assert (await backroom.move(product_id, -6)).product.product.available == 0
    assert await backroom.stock(product_id) == (4, 4)
    assert await backroom.audited() == ["product.created", "stock.corrected"]


async def test_what_cannot_be_moved_says_why(backroom: Backroom) -> None:
    product_id = (await backroom.create()).product.id
    unlimited = (await backroom.create(stock=None)).product.id
    await refused(backroom.move(unlimited, 1), "STOCK_UNLIMITED")
    await refused(backroom.move(str(uuid4()), 1), "PRODUCT_NOT_FOUND")
    await refused(backroom.movements(str(uuid4())), "PRODUCT_NOT_FOUND")
    wrong: tuple[tuple[int, dict[str, Any], str], ...] = (
        (0, {}, "delta"),
        (0, {"reason": RECEIVED}, "delta"),
        (-1, {"reason": RECEIVED}, "delta"),
        (10**9 + 1, {}, "delta"),
        (1, {"reason": pb.STOCK_REASON_SOLD}, "reason"),
        (1, {"reason": pb.STOCK_REASON_UNSPECIFIED}, "reason"),
        (1, {"note": ""}, "note"),
        (1, {"actor": ""}, "actor"),
    )
    for delta, more, field in wrong:
        assert (await refused(backroom.move(product_id, delta, **more), "INVALID_FIELD"))["field"] == field
    assert await backroom.stock(product_id) == (10, 0)


async def test_movements_are_listed_newest_first_page_by_page(backroom: Backroom) -> None:
    product_id = (await backroom.create()).product.id
    for delta in (1, 2, 3):
        await backroom.move(product_id, delta)
    first = await backroom.movements(product_id, limit=3)
    rest = await backroom.movements(product_id, limit=3, cursor=first.next_cursor)
    seen = [*first.items, *rest.items]
    assert [movement.delta for movement in seen] == [3, 2, 1, 10]
    assert [movement.reason for movement in seen] == [CORRECTED] * 3 + [RECEIVED]
    assert (seen[0].actor, seen[0].note, seen[0].order_id) == (backroom.actor, "counted", "")
    assert rest.next_cursor == ""
    for nonsense in ("nonsense", "bm9uc2Vuc2U", "MjAyNi0wMS0wMXx4"):
        await refused(backroom.movements(product_id, cursor=nonsense), "INVALID_CURSOR")


async def test_stock_that_is_corrected_while_buyers_reserve_is_never_oversold(backroom: Backroom) -> None:
    """Six pieces, eight buyers, four corrections by one: each has its way, or nothing is left for it."""
    for _ in range(5):
        product_id = (await backroom.create(stock=6)).product.id
        buyers = [backroom.reserve(product_id) for _ in range(8)]
        corrections = [backroom.move(product_id, -1) for _ in range(4)]
        reserved, moved = await asyncio.gather(
            asyncio.gather(*buyers), asyncio.gather(*corrections, return_exceptions=True)
        )
        refusals = {str(getattr(each, "reason", each)) for each in moved if isinstance(each, BaseException)}
        assert refusals <= {"STOCK_RESERVED"}
        corrected = sum(isinstance(each, pb.MoveStockResponse) for each in moved)
        assert await backroom.stock(product_id) == (6 - corrected, sum(reserved))
        assert sum(reserved) + corrected == 6
