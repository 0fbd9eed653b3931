"""Mails on a running orders service: to whom, once each, and again when the server refuses."""

import asyncio
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from uuid import UUID, uuid4

import grpc
import pytest
from pydantic import SecretStr

from protos.orders.v1 import orders_pb2 as pb
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.workers import background
from services.orders.commands.settling import Confirmed
from services.orders.mails.mailer import Mailer
from services.orders.queries.orders import Order, find_order
from tests.integration.orders.shop import SHOP_URL, Shop
from tests.integration.wallet.client import KEY, refused

REJECTED = grpc.StatusCode.FAILED_PRECONDITION
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def text_of(shop: Shop, order_id: str, kind: str) -> str:
    message = message_from_bytes(shop.mail(order_id, kind).as_bytes(), policy=default)
    assert isinstance(message, EmailMessage)
    part = message.get_body(("plain",))
    assert part is not None
    return str(part.get_content())


async def test_receipt_and_fulfilment_go_once_to_the_address_of_the_order(shop: Shop) -> None:
    product_id, user_id = (
        await shop.product(title="Harbour\r\nBcc: eve@evil.test"),
        await shop.wallet.user(500),
    )
    order = await shop.place(user_id, {product_id: 1}, email="ada@example.com")
    assert await shop.mails_sent(order.id) == {"receipt", "downloads"}
    for kind in ("receipt", "downloads"):
        mail = shop.mail(order.id, kind)
        assert (mail["To"], mail["Bcc"]) == ("ada@example.com", None)
        assert "Harbour Bcc: eve@evil.test" in text_of(shop, order.id, kind)


async def test_while_the_server_refuses_mails_wait_and_then_go_once(shop: Shop) -> None:
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    shop.smtp.refusing = True
    try:
        order = await shop.place(user_id, {product_id: 1}, email="ada@example.com")
        rows = await shop.until(
            "SELECT kind FROM mails WHERE order_id = %s AND last_error IS NOT NULL ORDER BY kind OFFSET 1",
            order.id,
        )
        assert [row["kind"] for row in rows] == ["receipt"]
    finally:
        shop.smtp.refusing = False
    assert await shop.mails_sent(order.id) == {"receipt", "downloads"}


async def test_a_mail_whose_turn_comes_too_late_is_left_to_the_table(shop: Shop, database: Database) -> None:
    """Two mailers are handed mails that were sent before; only one of them still has its lease."""
    product_id, orders = await shop.product(), []
    for _ in range(2):
        placed = await shop.place(await shop.wallet.user(100), {product_id: 1}, email="ada@example.com")
        await shop.mails_sent(placed.id)
        async with database.worker() as connection:
            orders.append(await find_order(connection, UUID(placed.id)))
    late, early = orders
    assert late is not None
    assert early is not None
    async with background(
        handed_over(shop, database, late, lease_seconds=0.0).run(),
        handed_over(shop, database, early, lease_seconds=60.0).run(),
    ):
        async with asyncio.timeout(20):
            while len(shop.smtp.ids(str(early.id))) < 4:
                await asyncio.sleep(0.02)
    assert len(shop.smtp.ids(str(late.id))) == 2


def handed_over(shop: Shop, database: Database, order: Order, *, lease_seconds: float) -> Mailer:
    mailer = Mailer(
        database,
        Keyring(SecretStr(f"test:{KEY}")),
        smtp_url=shop.smtp.url,
        sender="shop@aishop.test",
        shop_url=SHOP_URL,
        grant_days=30,
        lease_seconds=lease_seconds,
    )
    mailer.hand_over(order, Confirmed(order.created_at, order.fulfilled_at, order.version, ["digital"]))
    return mailer


@pytest.mark.parametrize("address", ["ada@example.com, eve@evil.test", "ada@example.com\r\nX: y", "nobody"])
async def test_an_address_that_is_not_one_mailbox_is_none(shop: Shop, address: str) -> None:
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    order = await shop.place(user_id, {product_id: 1}, email=address)
    await shop.run_ends(order.id, "done")
    assert (await shop.row(order.id))["email"] is None
    assert await shop.sql("SELECT 1 FROM mails WHERE order_id = %s", order.id) == []


async def test_a_refund_is_told_by_its_id(shop: Shop) -> None:
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    order = await shop.place(user_id, {product_id: 2}, email="ada@example.com")
    refund = await shop.refund(order.id, {product_id: 1})
    await shop.refund_becomes(refund.id, "succeeded")
    assert await shop.mails_sent(order.id) == {"receipt", "downloads", f"refund.{refund.id}"}
    assert "50 points" in text_of(shop, order.id, "refund")


async def test_a_shipment_fulfils_the_order_once_with_its_mail_and_its_audit_entry(shop: Shop) -> None:
    picture, print_ = await shop.product(), await shop.product(type="physical", title="Print")
    user_id = await shop.wallet.user(500)
    order = await shop.place(user_id, {picture: 1, print_: 1}, email="ada@example.com")
    shipped = await shop.ship(order.id)
    assert shipped.fulfilled_at.seconds > 0
    assert dict(shipped.tracking_info) == {"carrier": "Post", "number": "P-1", "url": "https://post.test/P-1"}
    assert shipped.version == order.version + 1
    assert await shop.ship(order.id) == shipped
    await refused(shop.ship(order.id, tracking_number="P-2"), REJECTED, "NOTHING_TO_SHIP")
    assert await shop.mails_sent(order.id) == {"receipt", "downloads", "shipped"}
    assert "https://post.test/P-1" in text_of(shop, order.id, "shipped")
    entries = await shop.sql("SELECT * FROM audit_log WHERE subject = %s", order.id)
    assert [(entry["actor"], entry["action"], entry["reason"]) for entry in entries] == [
        ("operator", "order.shipped", "packed")
    ]
    assert (await shop.history(order.id))[1:] == [
        ("pending", "completed", "saga", "points_reserved"),
        ("completed", "completed", "operator", "shipped"),
    ]


async def test_what_has_no_goods_left_or_is_not_paid_is_not_shipped(shop: Shop) -> None:
    picture, print_ = await shop.product(), await shop.product(type="physical")
    digital = await shop.place(await shop.wallet.user(100), {picture: 1})
    await refused(shop.ship(digital.id), REJECTED, "NOTHING_TO_SHIP")
    returned = await shop.place(await shop.wallet.user(200), {picture: 1, print_: 1})
    await shop.refund(returned.id, {print_: 1})
    await refused(shop.ship(returned.id), REJECTED, "NOTHING_TO_SHIP")
    pending = await shop.place(uuid4(), {print_: 1}, method=pb.PAYMENT_METHOD_STRIPE)
    await refused(shop.ship(pending.id), REJECTED, "NOTHING_TO_SHIP")
    await refused(shop.ship(str(uuid4())), grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("carrier", ""),
        ("carrier", "x" * 101),
        ("tracking_number", "a\0b"),
        ("tracking_url", "javascript:alert(1)"),
        ("tracking_url", "https://"),
        ("tracking_url", 'https://x.test/"'),
        ("tracking_url", "https://x.test/a b"),
        ("tracking_url", "https://x.test/\r\n"),
        ("actor", ""),
        ("reason", ""),
    ],
)
async def test_a_shipment_that_makes_no_sense_is_refused(shop: Shop, field: str, value: str) -> None:
    fields = await refused(shop.ship(str(uuid4()), **{field: value}), INVALID, "INVALID_FIELD")
    assert fields == {"field": field}
