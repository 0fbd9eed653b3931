"""Receipts by SMTP: queued in the transaction that completes the order, sent afterwards.

States of a mail: unsent (due at next_attempt_at) → sent. A sender claims a batch by moving
next_attempt_at a lease ahead, sends with no transaction open, then marks. A crash in between sends again
under the same Message-ID, by which mail clients drop the copy: SMTP itself knows no once-only delivery.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from urllib.parse import urlsplit
from uuid import UUID

import aiosmtplib
from psycopg.rows import class_row

from services.chassis import failpoints, logs
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.workers import Worker
from services.orders.card_saga import email_place
from services.orders.rules import backoff_seconds

log = logs.get(__name__)

_BATCH = 50
_TICK_SECONDS = 1.0
_LINGER_SECONDS = 0.1
_SMTP_SECONDS = 10.0
_ALERT_AFTER = 10

_CLAIM = """
    WITH due AS (
        SELECT order_id, kind FROM mails
        WHERE sent_at IS NULL AND next_attempt_at <= now()
        ORDER BY next_attempt_at LIMIT %s FOR UPDATE SKIP LOCKED),
    claimed AS (
        UPDATE mails m SET next_attempt_at = now() + interval '60 s', attempts = m.attempts + 1
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
    """Sends what is queued over one kept SMTP connection."""

    def __init__(self, database: Database, keyring: Keyring, *, smtp_url: str, sender: str) -> None:
        address = urlsplit(smtp_url)
        self._database = database
        self._keyring = keyring
        self._sender = sender
        self._smtp = aiosmtplib.SMTP(
            hostname=address.hostname,
            port=address.port,
            username=address.username,
            password=address.password,
            use_tls=address.scheme == "smtps",
            timeout=_SMTP_SECONDS,
        )
        self._worker = Worker(
            "mailer", self._send_batch, tick_seconds=_TICK_SECONDS, linger_seconds=_LINGER_SECONDS
        )
        self.wake = self._worker.wake
        self.run = self._worker.run

    async def _send_batch(self) -> bool:
        async with (
            self._database.worker_sql() as connection,
            connection.cursor(row_factory=class_row(Receipt)) as cursor,
        ):
            receipts = await (await cursor.execute(_CLAIM, (_BATCH,))).fetchall()
        if not receipts:
            return False
        sent = [receipt.order_id for receipt in receipts if await self._send(receipt)]
        failpoints.hit("mail.sent")
        if sent:
            async with self._database.worker_sql() as connection:
                await connection.execute(_SENT, (sent,))
        return len(receipts) == _BATCH

    async def _send(self, receipt: Receipt) -> bool:
        to = self._keyring.open(receipt.email, place=email_place(receipt.order_id)).decode()
        try:
            if not self._smtp.is_connected:
                await self._smtp.connect()
            await self._smtp.send_message(_letter(receipt, sender=self._sender, to=to))
        except (aiosmtplib.SMTPException, OSError) as error:
            await self._try_later(receipt, error)
            return False
        return True

    async def _try_later(self, receipt: Receipt, error: Exception) -> None:
        report = log.error if receipt.attempts > _ALERT_AFTER else log.warning
        report("mail.failed", order_id=str(receipt.order_id), error=type(error).__name__)
        self._smtp.close()
        async with self._database.worker_sql() as connection:
            delay = backoff_seconds(receipt.attempts)
            await connection.execute(_FAILED, (type(error).__name__, delay, receipt.order_id))


def _letter(receipt: Receipt, *, sender: str, to: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = to
    message["Subject"] = f"Your AI Shop order {str(receipt.order_id)[-12:]}"
    message["Message-ID"] = f"<{receipt.order_id}.receipt@{sender.partition('@')[2]}>"
    message["Date"] = format_datetime(receipt.created_at)
    message.set_content(_text(receipt.lines, _total(receipt), receipt.order_id))
    return message


def _text(lines: Sequence[str], total: str, order_id: UUID) -> str:
    listed = "\n".join(f"  {line}" for line in lines)
    return f"Thank you for your order.\n\n{listed}\n\n  Total: {total}\n\nOrder {order_id}\n"


def _total(receipt: Receipt) -> str:
    if receipt.total_points:
        return f"{receipt.total_points} points"
    units, cents = divmod(receipt.total_cents, 100)
    return f"{units}.{cents:02d} {receipt.currency.upper()}"
