"""gRPC face of payments: messages ⇄ arguments, and the transactions of requests.

What a customer asks for is written under row-level security and committed before Stripe is called; what
Stripe answers is recorded by the worker login (opening.py, closing.py).
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from protos.payments.v1 import payments_pb2 as pb
from protos.payments.v1 import payments_pb2_grpc
from services.chassis import cursor, failpoints, idempotency
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.errors import DomainError, Unavailable
from services.chassis.fields import as_uuid, in_range
from services.chassis.ids import uuid7
from services.chassis.mailbox import mailbox_of
from services.chassis.watching import Watchers
from services.payments import errors, listings, queries, rules
from services.payments.api.messages import (
    checked_text,
    checkout_message,
    package_message,
    plan_message,
    refund_message,
    subscription_message,
)
from services.payments.closing import Closer
from services.payments.commands import checkouts
from services.payments.commands.checkouts import PageExists, Sale
from services.payments.commands.refunds import Wanted
from services.payments.opening import Opener, request_deadline, seal_request
from services.payments.refunding import Refunder
from services.payments.rules import Checkout, Line, Package, Status
from services.payments.webhooks import Door

POINTS_ROUTE = "checkout/points"
SUBSCRIPTION_ROUTE = "subscriptions"
_MAX_REASON_LENGTH = 500
_LOOK_AGAIN_SECONDS = 0.1
_MAX_LINES = 100
_MAX_TITLE_LENGTH = 250
_MAX_PACKAGE_ID_LENGTH = 100
_MAX_QUANTITY = 1_000_000


@dataclass(frozen=True, slots=True)
class _Begun:
    checkout: Checkout
    # Written by this request, which holds the row's lease; otherwise found.
    is_new: bool
    # Found under another key than this request's.
    is_page_of_another_request: bool = False


class PaymentsServicer(payments_pb2_grpc.PaymentsServiceServicer):
    """One method for each RPC of payments.proto."""

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        opener: Opener,
        closer: Closer,
        refunder: Refunder,
        watchers: Watchers,
        door: Door,
        max_open_checkouts: int,
        promotion_codes: bool = False,
    ) -> None:
        """`max_open_checkouts` of one customer are open at Stripe, of whatever kind."""
        self._max_open_checkouts = max_open_checkouts
        self._door = door
        self._promotion_codes = promotion_codes
        self._refunder = refunder
        self._watchers = watchers
        self._database = database
        self._keyring = keyring
        self._opener = opener
        self._closer = closer

    async def ListPackages(
        self, _request: pb.ListPackagesRequest, _context: object
    ) -> pb.ListPackagesResponse:
        async with self._database.anyone() as connection:
            packages = await queries.list_packages(connection)
        return pb.ListPackagesResponse(packages=[package_message(package) for package in packages])

    async def CreatePointsCheckout(
        self, request: pb.CreatePointsCheckoutRequest, _context: object
    ) -> pb.CreatePointsCheckoutResponse:
        deadline = request_deadline()
        user_id = as_uuid(request.user_id, field="user_id")
        checked_text(request.package_id, field="package_id", longest=_MAX_PACKAGE_ID_LENGTH)
        keyed = _keyed(user_id, POINTS_ROUTE, request)

        async def sell(connection: AsyncConnection) -> "Sale | Checkout | DomainError":
            package = await queries.find_package(connection, request.package_id)
            if package is None:
                return errors.package_not_found(request.package_id)
            return Sale.of_package(package) if _is_as_believed(request, package) else _price_changed(package)

        checkout = await self._open_keyed(keyed, sell, email=mailbox_of(request.email), deadline=deadline)
        return pb.CreatePointsCheckoutResponse(checkout=checkout_message(checkout))

    async def CreateSubscriptionCheckout(
        self, request: pb.CreateSubscriptionCheckoutRequest, _context: object
    ) -> pb.CreateSubscriptionCheckoutResponse:
        deadline = request_deadline()
        user_id = as_uuid(request.user_id, field="user_id")
        checked_text(request.plan_id, field="plan_id", longest=_MAX_PACKAGE_ID_LENGTH)
        keyed = _keyed(user_id, SUBSCRIPTION_ROUTE, request)

        async def sell(connection: AsyncConnection) -> "Sale | Checkout | DomainError":
            plan = await queries.find_plan(connection, request.plan_id)
            if plan is None:
                return errors.plan_not_found(request.plan_id)
            live = await queries.find_live_subscription(connection, user_id=user_id, plan_id=plan.id)
            if live is not None:
                return errors.subscription_exists(live)
            page = await queries.find_plan_page(connection, user_id=user_id, plan_id=plan.id)
            return _as_it_stands(page) if page else Sale.of_plan(plan)

        checkout = await self._open_keyed(keyed, sell, email=mailbox_of(request.email), deadline=deadline)
        return pb.CreateSubscriptionCheckoutResponse(checkout=checkout_message(checkout))

    async def _open_keyed(
        self, keyed: idempotency.Request, sell: "_Sell", *, email: str, deadline: float
    ) -> Checkout:
        try:
            begun = await self._begin_in_transaction(keyed, sell, email)
        except PageExists:
            # It is committed by now: the same question finds it.
            begun = await self._begin_in_transaction(keyed, sell, email)
        if isinstance(begun, DomainError):
            raise begun
        if begun.is_page_of_another_request:
            begun = await self._once_created(begun, deadline)
        checkout = await self._take_further(begun, busy=errors.request_in_flight, deadline=deadline)
        if checkout.status is Status.FAILED and checkout.session_id is None:
            raise errors.checkout_refused(checkout.failure_reason or "")
        return checkout

    async def _begin_in_transaction(
        self, keyed: idempotency.Request, sell: "_Sell", email: str
    ) -> _Begun | DomainError:
        async with self._database.customer(keyed.user_id) as connection:
            return await self._begin_keyed(connection, keyed, sell, email)

    async def _once_created(self, begun: _Begun, deadline: float) -> _Begun:
        """The page of another request (a double click), which is opening it: waited for as long as there is
        time."""
        loop = asyncio.get_running_loop()
        checkout = begun.checkout
        while checkout.is_in_flight and loop.time() + 2 * _LOOK_AGAIN_SECONDS < deadline:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            checkout = await self._find(checkout.user_id, checkout.id)
        return replace(begun, checkout=checkout)

    async def _begin_keyed(
        self, connection: AsyncConnection, keyed: idempotency.Request, sell: "_Sell", email: str
    ) -> _Begun | DomainError:
        """What the key stands for, written down when it is new. A business rejection is returned, since
        raising it would undo what keeps it."""
        known = await idempotency.find(connection, keyed)
        if known is None:
            sale = await sell(connection)
            if isinstance(sale, DomainError):
                # What passes by itself is not remembered under the key.
                return sale if isinstance(sale, Unavailable) else await _kept(connection, keyed, sale)
            if isinstance(sale, Checkout):
                await idempotency.keep_resource(connection, keyed, resource_id=sale.id)
                return _Begun(sale, is_new=False, is_page_of_another_request=True)
            checkout = await self._begin_new(connection, keyed, sale, email)
            if checkout is not None:
                # Raised, and so neither it nor the key is kept: it passes.
                await checkouts.check_open(connection, checkout, limit=self._max_open_checkouts)
                return _Begun(checkout, is_new=True)
            known = await idempotency.find(connection, keyed)
        checkout = await queries.find_checkout(connection, known) if known else None
        return _Begun(checkout, is_new=False) if checkout else errors.checkout_not_found()

    async def _begin_new(
        self, connection: AsyncConnection, keyed: idempotency.Request, sale: Sale, email: str
    ) -> Checkout | None:
        checkout_id = uuid7()
        return await checkouts.begin_sale(
            connection,
            request=keyed,
            checkout_id=checkout_id,
            sale=sale,
            sealed_request=seal_request(self._keyring, checkout_id, lines=[sale.line], email=email),
            promotion_codes=self._promotion_codes,
        )

    async def CreateOrderCheckout(
        self, request: pb.CreateOrderCheckoutRequest, _context: object
    ) -> pb.CreateOrderCheckoutResponse:
        deadline = request_deadline()
        user_id = as_uuid(request.user_id, field="user_id")
        order_id = as_uuid(request.order_id, field="order_id")
        lines = _lines(request)
        async with self._database.customer(user_id) as connection:
            begun = await self._begin_order(connection, user_id, order_id, lines, request)
        _refuse_other_order(begun.checkout, order_id, rules.total_of(lines), request.currency)
        checkout = await self._take_further(begun, busy=errors.checkout_creating, deadline=deadline)
        if checkout.status is Status.CREATING:
            raise errors.checkout_creating()
        if checkout.status is Status.FAILED and checkout.session_id is None:
            raise errors.checkout_refused(checkout.failure_reason or "")
        return pb.CreateOrderCheckoutResponse(checkout=checkout_message(checkout))

    async def _begin_order(
        self,
        connection: AsyncConnection,
        user_id: UUID,
        order_id: UUID,
        lines: list[Line],
        request: pb.CreateOrderCheckoutRequest,
    ) -> _Begun:
        checkout_id = uuid7()
        checkout = await checkouts.begin_order_checkout(
            connection,
            checkout_id=checkout_id,
            user_id=user_id,
            order_id=order_id,
            amount_cents=rules.total_of(lines),
            currency=request.currency,
            sealed_request=seal_request(
                self._keyring, checkout_id, lines=lines, email=mailbox_of(request.email)
            ),
            promotion_codes=self._promotion_codes,
        )
        if checkout is not None:
            return _Begun(checkout, is_new=True)
        known = await queries.find_order_checkout(connection, order_id)
        if known is None:
            # The order's checkout belongs to another user.
            raise errors.checkout_mismatch(order_id)
        return _Begun(known, is_new=False)

    async def _take_further(
        self, begun: _Begun, *, busy: Callable[[], DomainError], deadline: float
    ) -> Checkout:
        """The checkout after what this request can do for it; raises `busy` while another one does."""
        checkout = begun.checkout
        if checkout.status is not Status.CREATING:
            return checkout
        if not begun.is_new:
            async with self._database.worker() as connection:
                leased = await checkouts.lease_checkout(connection, checkout.id)
            if leased is None:
                raise busy()
            checkout = leased
        else:
            failpoints.hit("payments.checkout.written")
        return await self._opener.open(checkout, deadline=deadline)

    async def GetCheckout(self, request: pb.GetCheckoutRequest, _context: object) -> pb.GetCheckoutResponse:
        checkout = await self._find(
            as_uuid(request.user_id, field="user_id"), as_uuid(request.checkout_id, field="checkout_id")
        )
        return pb.GetCheckoutResponse(checkout=checkout_message(checkout))

    async def WatchCheckout(
        self, request: pb.WatchCheckoutRequest, context: Any
    ) -> AsyncGenerator[pb.WatchCheckoutResponse, None]:
        user_id = as_uuid(request.user_id, field="user_id")
        checkout_id = as_uuid(request.checkout_id, field="checkout_id")
        news = self._watchers.follow(
            checkout_id, lambda: self._find(user_id, checkout_id), after=request.after_version, call=context
        )
        async with aclosing(news):
            async for checkout, is_final in news:
                message = None if checkout is None else checkout_message(checkout)
                yield pb.WatchCheckoutResponse(checkout=message, is_final=is_final)

    async def _find(self, user_id: UUID, checkout_id: UUID) -> Checkout:
        """Raises CHECKOUT_NOT_FOUND, also for another user's."""
        async with self._database.customer(user_id) as connection:
            checkout = await queries.find_checkout(connection, checkout_id)
        if checkout is None:
            raise errors.checkout_not_found()
        return checkout

    async def ExpireOrderCheckout(
        self, request: pb.ExpireOrderCheckoutRequest, _context: object
    ) -> pb.ExpireOrderCheckoutResponse:
        checkout = await self._closer.expire_order(
            user_id=as_uuid(request.user_id, field="user_id"),
            order_id=as_uuid(request.order_id, field="order_id"),
        )
        return pb.ExpireOrderCheckoutResponse(checkout=checkout_message(checkout))

    async def ListPlans(self, _request: pb.ListPlansRequest, _context: object) -> pb.ListPlansResponse:
        async with self._database.anyone() as connection:
            plans = await queries.list_plans(connection)
        return pb.ListPlansResponse(plans=[plan_message(plan) for plan in plans])

    async def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, _context: object
    ) -> pb.ListSubscriptionsResponse:
        user_id = as_uuid(request.user_id, field="user_id")
        limit, before = cursor.page_size(request.limit), cursor.decode_id(request.cursor)
        async with self._database.customer(user_id) as connection:
            found = await listings.list_subscriptions(connection, limit=limit + 1, before=before)
        items, following = cursor.page(
            found, limit=limit, message=subscription_message, key=lambda subscription: (subscription.id,)
        )
        return pb.ListSubscriptionsResponse(items=items, next_cursor=following)

    async def GetSubscription(
        self, request: pb.GetSubscriptionRequest, _context: object
    ) -> pb.GetSubscriptionResponse:
        user_id = as_uuid(request.user_id, field="user_id")
        subscription_id = as_uuid(request.subscription_id, field="subscription_id")
        async with self._database.customer(user_id) as connection:
            subscription = await queries.find_subscription(connection, subscription_id)
        if subscription is None:
            raise errors.subscription_not_found()
        return pb.GetSubscriptionResponse(subscription=subscription_message(subscription))

    async def CancelSubscription(
        self, request: pb.CancelSubscriptionRequest, _context: object
    ) -> pb.CancelSubscriptionResponse:
        subscription = await self._closer.end_subscription(
            user_id=as_uuid(request.user_id, field="user_id"),
            subscription_id=as_uuid(request.subscription_id, field="subscription_id"),
        )
        return pb.CancelSubscriptionResponse(subscription=subscription_message(subscription))

    async def CreateRefund(
        self, request: pb.CreateRefundRequest, _context: object
    ) -> pb.CreateRefundResponse:
        wanted = Wanted(
            refund_id=as_uuid(request.refund_id, field="refund_id"),
            amount_cents=in_range(
                request.amount_cents, field="amount_cents", low=1, high=rules.MAX_AMOUNT_CENTS
            ),
            reason=checked_text(request.reason, field="reason", longest=_MAX_REASON_LENGTH),
        )
        order_id = as_uuid(request.order_id, field="order_id")
        refund = await self._refunder.refund_order(order_id=order_id, wanted=wanted)
        return pb.CreateRefundResponse(refund=refund_message(refund))

    async def GetRefund(self, request: pb.GetRefundRequest, _context: object) -> pb.GetRefundResponse:
        async with self._database.worker() as connection:
            refund = await queries.find_refund(connection, as_uuid(request.refund_id, field="refund_id"))
        if refund is None:
            raise errors.refund_not_found()
        return pb.GetRefundResponse(refund=refund_message(refund))

    async def ReceiveWebhook(
        self, request: pb.ReceiveWebhookRequest, _context: object
    ) -> pb.ReceiveWebhookResponse:
        answer = await self._door.relayed(request.payload, request.signature, request.source)
        return pb.ReceiveWebhookResponse(
            status=answer.status_code,
            content_type=answer.headers["content-type"],
            body=bytes(answer.body),
            retry_after_seconds=int(answer.headers.get("retry-after", 0)),
        )


