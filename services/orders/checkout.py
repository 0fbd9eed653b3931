"""Placing and cancelling an order: the edge between a request and the sagas.

    1. one transaction: the order and its run, leased by this request          (commands/placing.py)
    2. the request drives its own run as far as a customer waits                (saga.py)
    3. the answer: the order as it stands; a failed order's reason as an error

A key that is known answers with its order's current state, or with the rejection that was stored. When
the outcome is still open at the end (wallet does not answer, say), the customer gets the pending order
and follows it; the runner goes on.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import failpoints, idempotency, logs, tracing
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.errors import Conflict, DomainError, NotFound, Rejected
from services.chassis.ids import uuid7
from services.chassis.mailbox import mailbox_of
from services.orders import card_saga, errors, points_saga
from services.orders.commands import runs
from services.orders.commands.bounds import Bounds
from services.orders.commands.placing import Placed, Placement, place_order
from services.orders.commands.runs import Run
from services.orders.ending import CANCELLED_BY_CUSTOMER
from services.orders.queries import carts
from services.orders.queries.carts import get_cart
from services.orders.queries.orders import (
    Order,
    find_by_key,
    find_order,
    find_order_of_cart,
    is_driven,
    lock_order,
)
from services.orders.rules import Method, Status, sum_quantities
from services.orders.saga import Runner
from services.orders.sealing import email_place

log = logs.get(__name__)

ROUTE = "orders.place"
_SAGAS = {
    Method.POINTS: (points_saga.PLACE_WITH_POINTS, points_saga.RESERVE),
    Method.STRIPE: (card_saga.PLACE_WITH_CARD, card_saga.OPEN),
}


@dataclass(frozen=True, slots=True)
class Purchase:
    """What the customer asks for. No items: the cart."""

    user_id: UUID
    email: str
    method: Method
    items: tuple[tuple[UUID, int], ...]
    idempotency_key: str
    request_hash: bytes


class Checkout:
    """Places and cancels orders."""

    def __init__(
        self,
        database: Database,
        runner: Runner,
        keyring: Keyring,
        *,
        lease_seconds: float,
        bounds: Bounds,
        reserved: Callable[[Collection[UUID]], None],
    ) -> None:
        """`reserved` is told of which products less can be bought now."""
        self._bounds = bounds
        self._database = database
        self._reserved = reserved
        self._lease_seconds = lease_seconds
        self._runner = runner
        self._keyring = keyring

    async def place(self, purchase: Purchase) -> Order:
        """The order after its saga went as far as it can; raises why it could not be bought."""
        placement = self._placement(purchase)
        try:
            placed, placement = await self._place(purchase, placement)
        except (Rejected, NotFound) as error:
            return await self._replay_or_reject(purchase, error)
        except errors.TooMuchHeld as error:
            # Not what a key or a cart already stands for: that holds nothing more.
            found = await self._find_twin(purchase, placement)
            if found is None:
                raise
            log.info("checkout.bounded", reason=error.reason)
            return found
        if placed is None:
            found = await self._find_twin(purchase, placement)
            if found is None:
                raise Conflict("REQUEST_IN_FLIGHT", "the cart was being bought a moment ago; ask again")
            return found
        failpoints.hit("orders.place.committed")
        if placed.short is not None:
            product_id, available = placed.short
            raise errors.out_of_stock(product_id, available=available, order_id=placement.order_id)
        self._reserved(placement.quantities)
        return await self._drive(placement, placed)

    async def cancel(self, *, user_id: UUID, order_id: UUID) -> Order:
        """Undoes a pending order at the customer's wish; Conflict when it can no longer be undone."""
        run = await self._turn_around(user_id, order_id)
        if run is not None:
            await self._runner.drive(run)
        async with self._database.customer(user_id) as connection:
            order = await find_order(connection, order_id)
        assert order is not None, "orders are never deleted"
        if order.status is Status.PENDING:
            # Decided, and not yet confirmed by whoever holds the points or the session.
            log.warning("order.cancel_waits", order_id=str(order_id))
        elif order.status is not Status.CANCELLED:
            raise errors.order_not_cancellable(order_id, order.status)
        return order

    async def _turn_around(self, user_id: UUID, order_id: UUID) -> Run | None:
        async with self._database.customer(user_id) as connection:
            mine = await find_order(connection, order_id)
        if mine is None:
            raise errors.order_not_found(order_id)
        saga, _ = _SAGAS[mine.payment_method]
        async with self._database.worker() as connection:
            run = await runs.lock_run(connection, order_id=order_id, saga=saga)
            order = await lock_order(connection, order_id)
            if run is None or order is None or order.status is not Status.PENDING:
                return None
            return await runs.take_over_to_undo(
                connection,
                run,
                reason=CANCELLED_BY_CUSTOMER,
                lease_token=uuid4(),
                lease_seconds=self._lease_seconds,
            )

    def _placement(self, purchase: Purchase) -> Placement:
        order_id = uuid7()
        saga, first_step = _SAGAS[purchase.method]
        place, mailbox = email_place(order_id), mailbox_of(purchase.email)
        return Placement(
            order_id=order_id,
            user_id=purchase.user_id,
            method=purchase.method,
            quantities=sum_quantities(purchase.items),
            email=self._keyring.seal(mailbox.encode(), place=place) if mailbox else None,
            idempotency_key=purchase.idempotency_key,
            request_hash=purchase.request_hash,
            cart_version=None,
            saga=saga,
            first_step=first_step,
            lease_token=uuid4(),
            lease_seconds=self._lease_seconds,
            bounds=self._bounds,
            traceparent=tracing.current(),
        )

    async def _place(self, purchase: Purchase, placement: Placement) -> tuple[Placed | None, Placement]:
        async with self._database.customer_sql(purchase.user_id) as connection:
            if not purchase.items:
                version, lines = await carts.lock_contents(connection, purchase.user_id)
                if not lines:
                    raise errors.cart_empty()
                placement = replace(placement, quantities=sum_quantities(lines), cart_version=version)
            placed = await place_order(connection, placement)
            failpoints.hit("orders.place.writing")
        return placed, placement

    async def _drive(self, placement: Placement, placed: Placed) -> Order:
        order = _fresh_order(placement, placed)
        run = Run(
            order_id=placement.order_id,
            saga=placement.saga,
            user_id=placement.user_id,
            status=runs.RUNNING,
            step=placement.first_step,
            undo_reason=None,
            attempts=0,
            lease_token=placement.lease_token,
            traceparent=placement.traceparent,
            order=order,
        )
        handed_over = await self._runner.drive(run)
        if handed_over is not None and handed_over.order is not None:
            return handed_over.order
        async with self._database.customer(placement.user_id) as connection:
            found = await find_order(connection, placement.order_id)
        assert found is not None, "orders are never deleted"
        return _or_its_failure(found)

    async def _replay_or_reject(self, purchase: Purchase, error: DomainError) -> Order:
        """A known key answers as it did; a new key keeps this rejection."""
        request = _request(purchase)
        async with self._database.customer(purchase.user_id) as connection:
            order = await find_by_key(connection, user_id=purchase.user_id, key=purchase.idempotency_key)
            if order is None:
                await idempotency.find(connection, request)
                await idempotency.keep_rejection(connection, request, error=error)
            else:
                await self._check_replay(connection, purchase, order)
        if order is None:
            raise error
        return _or_its_failure(order)

    async def _find_twin(self, purchase: Purchase, placement: Placement) -> Order | None:
        """The same key's order, or the one that is buying this cart."""
        cart_version = placement.cart_version
        async with self._database.customer(purchase.user_id) as connection:
            order = await find_by_key(connection, user_id=purchase.user_id, key=purchase.idempotency_key)
            if order is not None:
                await self._check_replay(connection, purchase, order)
            else:
                if cart_version is None and not purchase.items:
                    cart_version = (await get_cart(connection, purchase.user_id)).version
                if cart_version is not None:
                    order = await find_order_of_cart(
                        connection, user_id=purchase.user_id, cart_version=cart_version
                    )
        if order is None:
            return None
        if order.payment_method is not purchase.method:
            raise errors.checkout_in_progress(order.id)
        return _or_its_failure(order)

    async def _check_replay(self, connection: AsyncConnection, purchase: Purchase, order: Order) -> None:
        idempotency.refuse_other_body(order.request_hash, purchase.request_hash)
        if order.status is Status.PENDING and await is_driven(connection, order.id):
            raise errors.request_in_flight(order.id)


