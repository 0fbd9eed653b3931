"""Sends mails, each once.

| # | a mail's way | a crash afterwards leaves it |
|---|---|---|
| 1 | the envelope is said; a "no" puts the mail off | unsent: it goes out when its lease is over |
| 2 | `hand`, one statement: of many senders one gets the mail | in doubt |
| 3 | the text, and the server's answer | in doubt |
| 4 | the answer is kept: sent, unsent again, or in doubt when there was none | as it was kept |

Between 2 and 4 nobody can know whether the server has the mail, since SMTP cannot be asked: it stays in doubt
and is not sent again. Who is told to stop, or loses the database, tries to get to 4 first.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from services.chassis import failpoints, logs
from services.chassis.db import Database, FixedSql
from services.chassis.tasks import to_the_end
from services.orders.mails.mail import Key, Mail, hand, leave_in_doubt, mark_sent, try_later
from services.orders.mails.message import Message
from services.orders.mails.smtp import RefusedError, SmtpConnection, UnansweredError
from services.orders.rules import backoff_seconds

log = logs.get(__name__)

_CONNECTIONS = 4
_ALERT_AFTER = 10
# How long who is told to stop waits for the answers to what is on its way.
_STOP_SECONDS = 5.0
_KEEP_TRIES = 20
_KEEP_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Begun:
    """A mail whose text a server waits for."""

    mail: Mail
    message: Message
    smtp: SmtpConnection


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of a mail; no error: it was sent."""

    mail: Mail
    error: str = ""
    is_refusal: bool = False


class Delivery:
    """Over a few kept connections. `write` makes the message of a mail; ValueError: it cannot be sent."""

    def __init__(self, database: Database, *, smtp_url: str, write: Callable[[Mail], Message]) -> None:
        self._database = database
        self._write = write
        self._connections = [SmtpConnection(smtp_url) for _ in range(_CONNECTIONS)]
        self._turn = asyncio.Lock()

    async def send(self, mails: Sequence[Mail]) -> None:
        """Raises psycopg.Error, SQLAlchemyError: what was not handed to us is left to the table."""
        for start in range(0, len(mails), _CONNECTIONS):
            await self._send_round(mails[start : start + _CONNECTIONS])

    async def _send_round(self, mails: Sequence[Mail]) -> None:
        """A mail over each connection."""
        async with self._turn:
            begun = await asyncio.gather(*map(self._begin, self._connections, mails))
            await to_the_end(
                self._finish_round([each for each in begun if each is not None]),
                patience_seconds=_STOP_SECONDS,
            )

    async def _finish_round(self, begun: Sequence[_Begun]) -> None:
        ours = await self._hand(begun)
        failpoints.hit("mail.handed")
        answers = await asyncio.gather(*map(_finish, ours))
        failpoints.hit("mail.sent")
        await self._keep(answers)

    async def _begin(self, smtp: SmtpConnection, mail: Mail) -> _Begun | None:
        try:
            message = self._write(mail)
            await smtp.begin(sender=message.sender, to=message.to)
        except (RefusedError, ValueError) as error:
            async with self._database.worker_statement() as connection:
                await _put_off(connection, mail, error=str(error), was_handed=False)
            return None
        return _Begun(mail, message, smtp)

    async def _hand(self, begun: Sequence[_Begun]) -> Collection[_Begun]:
        """Those that are ours to finish; the others are broken off."""
        if not begun:
            return []
        ours: Collection[Key] = []
        try:
            async with self._database.worker_statement() as connection:
                ours = await hand(connection, [each.mail for each in begun])
        finally:
            for each in begun:
                if each.mail.key not in ours:
                    each.smtp.close()
        return [each for each in begun if each.mail.key in ours]

    async def _keep(self, answers: Sequence[_Answer]) -> None:
        """Again and again while the database is away: the mails would be in doubt although we know."""
        for tries_left in reversed(range(_KEEP_TRIES)):
            try:
                async with self._database.worker_statement() as connection:
                    await _keep_answers(connection, answers)
                return
            except (psycopg.Error, SQLAlchemyError) as error:
                log.warning("mail.answers_not_kept", tries_left=tries_left, error=repr(error))
                await asyncio.sleep(_KEEP_PAUSE_SECONDS)


async def _finish(begun: _Begun) -> _Answer:
    try:
        await begun.smtp.finish(begun.message.content)
    except (RefusedError, UnansweredError) as error:
        return _Answer(begun.mail, str(error), is_refusal=isinstance(error, RefusedError))
    return _Answer(begun.mail)


async def _keep_answers(connection: FixedSql, answers: Sequence[_Answer]) -> None:
    if sent := [answer.mail for answer in answers if not answer.error]:
        await mark_sent(connection, sent)
    for answer in answers:
        if answer.is_refusal:
            await _put_off(connection, answer.mail, error=answer.error, was_handed=True)
        elif answer.error:
            await leave_in_doubt(connection, answer.mail, error=answer.error)
            log.error(
                "mail.in_doubt", order_id=str(answer.mail.order_id), kind=answer.mail.kind, error=answer.error
            )


async def _put_off(connection: FixedSql, mail: Mail, *, error: str, was_handed: bool) -> None:
    report = log.error if mail.attempts > _ALERT_AFTER else log.warning
    report("mail.failed", order_id=str(mail.order_id), kind=mail.kind, error=error)
    seconds = backoff_seconds(mail.attempts)
    await try_later(connection, mail, error=error, seconds=seconds, was_handed=was_handed)