# What is sold; the page on which it is being sold already; or why it is not.
_Sell = Callable[[AsyncConnection], Awaitable[Sale | Checkout | DomainError]]


def _as_it_stands(page: Checkout) -> Checkout | DomainError:
    """The page that begins the subscription: it is returned, not replaced under a typing hand."""
    if page.status is Status.PROCESSING:
        # Paid by a bank debit, say: its subscription is there, or is about to be.
        return errors.subscription_exists(page.id)
    if page.expires_at <= page.read_at:
        return errors.checkout_unconfirmed()
    return page


def _keyed(
    user_id: UUID,
    route: str,
    request: pb.CreatePointsCheckoutRequest | pb.CreateSubscriptionCheckoutRequest,
) -> idempotency.Request:
    return idempotency.Request(
        user_id=user_id,
        route=route,
        key=idempotency.check_key(request.idempotency_key),
        request_hash=idempotency.hash_of(request, given=request.request_hash),
    )


async def _kept(connection: AsyncConnection, keyed: idempotency.Request, error: DomainError) -> DomainError:
    await idempotency.keep_rejection(connection, keyed, error=error)
    return error


def _is_as_believed(request: pb.CreatePointsCheckoutRequest, package: Package) -> bool:
    """What the client says is compared and never used."""
    points_agree = not request.HasField("points") or request.points == package.points
    price_agrees = not request.HasField("price_cents") or request.price_cents == package.price_cents
    return points_agree and price_agrees


