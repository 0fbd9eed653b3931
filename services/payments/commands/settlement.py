"""One path for everything that Stripe says about a session, however we heard it: the answer to a call,
a webhook, a listing, a poll."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from sqlalchemy import insert
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import logs
from services.payments import facts, queries, rules
from services.payments.commands.checkouts import change_state
from services.payments.models import payments, quarantine
from services.payments.rules import Checkout, Session, Status

log = logs.get(__name__)


class Settlement(Enum):
    APPLIED = auto()
    # Known already, or overtaken by something later.
    OLD_NEWS = auto()
    # The checkout has another session: this one should not be paid.
    OTHER_SESSION = auto()
    QUARANTINED = auto()
    # Nothing of this shop.
    NOT_OURS = auto()


@dataclass(frozen=True, slots=True)
class _News:
    session: Session
    status: Status


async def settle_session(
    connection: AsyncConnection, session: Session, *, payment_failed: bool = False
) -> Settlement:
    """Brings the checkout that the session names to where Stripe says it is; the row's lock makes one
    effect of any number of messengers. A paid session that does not match is parked, never lost."""
    news = _News(session, rules.news_of(session, payment_failed=payment_failed))
    checkout_id = rules.checkout_of(session)
    checkout = await queries.lock_checkout(connection, checkout_id) if checkout_id else None
    if checkout is None:
        return await _settle_stray(connection, news)
    if news.status is Status.PAID:
        reason = rules.mismatch(checkout, session)
        if reason is not None:
            return await _park_payment(connection, checkout, session, reason)
    elif checkout.session_id not in (None, session.id):
        return Settlement.OTHER_SESSION
    if not rules.moves(checkout.status, news.status):
        return Settlement.OLD_NEWS
    await _apply(connection, checkout, news)
    return Settlement.APPLIED


async def _settle_stray(connection: AsyncConnection, news: _News) -> Settlement:
    if not rules.bears_our_metadata(news.session):
        return Settlement.NOT_OURS
    if news.status is not Status.PAID:
        return Settlement.OLD_NEWS
    await _park(connection, None, news.session, "unknown_checkout")
    return Settlement.QUARANTINED


async def _apply(connection: AsyncConnection, checkout: Checkout, news: _News) -> None:
    values: dict[str, Any] = {
        "status": news.status,
        "session_id": news.session.id,
        "url": news.session.url or checkout.url,
        "failure_reason": "payment_failed" if news.status is Status.FAILED else None,
    }
    if news.status is Status.PAID:
        values["payment_intent_id"] = news.session.payment_intent_id
    changed = await change_state(connection, checkout, values)
    if changed.status is Status.PAID:
        await connection.execute(
            insert(payments).values(
                user_id=changed.user_id,
                checkout_id=changed.id,
                payment_intent_id=changed.payment_intent_id,
                amount_cents=changed.amount_cents,
                currency=changed.currency,
            )
        )
    await facts.emit_change(connection, changed)
    log.info("checkout.changed", checkout_id=str(changed.id), status=changed.status, version=changed.version)


async def _park_payment(
    connection: AsyncConnection, checkout: Checkout, session: Session, reason: str
) -> Settlement:
    await _park(connection, checkout, session, reason)
    if checkout.session_id in (None, session.id) and rules.moves(checkout.status, Status.FAILED):
        # Its own session is used up: it cannot be paid any more unless an operator says so.
        changed = await change_state(
            connection,
            checkout,
            {"status": Status.FAILED, "session_id": session.id, "failure_reason": reason},
        )
        await facts.emit_change(connection, changed)
    return Settlement.QUARANTINED


async def _park(
    connection: AsyncConnection, checkout: Checkout | None, session: Session, reason: str
) -> None:
    parked = await connection.scalar(
        upsert(quarantine)
        .values(
            session_id=session.id,
            payment_intent_id=session.payment_intent_id,
            checkout_id=checkout.id if checkout else None,
            amount_cents=session.amount_total,
            currency=session.currency,
            reason=reason,
        )
        .on_conflict_do_nothing(constraint="quarantine_session_id_key")
        .returning(quarantine.c.id)
    )
    if parked:
        log.error("payment.quarantined", session_id=session.id, reason=reason)
