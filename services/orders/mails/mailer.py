"""Sends mails over a few kept SMTP connections.

Whoever completes an order hands its mails over in memory and has leased them by their first next_attempt_at;
what a crash left behind is claimed from the table once that time has come. A mail whose turn comes late is
left to the table too: somebody else may be about to send it. Mails are sent with no transaction open and then
marked. A crash in between sends again under the same Message-ID, by which mail clients drop the copy: SMTP
knows no once-only delivery.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiosmtplib
import psycopg
from sqlalchemy.exc import SQLAlchemyError

from services.chassis import failpoints, logs
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.workers import Worker
from services.orders.commands.settling import Confirmed
from services.orders.fulfilment import DIGITAL
from services.orders.mails.letters import letter_of
from services.orders.mails.mail import DOWNLOADS, RECEIPT, Mail, claim_due, mark_sent, try_later
from services.orders.mails.message import message_of
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


@dataclass(frozen=True, slots=True)
class _Held:
    """A mail that is ours to send until then, on the monotonic clock."""

    mail: Mail
    until: float


class Mailer:
    """Sends what is handed over, and what is left in the table."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        *,
        smtp_url: str,
        sender: str,
        shop_url: str,
        grant_days: int,
        lease_seconds: float,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._sender = sender
        self._shop_url = shop_url.rstrip("/")
        self._grant_days = grant_days
        self._lease_seconds = lease_seconds
        self._connections = [_connection(smtp_url) for _ in range(_CONNECTIONS)]
        self._handed_over: asyncio.Queue[_Held] = asyncio.Queue(_QUEUE)
        self._worker = Worker("mailer", self._send_left_behind, tick_seconds=_TICK_SECONDS)
        self.wake = self._worker.wake

    def hand_over(self, order: Order, confirmed: Confirmed) -> None:
        """Sends the mails of an order that this process completed; a full queue leaves them to the table."""
        if order.email is not None:
            with suppress(asyncio.QueueFull):
                for mail in _mails_of(order, confirmed, order.email):
                    self._handed_over.put_nowait(self._held(mail))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._worker.run())
            group.create_task(self._send_handed_over())

    async def _send_handed_over(self) -> None:
        while True:
            mails = [await self._handed_over.get()]
            await asyncio.sleep(_GATHER_SECONDS)
            while len(mails) < _BATCH and not self._handed_over.empty():
                mails.append(self._handed_over.get_nowait())
            try:
                await self._send_all(mails)
            except (psycopg.Error, SQLAlchemyError) as error:
                # Unmarked: sent again from the table, under the same Message-ID.
                log.warning("mail.not_marked", error=repr(error))

    async def _send_left_behind(self) -> bool:
        async with self._database.worker_statement() as connection:
            claimed = await claim_due(connection, limit=_BATCH, lease_seconds=self._lease_seconds)
        failpoints.hit("mail.claimed")
        await self._send_all([self._held(mail) for mail in claimed])
        return len(claimed) == _BATCH

    def _held(self, mail: Mail) -> "_Held":
        """Until half of its lease has passed, so that it is sent and marked within the other half."""
        return _Held(mail, until=time.monotonic() + self._lease_seconds / 2)

    async def _send_all(self, mails: Sequence["_Held"]) -> None:
        shares = [mails[start::_CONNECTIONS] for start in range(_CONNECTIONS)]
        done = await asyncio.gather(*map(self._send_over, self._connections, shares))
        sent = [mail for share in done for mail in share]
        failpoints.hit("mail.sent")
        if sent:
            async with self._database.worker_statement() as connection:
                await mark_sent(connection, sent)

    async def _send_over(self, smtp: aiosmtplib.SMTP, mails: Sequence["_Held"]) -> list[Mail]:
        """Sends one after the other; returns those that were taken."""
        return [
            held.mail for held in mails if time.monotonic() < held.until and await self._send(smtp, held.mail)
        ]

    async def _send(self, smtp: aiosmtplib.SMTP, mail: Mail) -> bool:
        to = self._keyring.open(mail.email, place=email_place(mail.order_id)).decode()
        try:
            letter = letter_of(mail, shop_url=self._shop_url, grant_days=self._grant_days)
            message = message_of(mail, letter, sender=self._sender, to=to)
            if not smtp.is_connected:
                await smtp.connect()
            # The envelope is said here: out of the headers, an address could be read as several.
            options = [] if to.isascii() else ["SMTPUTF8"]
            await smtp.sendmail(self._sender, [to], message, mail_options=options)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            smtp.close()
            await self._try_later(mail, error)
            return False
        return True

    async def _try_later(self, mail: Mail, error: Exception) -> None:
        report = log.error if mail.attempts > _ALERT_AFTER else log.warning
        report("mail.failed", order_id=str(mail.order_id), kind=mail.kind, error=type(error).__name__)
        async with self._database.worker_statement() as connection:
            await try_later(
                connection, mail, error=type(error).__name__, seconds=backoff_seconds(mail.attempts)
            )


def _mails_of(order: Order, confirmed: Confirmed, email: bytes) -> list[Mail]:
    """What the pivot has queued for an order."""
    kinds = [RECEIPT, DOWNLOADS] if DIGITAL.product_type in confirmed.types else [RECEIPT]
    return [
        Mail(
            order_id=order.id,
            kind=kind,
            attempts=0,
            created_at=confirmed.at,
            email=email,
            currency=order.currency,
            total_cents=order.total_cents,
            total_points=order.total_points,
            titles=[line.title for line in order.lines],
            quantities=[line.quantity for line in order.lines],
            types=confirmed.types,
        )
        for kind in kinds
    ]


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
