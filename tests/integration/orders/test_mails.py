"""Mails on a running orders service: to whom, once each, again when the server refuses, and in doubt when it
says nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any, Literal
from uuid import UUID, uuid4

import grpc
import pytest
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
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
from services.orders.mails.smtp import SmtpConnection
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


async def test_one_mail_with_receipt_and_links_goes_to_the_address_of_the_order(shop: Shop) -> None:
    product_id, user_id = (
        await shop.product(title="Harbour\r\nBcc: eve@evil.test"),
        await shop.wallet.user(500),
    )
    order = await shop.place(user_id, {product_id: 1}, email="ada@example.com")
    assert await shop.mails_sent(order.id) == {"receipt"}
    mail, text = shop.mail(order.id, "receipt"), text_of(shop, order.id, "receipt")
    assert (mail["To"], mail["Bcc"]) == ("ada@example.com", None)
    assert "Harbour Bcc: eve@evil.test" in text
    assert f"{SHOP_URL}/orders/{order.id}#downloads" in text


async def test_what_the_version_before_has_queued_goes_out(shop: Shop) -> None:
    """Beside a receipt it queued a mail about the downloads."""
    order = await shop.place(await shop.wallet.user(100), {await shop.product(): 1}, email="ada@example.com")
    await shop.sql(
        "INSERT INTO mails (order_id, kind, user_id) VALUES (%s, 'downloads', %s)", order.id, uuid4()
    )
    assert await shop.mails_sent(order.id) == {"receipt", "downloads"}
    assert "Download your pictures" in text_of(shop, order.id, "downloads")


async def test_while_the_server_refuses_mails_wait_and_then_go_once(shop: Shop) -> None:
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    shop.smtp.answer_to_text = "451 4.3.0 try again later"
    try:
        order = await shop.place(user_id, {product_id: 1}, email="ada@example.com")
        rows = await shop.until(
            "SELECT * FROM mails WHERE order_id = %s AND last_error IS NOT NULL", order.id
        )
        assert [(row["kind"], row["last_error"]) for row in rows] == [("receipt", "451 4.3.0 to DATA")]
    finally:
        shop.smtp.answer_to_text = None
    assert await shop.mails_sent(order.id) == {"receipt"}


async def test_of_two_who_have_a_mail_one_sends_it(shop: Shop, database: Database) -> None:
    """Both were handed what another has put off: none of them knows of the others."""
    order = await waiting(shop, database)
    async with background(*(handed_over(shop, database, order).run() for _ in range(4))):
        assert await shop.mails_sent(str(order.id)) == {"receipt"}


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
    """An order whose mail the server has taken, or not, and not answered, two minutes ago."""
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    shop.smtp.hanging_up = how
    try:
        order = await shop.place(user_id, {product_id: 1}, email="ada@example.com")
        await shop.until(
            "SELECT 1 FROM mails WHERE order_id = %s AND handed_at <= now() AND last_error <> ''",
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
    assert len(shop.smtp.ids(order_id)) == 1
    listed = (await shop.operator.ListMails(pb.ListMailsRequest(status="in_doubt", limit=100))).items
    assert [mail.kind for mail in listed if mail.order_id == order_id] == ["receipt"]
    timeline = await shop.operator.GetTimeline(pb.GetTimelineRequest(order_id=order_id))
    summaries = {entry.kind: entry.summary for entry in timeline.entries}
    assert summaries["mail.receipt"] == "mail receipt given to the mail server, whose answer is not known"

    again = await resolve(shop, order_id, "receipt", SEND_AGAIN)
    assert (again.status, again.HasField("handed_at")) == ("waiting", False)
    await shop.until("SELECT 1 FROM mails WHERE order_id = %s HAVING bool_and(sent_at IS NOT NULL)", order_id)
    first, second = shop.smtp.ids(order_id)
    assert first == second
    entries = await shop.sql("SELECT action, reason FROM audit_log WHERE subject = %s ORDER BY seq", order_id)
    assert [entry["action"] for entry in entries] == ["mail.sent_again"]


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
async def test_a_mail_that_is_refused_for_good_ends_with_its_reason_until_an_operator_decides(
    shop: Shop, step: str
) -> None:
    to = f"nobody-{step}@example.com"
    shop.smtp.answers_to[to] = "550 5.1.1 <nobody@example.com> is unknown" if step == "RCPT" else None
    shop.smtp.answer_to_sender = "553 5.7.1 not yours" if step == "MAIL" else None
    shop.smtp.answer_to_text = "554 5.7.1 Refused: spam" if step == "DATA" else None
    reason = {"MAIL": "553 5.7.1 to MAIL", "RCPT": "550 5.1.1 to RCPT", "DATA": "554 5.7.1 to DATA"}[step]
    try:
        order = await shop.place(await shop.wallet.user(100), {await shop.product(): 1}, email=to)
        [row] = await shop.until(
            "SELECT * FROM mails WHERE order_id = %s AND refused_at IS NOT NULL", order.id
        )
    finally:
        shop.smtp.answers_to.clear()
        shop.smtp.answer_to_sender = shop.smtp.answer_to_text = None
    assert (row["attempts"], row["last_error"], row["sent_at"]) == (1, reason, None)
    assert row["next_attempt_at"].year == 9999
    listed = (await shop.operator.ListMails(pb.ListMailsRequest(status="refused", limit=100))).items
    assert [mail.last_error for mail in listed if mail.order_id == order.id] == [reason]
    timeline = await shop.operator.GetTimeline(pb.GetTimelineRequest(order_id=order.id))
    assert f"mail receipt refused by the mail server: {reason}" in [e.summary for e in timeline.entries]
    # It is due at no time, whatever claims it.
    with pytest.raises(CheckViolation):
        await shop.sql("UPDATE mails SET next_attempt_at = now() WHERE order_id = %s", order.id)
    if step == "MAIL":
        assert (await resolve(shop, order.id, "receipt", DELIVERED)).status == "sent"
        assert shop.smtp.ids(order.id) == []
    else:
        again = await resolve(shop, order.id, "receipt", SEND_AGAIN)
        assert (again.status, again.attempts) == ("waiting", 0)
        assert await shop.mails_sent(order.id) == {"receipt"}


@pytest.mark.parametrize(
    ("tries", "seconds"), [(1, 1), (5, 16), (10, 900), (20, 6 * 3600), (33, 6 * 3600), (34, None)]
)
async def test_what_is_put_off_waits_for_seconds_then_for_hours_and_then_for_an_operator(
    shop: Shop, database: Database, tries: int, seconds: int | None
) -> None:
    order = await waiting(shop, database)
    shop.smtp.answers_to["ada@example.com"] = "452 4.2.2 the mailbox is full"
    try:
        await tried(shop, database, order, tries=tries, smtp_url=shop.smtp.url)
    finally:
        shop.smtp.answers_to.clear()
    row = await mail_row(shop, order)
    assert row["last_error"] == "452 4.2.2 to RCPT"
    assert (row["refused_at"] is not None) is (seconds is None)
    if seconds is not None:
        assert seconds - 2 < row["pause_seconds"] <= seconds


async def test_an_outage_ends_no_mail_and_makes_none_late(shop: Shop, database: Database) -> None:
    order = await waiting(shop, database)
    # Nobody listens at port 1.
    await tried(shop, database, order, tries=500, smtp_url="smtp://127.0.0.1:1")
    row = await mail_row(shop, order)
    assert (row["refused_at"], row["last_error"]) == (None, "SMTPConnectError")
    assert 290 < row["pause_seconds"] <= 300


async def tried(shop: Shop, database: Database, order: Order, *, tries: int, smtp_url: str) -> None:
    """One try more of a mail that was tried so often."""
    mail = replace(mail_of(order, "receipt"), attempts=tries)
    await Delivery(database, smtp_url=smtp_url, write=written).send([mail])


async def mail_row(shop: Shop, order: Order) -> dict[str, Any]:
    [row] = await shop.sql(
        "SELECT *, extract(epoch FROM next_attempt_at - now())::float AS pause_seconds FROM mails"
        " WHERE order_id = %s",
        order.id,
    )
    return row


async def test_what_is_tried_again_is_in_no_fresh_mails_way(shop: Shop, database: Database) -> None:
    """The mail server is slow about it: over the same connections a fresh mail would wait for each round."""
    put_off = [await waiting(shop, database) for _ in range(2)]
    shop.smtp.answering_to_recipients.clear()
    shop.smtp.slow.add("ada@example.com")
    try:
        await shop.sql(
            "UPDATE mails SET next_attempt_at = now(), attempts = 3 WHERE order_id = ANY(%s)",
            [order.id for order in put_off],
        )
        await shop.until("SELECT 1 FROM mails WHERE order_id = %s AND attempts = 4", put_off[0].id)
        fresh = await shop.place(
            await shop.wallet.user(100), {await shop.product(): 1}, email="bob@example.com"
        )
        await shop.sql("UPDATE mails SET next_attempt_at = now() WHERE order_id = %s", fresh.id)
        assert await shop.mails_sent(fresh.id, seconds=5) == {"receipt"}
    finally:
        shop.smtp.answering_to_recipients.set()
        shop.smtp.slow.clear()
    for order in put_off:
        await shop.mails_sent(str(order.id))


async def test_the_mail_server_is_told_user_and_password_decoded() -> None:
    told: list[LoginPassword] = []

    def authenticate(
        _server: SMTP, _session: Session, _envelope: Envelope, _how: str, who: Any
    ) -> AuthResult:
        told.append(who)
        return AuthResult(success=True)

    def server() -> SMTP:
        return SMTP(Sink(), authenticator=authenticate, auth_require_tls=False, hostname="mail.test")

    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        smtp = SmtpConnection(f"smtp://no-reply%40shop.example:p%2Bss%2Fw%40rd@127.0.0.1:{port}")
        await smtp.begin(sender="shop@aishop.test", to="ada@example.com")
        smtp.close()
    assert [(who.login, who.password) for who in told] == [(b"no-reply@shop.example", b"p+ss/w@rd")]


async def test_what_was_decided_of_a_mail_stays_decided(shop: Shop) -> None:
    order_id = await in_doubt(shop, "lost")
    with pytest.raises(CheckViolation):
        await shop.sql("UPDATE mails SET next_attempt_at = now() WHERE order_id = %s", order_id)
    for _ in range(2):
        assert (await resolve(shop, order_id, "receipt", DELIVERED)).status == "sent"
    fields = await refused(resolve(shop, order_id, "receipt", SEND_AGAIN), REJECTED, "MAIL_NOT_IN_DOUBT")
    assert fields == {"status": "sent"}
    await refused(resolve(shop, order_id, "shipped", DELIVERED), grpc.StatusCode.NOT_FOUND, "MAIL_NOT_FOUND")
    await refused(
        resolve(shop, order_id, "receipt", pb.MAIL_RESOLUTION_UNSPECIFIED), INVALID, "INVALID_FIELD"
    )
    assert len(await shop.sql("SELECT 1 FROM audit_log WHERE subject = %s", order_id)) == 1


async def waiting(shop: Shop, database: Database) -> Order:
    """An order whose mail somebody has put off for an hour."""
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    shop.smtp.answer_to_text = "451 4.3.0 try again later"
    try:
        placed = await shop.place(user_id, {product_id: 1}, email="ada@example.com")
        await shop.until(
            "SELECT 1 FROM mails WHERE order_id = %s AND handed_at IS NULL AND last_error <> ''",
            placed.id,
        )
        await shop.sql(
            "UPDATE mails SET next_attempt_at = now() + interval '1 h', last_error = NULL"
            " WHERE order_id = %s",
            placed.id,
        )
    finally:
        shop.smtp.answer_to_text = None
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
        await shop.until("SELECT 1 FROM mails WHERE order_id = %s AND handed_at <= now()", order.id)
        mailer.cancel()
    finally:
        shop.smtp.answering.set()
    await asyncio.wait([mailer])
    assert mailer.cancelled()
    assert await shop.mails_sent(str(order.id)) == {"receipt"}


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
    await delivery.send([mail_of(order, "receipt")])
    assert away.statements == 3
    assert await shop.mails_sent(str(order.id)) == {"receipt"}


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
    await shop.until("SELECT 1 FROM mails WHERE order_id = %s AND last_error = %s", lost.id, error)
    order = await shop.place(await shop.wallet.user(100), {await shop.product(): 1}, email="ada@example.com")
    assert await shop.mails_sent(order.id) == {"receipt"}
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
    assert await shop.mails_sent(order.id) == {"receipt", f"refund.{refund.id}"}
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
    assert await shop.mails_sent(order.id) == {"receipt", "shipped"}
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
