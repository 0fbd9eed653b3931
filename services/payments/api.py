"""gRPC face of payments: messages ⇄ arguments, and the transactions of requests.

What a customer asks for is written under row-level security and committed before Stripe is called; what
Stripe answers is recorded by the worker login (opening.py, closing.py).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection

from protos.payments.v1 import payments_pb2 as pb
from protos.payments.v1 import payments_pb2_grpc
from services.chassis import failpoints, idempotency
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.errors import DomainError
from services.chassis.fields import as_uuid, in_range
from services.chassis.ids import uuid7
from services.payments import errors, queries, rules
from services.payments.closing import Closer
from services.payments.commands import checkouts
from services.payments.opening import Opener, request_deadline, seal_request
from services.payments.rules import Checkout, Line, Package, Status

POINTS_ROUTE = "checkout/points"
_MAX_LINES = 100
_MAX_TITLE_LENGTH = 250
_MAX_EMAIL_LENGTH = 320
_MAX_PACKAGE_ID_LENGTH = 100
_MAX_QUANTITY = 1_000_000

_STATUSES = {
    Status.CREATING: pb.CHECKOUT_STATUS_CREATING,
    Status.OPEN: pb.CHECKOUT_STATUS_OPEN,
    Status.PROCESSING: pb.CHECKOUT_STATUS_PROCESSING,
    Status.PAID: pb.CHECKOUT_STATUS_PAID,
    Status.EXPIRED: pb.CHECKOUT_STATUS_EXPIRED,
    Status.FAILED: pb.CHECKOUT_STATUS_FAILED,
}


@dataclass(frozen=True, slots=True)
class _Begun:
    checkout: Checkout
    # Written by this request, which holds the row's lease; otherwise found.
    is_new: bool


class PaymentsServicer(payments_pb2_grpc.PaymentsServiceServicer):
    """One method for each RPC of payments.proto."""

    def __init__(self, *, database: Database, keyring: Keyring, opener: Opener, closer: Closer) -> None:
        self._database = database
        self._keyring = keyring
        self._opener = opener
        self._closer = closer

    async def ListPackages(
        self, _request: pb.ListPackagesRequest, _context: object
    ) -> pb.ListPackagesResponse:
        async with self._database.anyone() as connection:
            packages = await queries.list_packages(connection)
        return pb.ListPackagesResponse(packages=[_package_message(package) for package in packages])

    async def CreatePointsCheckout(
        self, request: pb.CreatePointsCheckoutRequest, _context: object
    ) -> pb.CreatePointsCheckoutResponse:
        deadline = request_deadline()
        user_id = as_uuid(request.user_id, field="user_id")
        _text(request.email, field="email", longest=_MAX_EMAIL_LENGTH)
        _text(request.package_id, field="package_id", longest=_MAX_PACKAGE_ID_LENGTH)
        keyed = idempotency.Request(
            user_id=user_id,
            route=POINTS_ROUTE,
            key=idempotency.check_key(request.idempotency_key),
            request_hash=idempotency.hash_of(request, given=request.request_hash),
        )
        async with self._database.customer(user_id) as connection:
            begun = await self._begin_points(connection, keyed, request)
        if isinstance(begun, DomainError):
            raise begun
        checkout = await self._take_further(begun, busy=errors.request_in_flight, deadline=deadline)
        if checkout.status is Status.FAILED and checkout.session_id is None:
            raise errors.checkout_refused(checkout.failure_reason or "")
        return pb.CreatePointsCheckoutResponse(checkout=_message(checkout))

    async def _begin_points(
        self,
        connection: AsyncConnection,
        keyed: idempotency.Request,
        request: pb.CreatePointsCheckoutRequest,
    ) -> _Begun | DomainError:
        """What the key stands for, written down when it is new. A business rejection is returned, since
        raising it would undo what keeps it."""
        known = await idempotency.find(connection, keyed)
        if known is None:
            package = await queries.find_package(connection, request.package_id)
            if package is None:
                return await _kept(connection, keyed, errors.package_not_found(request.package_id))
            if not _is_as_believed(request, package):
                return await _kept(connection, keyed, _price_changed(package))
            checkout = await self._begin_new_points(connection, keyed, package, request.email)
            if checkout is not None:
                return _Begun(checkout, is_new=True)
            known = await idempotency.find(connection, keyed)
        checkout = await queries.find_checkout(connection, known) if known else None
        return _Begun(checkout, is_new=False) if checkout else errors.checkout_not_found()

    async def _begin_new_points(
        self, connection: AsyncConnection, keyed: idempotency.Request, package: Package, email: str
    ) -> Checkout | None:
        checkout_id = uuid7()
        title = f"{package.name}: {package.points} points"
        lines = [Line(title=title, unit_price_cents=package.price_cents, quantity=1)]
        return await checkouts.begin_points_checkout(
            connection,
            request=keyed,
            checkout_id=checkout_id,
            package=package,
            sealed_request=seal_request(self._keyring, checkout_id, lines=lines, email=email),
        )

    async def CreateOrderCheckout(
        self, request: pb.CreateOrderCheckoutRequest, _context: object
    ) -> pb.CreateOrderCheckoutResponse:
        deadline = request_deadline()
        user_id = as_uuid(request.user_id, field="user_id")
        order_id = as_uuid(request.order_id, field="order_id")
        _text(request.email, field="email", longest=_MAX_EMAIL_LENGTH)
        lines = _lines(request)
        async with self._database.customer(user_id) as connection:
            begun = await self._begin_order(connection, user_id, order_id, lines, request)
        _refuse_other_order(begun.checkout, order_id, rules.total_of(lines), request.currency)
        checkout = await self._take_further(begun, busy=errors.checkout_creating, deadline=deadline)
        if checkout.status is Status.CREATING:
            raise errors.checkout_creating()
        if checkout.status is Status.FAILED and checkout.session_id is None:
            raise errors.checkout_refused(checkout.failure_reason or "")
        return pb.CreateOrderCheckoutResponse(checkout=_message(checkout))

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
            sealed_request=seal_request(self._keyring, checkout_id, lines=lines, email=request.email),
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
        user_id = as_uuid(request.user_id, field="user_id")
        checkout_id = as_uuid(request.checkout_id, field="checkout_id")
        async with self._database.customer(user_id) as connection:
            checkout = await queries.find_checkout(connection, checkout_id)
        if checkout is None:
            raise errors.checkout_not_found()
        return pb.GetCheckoutResponse(checkout=_message(checkout))

    async def ExpireOrderCheckout(
        self, request: pb.ExpireOrderCheckoutRequest, _context: object
    ) -> pb.ExpireOrderCheckoutResponse:
        checkout = await self._closer.expire_order(
            user_id=as_uuid(request.user_id, field="user_id"),
            order_id=as_uuid(request.order_id, field="order_id"),
        )
        return pb.ExpireOrderCheckoutResponse(checkout=_message(checkout))


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
            title=_text(line.title, field="title", longest=_MAX_TITLE_LENGTH, shortest=1),
            unit_price_cents=in_range(
                line.unit_price_cents, field="unit_price_cents", low=1, high=rules.MAX_AMOUNT_CENTS
            ),
            quantity=in_range(line.quantity, field="quantity", low=1, high=_MAX_QUANTITY),
        )
        for line in request.lines
    ]
    in_range(rules.total_of(lines), field="amount_cents", low=1, high=rules.MAX_AMOUNT_CENTS)
    return lines


def _text(value: str, *, field: str, longest: int, shortest: int = 0) -> str:
    if shortest <= len(value) <= longest and "\0" not in value:
        return value
    raise errors.invalid_field(field, f"{shortest} to {longest} characters")


def _package_message(package: Package) -> pb.Package:
    return pb.Package(
        id=package.id,
        name=package.name,
        points=package.points,
        price_cents=package.price_cents,
        currency=package.currency,
    )


def _message(checkout: Checkout) -> pb.Checkout:
    return pb.Checkout(
        id=str(checkout.id),
        status=_STATUSES[checkout.status],
        order_id=str(checkout.order_id or ""),
        package_id=checkout.package_id or "",
        points=checkout.points,
        amount_cents=checkout.amount_cents,
        currency=checkout.currency,
        session_id=checkout.session_id or "",
        url=(checkout.url or "") if checkout.status is Status.OPEN else "",
        payment_intent_id=checkout.payment_intent_id or "",
        expires_at=_timestamp(checkout.expires_at),
        created_at=_timestamp(checkout.created_at),
    )


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
