"""Mails on a running orders service: to whom, once each, again when the server refuses, and in doubt when it
says nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any, Literal
from uuid import UUID, uuid4

import grpc
import pytest
from psycopg import OperationalError
from psycopg.errors import CheckViolation
from pydantic import SecretStr

from protos.orders.v1 import orders_pb2 as pb
from services.chassis.crypto import Keyring
from services.chassis.db import Database, FixedSql
from services.chassis.workers import background
from services.orders.commands.settling import Confirmed
from services.orders.mails.delivery import Delivery
from services.orders.mails.mail import Mail, hand, try_later
from services.orders.mails.mailer import Mailer
from services.orders.mails.message import Message
from services.orders.queries.orders import Order, find_order
from tests.integration.orders.shop import SHOP_URL, Shop
from tests.integration.wallet.client import KEY, refused

REJECTED = grpc.StatusCode.FAILED_PRECONDITION
INVALID = grpc.StatusCode.INVALID_ARGUMENT
SEND_AGAIN, DELIVERED = pb.MAIL_RESOLUTION_SEND_AGAIN, pb.MAIL_RESOLUTION_DELIVERED


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


async def test_of_two_who_have_a_mail_one_sends_it(shop: Shop, database: Database) -> None:
    """Both were handed what another has put off: none of them knows of the others."""
    order = await waiting(shop, database)
    async with background(*(handed_over(shop, database, order).run() for _ in range(4))):
        assert await shop.mails_sent(str(order.id)) == {"receipt", "downloads"}


def handed_over(shop: Shop, database: Database, order: Order) -> Mailer:
    mailer = Mailer(
        database,
        Keyring(SecretStr(f"test:{KEY}")),
        smtp_url=shop.smtp.url,
        sender="shop@aishop.test",
        shop_url=SHOP_URL,
        grant_days=30,
        lease_seconds=60.0,
    )
    mailer.hand_over(order, Confirmed(order.created_at, order.fulfilled_at, order.version, ["digital"]))
    return mailer


async def in_doubt(shop: Shop, how: Literal["kept", "lost"]) -> str:
    """An order whose two mails the server has taken, or not, and has not answered, two minutes ago."""
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    shop.smtp.hanging_up = how
    try:
        order = await shop.place(user_id, {product_id: 1}, email="ada@example.com")
        await shop.until(
            "SELECT 1 FROM mails WHERE order_id = %s AND handed_at <= now() AND last_error <> '' OFFSET 1",
            order.id,
        )
    finally:
        shop.smtp.hanging_up = ""
    await shop.sql("UPDATE mails SET handed_at = now() - interval '121 s' WHERE order_id = %s", order.id)
    return order.id


async def resolve(shop: Shop, order_id: str, kind: str, how: "pb.MailResolution.ValueType") -> pb.Mail:
    request = pb.ResolveMailRequest(
        order_id=order_id, kind=kind, resolution=how, actor="operator", reason="the log says so"
    )
    return (await shop.operator.ResolveMail(request)).mail


async def test_a_mail_whose_answer_was_lost_is_in_doubt_and_goes_out_again_by_an_operator_alone(
    shop: Shop,
) -> None:
    order_id = await in_doubt(shop, "kept")
    # Those who send left-behind mails pass by: a later one is sent.
    later = await shop.place(await shop.wallet.user(100), {await shop.product(): 1}, email="ada@example.com")
    await shop.sql("UPDATE mails SET next_attempt_at = now() WHERE order_id = %s", later.id)
    await shop.mails_sent(later.id)
    assert len(shop.smtp.ids(order_id)) == 2
    listed = (await shop.operator.ListMails(pb.ListMailsRequest(status="in_doubt", limit=100))).items
    assert {mail.kind for mail in listed if mail.order_id == order_id} == {"receipt", "downloads"}
    timeline = await shop.operator.GetTimeline(pb.GetTimelineRequest(order_id=order_id))
    summaries = {entry.kind: entry.summary for entry in timeline.entries}
    assert summaries["mail.receipt"] == "mail receipt given to the mail server, whose answer is not known"

    assert (await resolve(shop, order_id, "receipt", DELIVERED)).status == "sent"
    again = await resolve(shop, order_id, "downloads", SEND_AGAIN)
    assert (again.status, again.HasField("handed_at")) == ("waiting", False)
    await shop.until("SELECT 1 FROM mails WHERE order_id = %s HAVING bool_and(sent_at IS NOT NULL)", order_id)
    kinds = sorted(each.removeprefix(f"<{order_id}.").partition("@")[0] for each in shop.smtp.ids(order_id))
    assert kinds == ["downloads", "downloads", "receipt"]
    entries = await shop.sql("SELECT action, reason FROM audit_log WHERE subject = %s ORDER BY seq", order_id)
    assert [entry["action"] for entry in entries] == ["mail.delivered", "mail.sent_again"]


async def test_what_was_decided_of_a_mail_stays_decided(shop: Shop) -> None:
    order_id = await in_doubt(shop, "lost")
    for _ in range(2):
        assert (await resolve(shop, order_id, "receipt", DELIVERED)).status == "sent"
    fields = await refused(resolve(shop, order_id, "receipt", SEND_AGAIN), REJECTED, "MAIL_NOT_IN_DOUBT")
    assert fields == {"status": "sent"}
    await refused(resolve(shop, order_id, "shipped", DELIVERED), grpc.StatusCode.NOT_FOUND, "MAIL_NOT_FOUND")
    await refused(
        resolve(shop, order_id, "downloads", pb.MAIL_RESOLUTION_UNSPECIFIED), INVALID, "INVALID_FIELD"
    )
    assert len(await shop.sql("SELECT 1 FROM audit_log WHERE subject = %s", order_id)) == 1
    with pytest.raises(CheckViolation):
        await shop.sql("UPDATE mails SET next_attempt_at = now() WHERE order_id = %s", order_id)


async def waiting(shop: Shop, database: Database) -> Order:
    """An order whose two mails somebody has put off for an hour."""
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    shop.smtp.refusing = True
    try:
        placed = await shop.place(user_id, {product_id: 1}, email="ada@example.com")
        await shop.until(
            "SELECT 1 FROM mails WHERE order_id = %s AND handed_at IS NULL AND last_error <> '' OFFSET 1",
            placed.id,
        )
        await shop.sql(
            "UPDATE mails SET next_attempt_at = now() + interval '1 h', last_error = NULL"
            " WHERE order_id = %s",
            placed.id,
        )
    finally:
        shop.smtp.refusing = False
    async with database.worker() as connection:
        order = await find_order(connection, UUID(placed.id))
    assert order is not None
    return order


async def test_who_is_stopped_between_a_text_and_its_answer_keeps_the_answer(
    shop: Shop, database: Database
) -> None:
    order = await waiting(shop, database)
    mailer = asyncio.create_task(handed_over(shop, database, order).run())
    shop.smtp.answering.clear()
    try:
        await shop.until("SELECT 1 FROM mails WHERE order_id = %s AND handed_at <= now() OFFSET 1", order.id)
        mailer.cancel()
    finally:
        shop.smtp.answering.set()
    await asyncio.wait([mailer])
    assert mailer.cancelled()
    assert await shop.mails_sent(str(order.id)) == {"receipt", "downloads"}


async def test_an_answer_is_kept_when_the_database_is_back(shop: Shop, database: Database) -> None:
    """It is away after the mails were handed, for one try."""

    class Away(Database):
        """Statements of one connection, of which the second fails."""

        def __init__(self) -> None:
            self.statements = 0

        @asynccontextmanager
        async def worker_statement(self) -> AsyncIterator[FixedSql]:
            self.statements += 1
            if self.statements == 2:
                raise OperationalError("the server closed the connection")
            async with database.worker_statement() as connection:
                yield connection

    order, away = await waiting(shop, database), Away()
    delivery = Delivery(away, smtp_url=shop.smtp.url, write=written)
    await delivery.send([mail_of(order, kind) for kind in ("receipt", "downloads")])
    assert away.statements == 3
    assert await shop.mails_sent(str(order.id)) == {"receipt", "downloads"}


async def test_a_late_refusal_leaves_alone_what_was_handed_since(shop: Shop, database: Database) -> None:
    order = await waiting(shop, database)
    mail = mail_of(order, "receipt")
    async with database.worker_statement() as connection:
        before = (await hand(connection, [mail]))[mail.key]
        assert await hand(connection, [mail]) == {}
        await connection.execute(
            "UPDATE mails SET handed_at = NULL, next_attempt_at = now() + interval '1 h' WHERE order_id = %s",
            (order.id,),
        )
        since = (await hand(connection, [mail]))[mail.key]
        for stale in (None, before):
            await try_later(connection, mail, error="late", seconds=0, handed_at=stale)
    [row] = await shop.sql("SELECT * FROM mails WHERE order_id = %s AND kind = 'receipt'", order.id)
    assert (row["handed_at"], row["last_error"]) == (since, None)


async def test_an_address_that_cannot_be_opened_stops_no_other_mail(shop: Shop, database: Database) -> None:
    lost = await waiting(shop, database)
    await shop.sql("UPDATE orders SET email = %s WHERE id = %s", b"\1", lost.id)
    await shop.sql("UPDATE mails SET next_attempt_at = now() WHERE order_id = %s", lost.id)
    error = "UnreadableAddressError"
    await shop.until("SELECT 1 FROM mails WHERE order_id = %s AND last_error = %s OFFSET 1", lost.id, error)
    order = await shop.place(await shop.wallet.user(100), {await shop.product(): 1}, email="ada@example.com")
    assert await shop.mails_sent(order.id) == {"receipt", "downloads"}
    assert shop.smtp.ids(str(lost.id)) == []
    await shop.sql("DELETE FROM mails WHERE order_id = %s", lost.id)


def mail_of(order: Order, kind: str) -> Mail:
    values: dict[str, Any] = dict.fromkeys(Mail.__dataclass_fields__)
    return Mail(
        **values | {"order_id": order.id, "kind": kind, "attempts": 0, "created_at": order.created_at}
    )


def written(mail: Mail) -> Message:
    content = f"Message-ID: <{mail.order_id}.{mail.kind}@aishop.test>\r\n\r\nHello.\r\n"
    return Message("shop@aishop.test", "ada@example.com", content.encode())


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
