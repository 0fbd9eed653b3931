"""Sends mails, each once.

| # | a mail's way | a crash afterwards leaves it |
|---|---|---|
| 1 | the envelope: "later" puts it off, "never" ends it | unsent: it goes out when its lease is over |
| 2 | `hand`, one statement: of many senders one gets the mail | in doubt |
| 3 | the text, and the server's answer | in doubt |
| 4 | the answer is kept: sent, unsent again, refused, or in doubt when there was none | as it was kept |

Between 2 and 4 nobody can know whether the server has the mail, since SMTP cannot be asked: it stays in doubt
and is not sent again. Who is told to stop, or loses the database, tries to get to 4 first.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from services.chassis import backoff, failpoints, logs
from services.chassis.db import Database, FixedSql
from services.chassis.tasks import to_the_end
from services.orders.mails.mail import Key, Mail, hand, leave_in_doubt, mark_sent, refuse, try_later
from services.orders.mails.message import Message
from services.orders.mails.smtp import Refusal, RefusedError, SmtpConnection, UnansweredError

log = logs.get(__name__)

_CONNECTIONS = 4
# While the mail server is away, no mail waits longer than this once it is back.
_AWAY_SECONDS = 300.0
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
    """What became of a mail; no error: it was sent. `handed_at` is None when it was refused before."""

    mail: Mail
    handed_at: datetime | None
    error: str = ""
    # None: sent, or in doubt.
    refusal: Refusal | None = None


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
            await to_the_end(self._finish_round(begun), patience_seconds=_STOP_SECONDS)

    async def _begin(self, smtp: SmtpConnection, mail: Mail) -> _Begun | _Answer:
        """Touches no database: it fails for a mail alone, and no connection is left in the middle of one."""
        try:
            message = self._write(mail)
            await smtp.begin(sender=message.sender, to=message.to)
        except RefusedError as error:
            return _Answer(mail, None, str(error), error.refusal)
        except ValueError as error:
            # What it says may hold the address. A key that is missing may come back.
            return _Answer(mail, None, type(error).__name__, Refusal.LATER)
        return _Begun(mail, message, smtp)

    async def _finish_round(self, begun: Sequence[_Begun | _Answer]) -> None:
        refused = [each for each in begun if isinstance(each, _Answer)]
        ours = await self._hand([each for each in begun if isinstance(each, _Begun)])
        failpoints.hit("mail.handed")
        answers = await asyncio.gather(*(_finish(each, handed_at) for each, handed_at in ours))
        failpoints.hit("mail.sent")
        await self._keep([*refused, *answers])

    async def _hand(self, begun: Sequence[_Begun]) -> Sequence[tuple[_Begun, datetime]]:
        """Those that are ours to finish, and when they were handed; the others are broken off."""
        if not begun:
            return []
        ours: Mapping[Key, datetime] = {}
        try:
            async with self._database.worker_statement() as connection:
                ours = await hand(connection, [each.mail for each in begun])
        finally:
            for each in begun:
                if each.mail.key not in ours:
                    each.smtp.close()
        return [(each, ours[each.mail.key]) for each in begun if each.mail.key in ours]

    async def _keep(self, answers: Sequence[_Answer]) -> None:
        """Again and again while the database is away: the mails would be in doubt although we know."""
        for tries_left in reversed(range(_KEEP_TRIES)):
            try:
                async with self._database.worker_statement() as connection:
                    await _keep_answers(connection, answers)
                return
            except (psycopg.Error, SQLAlchemyError) as error:
                report = log.warning if tries_left else log.error
                report("mail.answers_not_kept", tries_left=tries_left, error=repr(error))
                await asyncio.sleep(_KEEP_PAUSE_SECONDS)


async def _finish(begun: _Begun, handed_at: datetime) -> _Answer:
    try:
        await begun.smtp.finish(begun.message.content)
    except RefusedError as error:
        return _Answer(begun.mail, handed_at, str(error), error.refusal)
    except UnansweredError as error:
        return _Answer(begun.mail, handed_at, str(error))
    return _Answer(begun.mail, handed_at)


async def _keep_answers(connection: FixedSql, answers: Sequence[_Answer]) -> None:
    if sent := [answer.mail for answer in answers if not answer.error]:
        await mark_sent(connection, sent)
    for answer in answers:
        if answer.refusal is not None:
            await _keep_refusal(connection, answer, answer.refusal)
        elif answer.error:
            await leave_in_doubt(connection, answer.mail, error=answer.error)
            _report(log.error, "mail.in_doubt", answer)


async def _keep_refusal(connection: FixedSql, answer: _Answer, refusal: Refusal) -> None:
    """An outage ends no mail; a server that says "later" for days has said no."""
    mail, pause = answer.mail, backoff.DEFAULT.pause_after(answer.mail.attempts)
    is_spent = refusal is Refusal.LATER and pause.phase is backoff.Phase.SPENT
    if refusal is Refusal.FINAL or is_spent:
        _report(log.error, "mail.refused", answer)
        await refuse(connection, mail, error=answer.error, handed_at=answer.handed_at)
        return
    _report(log.error if pause.needs_operator else log.warning, "mail.failed", answer)
    seconds = pause.seconds if refusal is Refusal.LATER else min(pause.seconds, _AWAY_SECONDS)
    await try_later(connection, mail, error=answer.error, seconds=seconds, handed_at=answer.handed_at)


def _report(report: Callable[..., None], what: str, answer: _Answer) -> None:
    report(what, order_id=str(answer.mail.order_id), kind=answer.mail.kind, error=answer.error)