def _request(purchase: Purchase) -> idempotency.Request:
    return idempotency.Request(
        user_id=purchase.user_id,
        route=ROUTE,
        key=purchase.idempotency_key,
        request_hash=purchase.request_hash,
    )


def _or_its_failure(order: Order) -> Order:
    """A failed order answers with what failed it; every other order with itself."""
    if order.status is not Status.FAILED or order.failure_reason is None:
        return order
    fields = {**(order.failure_fields or {}), "order_id": str(order.id)}
    raise Rejected(
        order.failure_reason.upper(), _FAILURES.get(order.failure_reason, "the order failed"), **fields
    )


_FAILURES = {
    "insufficient_points": "there are not enough points for this order",
    "out_of_stock": "fewer pieces are left than wanted",
    "checkout_expired": "the payment page expired before it was paid",
    "payment_failed": "the payment failed",
    "free_session": "nothing was due on the payment page, so that nothing was bought",
}


def _fresh_order(placement: Placement, placed: Placed) -> Order:
    """The order just written, without reading it again."""
    basket = placed.basket
    return Order(
        id=placement.order_id,
        user_id=placement.user_id,
        status=Status.PENDING,
        payment_method=placement.method,
        total_cents=basket.total_cents,
        total_points=basket.total_points,
        currency=basket.currency,
        failure_reason=None,
        failure_fields=None,
        email=placement.email,
        request_hash=placement.request_hash,
        stripe_session_id=None,
        stripe_session_url=None,
        checkout_version=0,
        created_at=placed.created_at,
        lines=basket.lines,
    )
