"""Receipts by SMTP: queued in the transaction that completes the order, sent afterwards.

States of a mail: unsent (due at next_attempt_at) → sent. Whoever completes an order hands its receipt over
in memory and has leased the mail by its first next_attempt_at; what a crash left behind is claimed from the
table once that time has come. Mails are sent with no transaction open and then marked. A crash in between
sends again under the same Message-ID, by which mail clients drop the copy: SMTP knows no once-only delivery.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.mime.text import MIMEText
from email.utils import format_datetime
from urllib.parse import urlsplit
from uuid import UUID

import aiosmtplib
import psycopg
from psycopg.rows import class_row
from sqlalchemy.exc import SQLAlchemyError

from services.chassis import failpoints, logs
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.workers import Worker
from services.orders.queries.orders import Order
from services.orders.rules import backoff_seconds
from services.orders.sealing import email_place

log = logs.get(__name__)

_BATCH = 50
_TICK_SECONDS = 2.0
_GATHER_SECONDS = 0.1
_QUEUE = 10_000
_CONNECTIONS = 4
_SMTP_SECONDS = 10.0
_ALERT_AFTER = 10

_CLAIM = """
    WITH due AS (
        SELECT order_id, kind FROM mails
        WHERE sent_at IS NULL AND next_attempt_at <= now()
        ORDER BY next_attempt_at LIMIT %s FOR UPDATE SKIP LOCKED),
    claimed AS (
        UPDATE mails m SET next_attempt_at = now() + %s * interval '1 s', attempts = m.attempts + 1
        FROM due WHERE m.order_id = due.order_id AND m.kind = due.kind
        RETURNING m.order_id, m.attempts)
    SELECT c.order_id, c.attempts, o.email, o.total_cents, o.total_points, o.currency, o.created_at,
        array_agg(i.quantity || ' x ' || i.title ORDER BY i.product_id) AS lines
    FROM claimed c JOIN orders o ON o.id = c.order_id JOIN order_items i ON i.order_id = o.id
    GROUP BY c.order_id, c.attempts, o.id"""
_SENT = "UPDATE mails SET sent_at = now(), last_error = NULL WHERE order_id = ANY(%s) AND kind = 'receipt'"
_FAILED = """
    UPDATE mails SET last_error = %s, next_attempt_at = now() + %s * interval '1 s'
    WHERE order_id = %s AND kind = 'receipt'"""


@dataclass(frozen=True, slots=True)
class Receipt:
    order_id: UUID
    attempts: int
    email: bytes
    total_cents: int
    total_points: int
    currency: str
    created_at: datetime
    lines: list[str]


class Mailer:
    """Sends what is queued over a few kept SMTP connections."""

    def __init__(
        self, database: Database, keyring: Keyring, *, smtp_url: str, sender: str, lease_seconds: float
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._sender = sender
        self._lease_seconds = lease_seconds
        self._connections = [_connection(smtp_url) for _ in range(_CONNECTIONS)]
        self._handed_over: asyncio.Queue[Receipt] = asyncio.Queue(_QUEUE)
        self._worker = Worker("mailer", self._send_left_behind, tick_seconds=_TICK_SECONDS)
        self.wake = self._worker.wake

    def hand_over(self, order: Order) -> None:
        """Sends the receipt of an order that this process completed; a full queue leaves it to the table."""
        if order.email is not None:
            with suppress(asyncio.QueueFull):
                self._handed_over.put_nowait(_receipt(order))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._worker.run())
            group.create_task(self._send_handed_over())

    async def _send_handed_over(self) -> None:
        while True:
            receipts = [await self._handed_over.get()]
            await asyncio.sleep(_GATHER_SECONDS)
            while len(receipts) < _BATCH and not self._handed_over.empty():
                receipts.append(self._handed_over.get_nowait())
            try:
                await self._send_all(receipts)
            except (psycopg.Error, SQLAlchemyError) as error:
                # Unmarked: sent again from the table, under the same Message-ID.
                log.warning("mail.not_marked", error=repr(error))

    async def _send_left_behind(self) -> bool:
        async with (
            self._database.worker_statement() as connection,
            connection.cursor(row_factory=class_row(Receipt)) as cursor,
        ):
            receipts = await (await cursor.execute(_CLAIM, (_BATCH, self._lease_seconds))).fetchall()
        await self._send_all(receipts)
        return len(receipts) == _BATCH

    async def _send_all(self, receipts: Sequence[Receipt]) -> None:
        shares = [receipts[start::_CONNECTIONS] for start in range(_CONNECTIONS)]
        done = await asyncio.gather(*map(self._send_over, self._connections, shares))
        sent = [order_id for share in done for order_id in share]
        failpoints.hit("mail.sent")
        if sent:
            async with self._database.worker_statement() as connection:
                await connection.execute(_SENT, (sent,))

    async def _send_over(self, smtp: aiosmtplib.SMTP, receipts: Sequence[Receipt]) -> list[UUID]:
        """Sends one after the other; returns the orders whose receipt was taken."""
        return [receipt.order_id for receipt in receipts if await self._send(smtp, receipt)]

    async def _send(self, smtp: aiosmtplib.SMTP, receipt: Receipt) -> bool:
        to = self._keyring.open(receipt.email, place=email_place(receipt.order_id)).decode()
        try:
            if not smtp.is_connected:
                await smtp.connect()
            await smtp.send_message(_letter(receipt, sender=self._sender, to=to))
        except (aiosmtplib.SMTPException, OSError) as error:
            smtp.close()
            await self._try_later(receipt, error)
            return False
        return True

    async def _try_later(self, receipt: Receipt, error: Exception) -> None:
        report = log.error if receipt.attempts > _ALERT_AFTER else log.warning
        report("mail.failed", order_id=str(receipt.order_id), error=type(error).__name__)
        async with self._database.worker_statement() as connection:
            delay = backoff_seconds(receipt.attempts)
            await connection.execute(_FAILED, (type(error).__name__, delay, receipt.order_id))


def _connection(smtp_url: str) -> aiosmtplib.SMTP:
    address = urlsplit(smtp_url)
    return aiosmtplib.SMTP(
        hostname=address.hostname,
        port=address.port,
        username=address.username,
        password=address.password,
        use_tls=address.scheme == "smtps",
        timeout=_SMTP_SECONDS,
    )


def _receipt(order: Order) -> Receipt:
    assert order.email is not None, "only an order with an address gets a receipt"
    return Receipt(
        order_id=order.id,
        attempts=0,
        email=order.email,
        total_cents=order.total_cents,
        total_points=order.total_points,
        currency=order.currency,
        created_at=order.created_at,
        lines=[f"{line.quantity} x {line.title}" for line in order.lines],
    )


def _letter(receipt: Receipt, *, sender: str, to: str) -> MIMEText:
    message = MIMEText(_text(receipt.lines, _total(receipt), receipt.order_id), "plain", "utf-8")
    message["From"] = sender
    message["To"] = to
    message["Subject"] = f"Your AI Shop order {str(receipt.order_id)[-12:]}"
    message["Message-ID"] = f"<{receipt.order_id}.receipt@{sender.partition('@')[2]}>"
    message["Date"] = format_datetime(receipt.created_at)
    return message


def _text(lines: Sequence[str], total: str, order_id: UUID) -> str:
    listed = "\n".join(f"  {line}" for line in lines)
    return f"Thank you for your order.\n\n{listed}\n\n  Total: {total}\n\nOrder {order_id}\n"


def _total(receipt: Receipt) -> str:
    if receipt.total_points:
        return f"{receipt.total_points} points"
    units, cents = divmod(receipt.total_cents, 100)
    return f"{units}.{cents:02d} {receipt.currency.upper()}"
