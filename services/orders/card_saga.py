"""Buying with a card, straight at Stripe.

    place_order     order pending, stock reserved, run at open_checkout            (commands/placing.py)
    open_checkout   payments opens the Stripe session; its record keeps id and url on the order and
                    puts the run to sleep at await_payment until the session's expiry + 60 s
    await_payment   mostly the fact `payments.checkout.changed` ends it; when none came in time, payments
                    is asked to end the session, and its answer is applied like the fact

Applying what became of a session (one function, under the run's and the order's row locks):

    PAID        pending | processing → completed (the pivot: stock taken, downloads, mails, event)
                failed | cancelled → processing → completed if the stock can be reserved again; else it
                stays processing with its whole amount being refunded (refund_saga.py)
    PROCESSING  pending → processing, stock kept
    EXPIRED     pending → failed, or cancelled when the customer asked for it; stock released
    FAILED      pending | processing → failed, stock released

Crash points: an unrecorded open_checkout is repeated and payments answers with the same session. Undoing
ends the session first: stock is only released once Stripe confirmed that nobody can pay any more. A
payment that was faster wins over the undo.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2
from services.chassis import failpoints, logs
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.orders import errors, refund_saga
from services.orders.commands import refunds, runs, settling, standing, stock
from services.orders.commands.runs import Run
from services.orders.ending import CANCELLED_BY_CUSTOMER, end_order_of
from services.orders.fulfilment import Terms
from services.orders.queries.orders import Order, find_order, lock_order
from services.orders.remote import Remote
from services.orders.rules import LATE_PAYMENT, Status
from services.orders.saga import Saga, Step
from services.orders.sealing import email_place

log = logs.get(__name__)

PLACE_WITH_CARD = "place_order_with_card/v1"
OPEN, AWAIT = "open_checkout", "await_payment"
# Stripe's own expiry and its webhook come first.
_GRACE_SECONDS = 60.0
# A bank debit takes days; payments is asked again this often.
_PROCESSING_SECONDS = 3600.0

_State = events_pb2.OrderCheckoutState
PAID = events_pb2.ORDER_CHECKOUT_STATE_PAID
PROCESSING = events_pb2.ORDER_CHECKOUT_STATE_PROCESSING
EXPIRED = events_pb2.ORDER_CHECKOUT_STATE_EXPIRED
FAILED = events_pb2.ORDER_CHECKOUT_STATE_FAILED

_STATES: Mapping[int, "_State.ValueType"] = {
    payments_pb2.CHECKOUT_STATUS_PAID: PAID,
    payments_pb2.CHECKOUT_STATUS_PROCESSING: PROCESSING,
    payments_pb2.CHECKOUT_STATUS_EXPIRED: EXPIRED,
    payments_pb2.CHECKOUT_STATUS_FAILED: FAILED,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an order's session. `version` 0: asked for just now, so the newest there is."""

    state: "_State.ValueType"
    version: int
    amount_cents: int
    currency: str
    payment_intent_id: str
    # payments' own, when it failed; empty from a release that did not tell it.
    failure_reason: str = ""
    # What promotion codes took off the total.
    discount_cents: int = 0


class CardSaga:
    """The saga of a card order."""

    def __init__(
        self,
        database: Database,
        remote: Remote,
        keyring: Keyring,
        *,
        terms: Terms,
        after_commit: Callable[[], None],
        ended: Callable[[Collection[UUID]], None],
    ) -> None:
        """`ended` is told which products' stock came back."""
        self._database = database
        self._remote = remote
        self._keyring = keyring
        self._terms = terms
        self._after_commit = after_commit
        self._ended = ended

    def table(self) -> tuple[Saga, ...]:
        return (
            Saga(
                PLACE_WITH_CARD,
                steps=(
                    Step(OPEN, do=self._open, record=self._keep_session),
                    Step(AWAIT, do=self._end_session, record=self._apply),
                ),
                undo=self._undo,
                end=self._end,
                before_pivot=(OPEN, AWAIT),
                waits_at=(AWAIT,),
            ),
        )

    async def _open(self, run: Run) -> payments_pb2.Checkout:
        async with self._database.worker() as connection:
            order = await find_order(connection, run.order_id)
        assert order is not None, "a run is written in the transaction of its order"
        email = b"" if order.email is None else self._keyring.open(order.email, place=email_place(order.id))
        return await self._remote.create_checkout(order, email=email.decode())

    async def _keep_session(self, run: Run, checkout: payments_pb2.Checkout) -> None:
        # A time of payments' database, compared with this one's: no process's clock has a say.
        ends_at = checkout.expires_at.ToDatetime(UTC)
        async with self._database.worker() as connection:
            waits = await runs.wait_at(connection, run, step=AWAIT, since=ends_at, seconds=_GRACE_SECONDS)
            if waits:
                await settling.keep_session(
                    connection, run.order_id, session_id=checkout.session_id, url=checkout.url
                )
            failpoints.hit("orders.keep_session.writing")

    async def _end_session(self, run: Run) -> payments_pb2.Checkout:
        return await self._remote.expire_checkout(user_id=run.user_id, order_id=run.order_id)

    async def _apply(self, run: Run, checkout: payments_pb2.Checkout) -> None:
        async with self._database.worker() as connection:
            await apply_outcome(connection, run.order_id, _outcome(checkout), self._terms)
            failpoints.hit("orders.apply.writing")
        self._after_commit()

    async def _undo(self, run: Run) -> bool:
        checkout = await self._end_session(run)
        if checkout.status == payments_pb2.CHECKOUT_STATUS_EXPIRED:
            return True
        await self._apply(run, checkout)
        return False

    async def _end(self, run: Run, reason: str, fields: Mapping[str, str]) -> None:
        self._ended(await end_order_of(self._database, run, reason, fields))


