"""Which mails are sent when: those that are handed over, and those that are left in the table.

Whoever completes an order hands its mails over in memory and has leased them by their first next_attempt_at;
what a crash left behind is claimed from the table once that time has come. What was tried in vain is claimed
apart and goes over connections of its own: however much of it there is, it is in no fresh mail's way. Each
goes out once: delivery.py.
"""

import asyncio
from contextlib import suppress

import psycopg
from cryptography.exceptions import InvalidTag
from sqlalchemy.exc import SQLAlchemyError

from services.chassis import failpoints, logs
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.outages import lasting
from services.chassis.workers import Worker
from services.orders.commands.settling import Confirmed
from services.orders.mails.delivery import Delivery
from services.orders.mails.letters import letter_of
from services.orders.mails.mail import RECEIPT, Mail, claim_due
from services.orders.mails.message import Message, message_of
from services.orders.queries.orders import Order
from services.orders.sealing import email_place

log = logs.get(__name__)

_BATCH = 50
_TICK_SECONDS = 2.0
_GATHER_SECONDS = 0.1
# A batch at a mail server that lets each of them wait.
_LONGEST_SECONDS = 900.0
_QUEUE = 10_000


class UnreadableAddressError(ValueError):
    """It was sealed with a key that is lost, or is none of ours."""


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
        self._delivery = Delivery(database, smtp_url=smtp_url, write=self._write)
        self._redelivery = Delivery(database, smtp_url=smtp_url, write=self._write)
        self._handed_over: asyncio.Queue[Mail] = asyncio.Queue(_QUEUE)
        self._worker = Worker(
            "mailer", self._send_left_behind, tick_seconds=_TICK_SECONDS, longest_seconds=_LONGEST_SECONDS
        )
        self._trying_again = Worker(
            "mailer.again", self._send_again, tick_seconds=_TICK_SECONDS, longest_seconds=_LONGEST_SECONDS
        )
        self.wake = self._worker.wake

    def hand_over(self, order: Order, confirmed: Confirmed) -> None:
        """Sends the receipt of an order that this process completed; a full queue leaves it to the table."""
        if order.email is not None:
            with suppress(asyncio.QueueFull):
                self._handed_over.put_nowait(_receipt_of(order, confirmed, order.email))

    @lasting
    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._worker.run())
            group.create_task(self._trying_again.run())
            group.create_task(self._send_handed_over())

    async def _send_handed_over(self) -> None:
        while True:
            mails = [await self._handed_over.get()]
            await asyncio.sleep(_GATHER_SECONDS)
            while len(mails) < _BATCH and not self._handed_over.empty():
                mails.append(self._handed_over.get_nowait())
            try:
                await self._delivery.send(mails)
            except (psycopg.Error, SQLAlchemyError) as error:
                # Their lease runs out, and then they are sent from the table.
                log.warning("mail.left_behind", error=repr(error))

    async def _send_left_behind(self) -> bool:
        return await self._send_due(self._delivery, is_fresh=True)

    async def _send_again(self) -> bool:
        return await self._send_due(self._redelivery, is_fresh=False)

    async def _send_due(self, delivery: Delivery, *, is_fresh: bool) -> bool:
        async with self._database.worker_statement() as connection:
            claimed = await claim_due(
                connection, is_fresh=is_fresh, limit=_BATCH, lease_seconds=self._lease_seconds
            )
        failpoints.hit("mail.claimed")
        await delivery.send(claimed)
        return len(claimed) == _BATCH

    def _write(self, mail: Mail) -> Message:
        try:
            to = self._keyring.open(mail.email, place=email_place(mail.order_id)).decode()
        except (InvalidTag, KeyError, IndexError) as error:
            raise UnreadableAddressError from error
        letter = letter_of(mail, shop_url=self._shop_url, grant_days=self._grant_days)
        return message_of(mail, letter, sender=self._sender, to=to)


def _receipt_of(order: Order, confirmed: Confirmed, email: bytes) -> Mail:
    """What the pivot has queued for an order."""
    return Mail(
        order_id=order.id,
        kind=RECEIPT,
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