def _price_changed(package: Package) -> DomainError:
    return errors.price_changed(
        points=package.points, price_cents=package.price_cents, currency=package.currency
    )


def _refuse_other_order(checkout: Checkout, order_id: UUID, amount_cents: int, currency: str) -> None:
    if checkout.is_tombstone:
        raise errors.checkout_expired(order_id)
    if (checkout.amount_cents, checkout.currency) != (amount_cents, currency):
        raise errors.checkout_mismatch(order_id)
    if checkout.status is Status.EXPIRED:
        raise errors.checkout_expired(order_id)


def _lines(request: pb.CreateOrderCheckoutRequest) -> list[Line]:
    in_range(len(request.lines), field="lines", low=1, high=_MAX_LINES)
    if not re.fullmatch("[a-z]{3}", request.currency):
        raise errors.invalid_field("currency", "an ISO 4217 code in lower case")
    lines = [
        Line(
            title=checked_text(line.title, field="title", longest=_MAX_TITLE_LENGTH, shortest=1),
            unit_price_cents=in_range(
                line.unit_price_cents, field="unit_price_cents", low=1, high=rules.MAX_AMOUNT_CENTS
            ),
            quantity=in_range(line.quantity, field="quantity", low=1, high=_MAX_QUANTITY),
        )
        for line in request.lines
    ]
    in_range(rules.total_of(lines), field="amount_cents", low=1, high=rules.MAX_AMOUNT_CENTS)
    return lines