def _outcome(checkout: payments_pb2.Checkout) -> Outcome:
    return Outcome(
        state=_STATES[checkout.status],
        version=0,
        amount_cents=checkout.amount_cents,
        currency=checkout.currency,
        payment_intent_id=checkout.payment_intent_id,
        failure_reason=checkout.failure_reason,
        discount_cents=checkout.discount_cents,
    )


async def apply_outcome(connection: AsyncConnection, order_id: UUID, outcome: Outcome, terms: Terms) -> None:
    """Applies what became of the order's session; older news and repetitions change nothing."""
    run = await runs.lock_run(connection, order_id=order_id, saga=PLACE_WITH_CARD)
    await settling.lock_bought(connection, order_id)
    order = await lock_order(connection, order_id)
    if run is None or order is None:
        raise errors.order_not_found(order_id)
    if outcome.version and outcome.version <= order.checkout_version:
        return
    if order.is_late:
        # Its money is on its way back.
        return
    await settling.keep_payment(
        connection, order_id, version=outcome.version, payment_intent_id=outcome.payment_intent_id or None
    )
    if outcome.state == PAID:
        await _apply_paid(connection, run, order, outcome, terms)
    elif outcome.state == PROCESSING:
        await _apply_processing(connection, run, order)
    else:
        await _apply_unpaid(connection, run, order, outcome)


async def _apply_paid(
    connection: AsyncConnection, run: Run, order: Order, outcome: Outcome, terms: Terms
) -> None:
    if order.status in (Status.COMPLETED, Status.REFUNDED):
        return
    if not _pays_for(order, outcome):
        await _park(connection, run, "PAYMENT_MISMATCH")
        return
    order = await settling.save_paid(connection, order, paid_cents=outcome.amount_cents)
    if order.status in (Status.FAILED, Status.CANCELLED) and not await _revive(connection, order):
        await runs.finish(connection, order_id=order.id, saga=run.saga, status=runs.DONE)
        return
    paid = replace(order, status=Status.PROCESSING) if order.status is not Status.PENDING else order
    await settling.complete_order(connection, paid, reason="paid", terms=terms)
    # Money may have gone back before we heard that it came.
    await standing.settle_standing(connection, replace(paid, status=Status.COMPLETED, failure_reason=None))
    await runs.finish(connection, order_id=order.id, saga=run.saga, status=runs.DONE)


def _pays_for(order: Order, outcome: Outcome) -> bool:
    adds_up = outcome.amount_cents + outcome.discount_cents == order.total_cents
    in_range = min(outcome.amount_cents, outcome.discount_cents) >= 0
    # What is free has no payment, and nothing else has none.
    has_payment = bool(outcome.payment_intent_id) is (outcome.amount_cents > 0)
    return adds_up and in_range and has_payment and outcome.currency == order.currency


async def _revive(connection: AsyncConnection, order: Order) -> bool:
    """Reserves the stock of an order that was paid after its end; False when it is gone: then the money goes
    back."""
    reserved = await stock.reserve_again(connection, order)
    if not reserved and order.paid_cents == 0:
        # Nothing was paid, and nothing can go back: it has ended.
        return False
    failure_reason = None if reserved else LATE_PAYMENT
    now = await settling.start_processing(
        connection, order, reason="late_payment", failure_reason=failure_reason
    )
    if not reserved and order.money.refundable:
        await refund_saga.begin(connection, order_id=order.id, user_id=order.user_id)
        await refunds.refund_late_payment(connection, order)
    elif not reserved:
        # The bank holds or took it all, or it went back: what is owed stands on the operators' list.
        await standing.settle_standing(connection, now)
    return reserved


async def _apply_processing(connection: AsyncConnection, run: Run, order: Order) -> None:
    if order.status is Status.PENDING:
        await settling.start_processing(connection, order, reason="payment_processing")
    if order.status in (Status.PENDING, Status.PROCESSING):
        await runs.sleep(connection, run, step=AWAIT, seconds=_PROCESSING_SECONDS)


async def _apply_unpaid(connection: AsyncConnection, run: Run, order: Order, outcome: Outcome) -> None:
    expired = outcome.state == EXPIRED
    open_statuses = (Status.PENDING,) if expired else (Status.PENDING, Status.PROCESSING)
    if order.status not in open_statuses:
        return
    # Nothing was due, so that nothing failed: an operator of payments sees it.
    failed = outcome.failure_reason if outcome.failure_reason == "free_session" else "payment_failed"
    reason = run.undo_reason or ("checkout_expired" if expired else failed)
    cancelled = reason == CANCELLED_BY_CUSTOMER
    await settling.end_order(
        connection,
        order,
        Status.CANCELLED if cancelled else Status.FAILED,
        actor="customer" if cancelled else "stripe",
        reason=reason,
    )
    await runs.finish(connection, order_id=order.id, saga=run.saga, status=runs.UNDONE)


async def _park(connection: AsyncConnection, run: Run, error: str) -> None:
    """Money was taken and cannot be matched with goods: an operator decides."""
    log.error("saga.stuck", order_id=str(run.order_id), saga=run.saga, error=error)
    await runs.finish(connection, order_id=run.order_id, saga=run.saga, status=runs.STUCK, error=error)
