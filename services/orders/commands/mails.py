"""Mails are queued in the transaction of what they tell of, each kind once; services/orders/mails sends.

Of a mail that is in doubt or refused (mails/mail.py) an operator says: send it again, or it is done with.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log
from services.orders import errors
from services.orders.models import mails, orders
from services.orders.queries.mails import DOUBTED, REFUSED, SENT, WAITING, SeenMail, lock_mail


async def queue_mail(connection: AsyncConnection, *, order_id: UUID, user_id: UUID, kind: str) -> None:
    """Queues a mail about an order that has an address; a kind that is queued or sent stays as it is."""
    addressed = select(orders.c.id, literal(user_id), literal(kind)).where(
        orders.c.id == order_id, orders.c.email.is_not(None)
    )
    await connection.execute(
        insert(mails).from_select(["order_id", "user_id", "kind"], addressed).on_conflict_do_nothing()
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a mail: it goes out again, under the same Message-ID, or counts as sent."""

    order_id: UUID
    kind: str
    is_delivered: bool
    actor: str
    reason: str


async def resolve_mail(connection: AsyncConnection, verdict: Verdict) -> SeenMail:
    """One transaction with its audit entry. Deciding the same twice changes nothing. Raises MAIL_NOT_FOUND,
    MAIL_NOT_IN_DOUBT."""
    key = verdict.order_id, verdict.kind
    mail = await lock_mail(connection, key)
    if mail is None:
        raise errors.mail_not_found(verdict.order_id)
    if mail.status == (SENT if verdict.is_delivered else WAITING):
        return mail
    if mail.status not in (DOUBTED, REFUSED):
        raise errors.mail_not_in_doubt(mail.status)
    decided = (
        {"sent_at": func.now(), "refused_at": None}
        if verdict.is_delivered
        # From the beginning: at once, and again for days.
        else {"handed_at": None, "refused_at": None, "attempts": 0, "next_attempt_at": func.now()}
    )
    await connection.execute(
        update(mails).where(mails.c.order_id == mail.order_id, mails.c.kind == mail.kind).values(decided)
    )
    await audit_log.append(
        connection,
        actor=verdict.actor,
        action="mail.delivered" if verdict.is_delivered else "mail.sent_again",
        subject=str(mail.order_id),
        reason=verdict.reason,
        details={"kind": mail.kind, "last_error": mail.last_error},
    )
    decided_mail = await lock_mail(connection, key)
    assert decided_mail is not None, "it is locked"
    return decided_mail
