"""Points: what they cost, buying them, and the customer's balance and ledger."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field

from gateway import idempotency
from gateway.backends import PAYMENTS_SECONDS, WALLET_SECONDS
from gateway.following import FOLLOW_SECONDS, After, Kind, LastEventId, events_of, last_seen
from gateway.holdings import telling_what_is_held
from gateway.openapi import BODY, KEYED, PAGED, customer_problems, public_problems
from gateway.routing import CustomerRoute, PublicRoute, backends_of, customer_of
from gateway.schemas import ApiModel, Believed, CheckoutId, Cursor, Limit, as_time
from protos.payments.v1 import payments_pb2
from protos.wallet.v1 import wallet_pb2
from services.chassis.grpc_client import call, open_stream

router = APIRouter(route_class=CustomerRoute, tags=["points"])
public_router = APIRouter(route_class=PublicRoute, tags=["points"])

CheckoutStatus = Literal["creating", "open", "processing", "paid", "expired", "failed"]
TransactionType = Literal["purchase", "spend", "refund", "reversal", "adjustment"]

STATUSES: dict[int, CheckoutStatus] = {
    payments_pb2.CHECKOUT_STATUS_CREATING: "creating",
    payments_pb2.CHECKOUT_STATUS_OPEN: "open",
    payments_pb2.CHECKOUT_STATUS_PROCESSING: "processing",
    payments_pb2.CHECKOUT_STATUS_PAID: "paid",
    payments_pb2.CHECKOUT_STATUS_EXPIRED: "expired",
    payments_pb2.CHECKOUT_STATUS_FAILED: "failed",
}
TYPES: dict[int, TransactionType] = {
    wallet_pb2.TRANSACTION_TYPE_PURCHASE: "purchase",
    wallet_pb2.TRANSACTION_TYPE_SPEND: "spend",
    wallet_pb2.TRANSACTION_TYPE_REFUND: "refund",
    wallet_pb2.TRANSACTION_TYPE_REVERSAL: "reversal",
    wallet_pb2.TRANSACTION_TYPE_ADJUSTMENT: "adjustment",
}
# How soon to look again at a checkout whose session is still being opened.
_LOOK_AGAIN_SECONDS = "1"


class Package(ApiModel):
    id: str
    name: str
    points: int
    price_cents: int
    currency: str


class PackageList(ApiModel):
    """All of them: `nextCursor` is always null."""

    items: list[Package]
    next_cursor: None = None


class PointsCheckout(ApiModel):
    """`points` and `price` (in cents) are what the client believes: compared, never used."""

    package_id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\x20-\x7e]+$")]
    points: Believed | None = None
    price: Believed | None = None


class OpenedCheckout(ApiModel):
    """While `status` is creating, `sessionId` and `url` are null: look at Location again."""

    checkout_id: str
    status: CheckoutStatus
    session_id: str | None
    url: str | None


class CheckoutState(ApiModel):
    """A checkout sells a package (`packageId`), an order (`orderId`) or a subscription (`planId`).

    `points` is what a package gives, or each paid period of a plan; 0 for an order.
    """

    id: str
    status: CheckoutStatus
    package_id: str | None
    order_id: str | None
    plan_id: str | None
    points: int
    amount_cents: int
    currency: str
    session_id: str | None
    url: str | None
    expires_at: datetime | None
    created_at: datetime


class Profile(ApiModel):
    """`pointsAvailable` is what an order may spend; `pointsDebt` is settled by the next points."""

    id: str
    email: str
    points: int
    points_held: int
    points_available: int
    points_debt: int


class Transaction(ApiModel):
    """A line of the ledger; `amount` is signed, `balanceAfter` is points minus debt."""

    id: str
    seq: int
    amount: int
    type: TransactionType
    description: str
    order_id: str | None
    balance_after: int
    created_at: datetime


class TransactionPage(ApiModel):
    items: list[Transaction]
    next_cursor: str | None


@public_router.get("/api/points/packages", operation_id="listPackages", responses=public_problems())
async def list_packages(request: Request) -> PackageList:
    """What points cost."""
    answer = await call(
        backends_of(request).payments.ListPackages,
        payments_pb2.ListPackagesRequest(),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return PackageList(items=[_as_package(package) for package in answer.packages])


@router.post(
    "/api/checkout/points",
    status_code=201,
    operation_id="checkoutPoints",
    openapi_extra={"parameters": [idempotency.PARAMETER]},
    responses=customer_problems(
        *BODY, *KEYED, "package_not_found", "price_changed", "checkout_refused", "too_many_open_checkouts"
    ),
)
async def checkout_points(request: Request, response: Response, body: PointsCheckout) -> OpenedCheckout:
    """Opens a page at Stripe that sells a package of points."""
    customer, key = customer_of(request), idempotency.key_of(request)
    wanted = payments_pb2.CreatePointsCheckoutRequest(
        user_id=customer.user_id,
        email=customer.email,
        idempotency_key=key,
        request_hash=await idempotency.body_hash(request),
        package_id=body.package_id,
        points=body.points,
        price_cents=body.price,
    )
    async with telling_what_is_held(request):
        answer = await call(
            backends_of(request).payments.CreatePointsCheckout, wanted, timeout_seconds=PAYMENTS_SECONDS
        )
    response.headers[idempotency.HEADER] = key
    return as_opened(answer.checkout, response)


def as_opened(checkout: payments_pb2.Checkout, response: Response) -> OpenedCheckout:
    """The answer to whoever opened a checkout: where its page is, or where to look for it."""
    response.headers["Location"] = f"/api/checkouts/{checkout.id}"
    if checkout.status == payments_pb2.CHECKOUT_STATUS_CREATING:
        response.headers["Retry-After"] = _LOOK_AGAIN_SECONDS
    return OpenedCheckout(
        checkout_id=checkout.id,
        status=STATUSES[checkout.status],
        session_id=checkout.session_id or None,
        url=checkout.url or None,
    )


@router.get(
    "/api/checkouts/{checkoutId}",
    operation_id="getCheckout",
    responses=customer_problems("checkout_not_found"),
)
async def get_checkout(request: Request, checkout_id: CheckoutId) -> CheckoutState:
    """One checkout of the customer."""
    answer = await call(
        backends_of(request).payments.GetCheckout,
        payments_pb2.GetCheckoutRequest(user_id=customer_of(request).user_id, checkout_id=checkout_id),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return _as_checkout(answer.checkout)


async def _watch(
    request: Request, checkout_id: CheckoutId, after: After = 0, last_event_id: LastEventId = ""
) -> AsyncIterator[AsyncIterator[Any]]:
    """Begins before the answer does: whose checkout it is not hears a problem."""
    wanted = payments_pb2.WatchCheckoutRequest(
        user_id=customer_of(request).user_id,
        checkout_id=checkout_id,
        after_version=last_seen(last_event_id, after),
    )
    async with open_stream(
        backends_of(request).payments.WatchCheckout, wanted, timeout_seconds=FOLLOW_SECONDS
    ) as messages:
        yield messages


@router.get(
    "/api/checkouts/{checkoutId}/events",
    operation_id="followCheckout",
    response_class=EventSourceResponse,
    responses=customer_problems("checkout_not_found", "invalid_request"),
)
async def follow_checkout(
    request: Request, messages: Annotated[AsyncIterator[Any], Depends(_watch)]
) -> AsyncIterator[ServerSentEvent]:
    """The checkout at once and after each change (`checkout`, as GET /api/checkouts/{checkoutId} answers),
    until it was paid or cannot be paid any more (`end`)."""
    async for event in events_of(
        _FOLLOWED,
        messages,
        closing=request.app.state.closing,
        expires_at=customer_of(request).expires_at,
    ):
        yield event


@router.get("/api/profile", operation_id="getProfile", responses=customer_problems())
async def get_profile(request: Request) -> Profile:
    """The customer's points; zeros for one never seen."""
    customer = customer_of(request)
    answer = await call(
        backends_of(request).wallet.GetProfile,
        wallet_pb2.GetProfileRequest(user_id=customer.user_id, email=customer.email),
        timeout_seconds=WALLET_SECONDS,
    )
    return as_profile(answer.profile)


@router.get("/api/points/transactions", operation_id="listTransactions", responses=customer_problems(*PAGED))
async def list_transactions(request: Request, limit: Limit = 20, cursor: Cursor = "") -> TransactionPage:
    """The customer's ledger, newest first."""
    answer = await call(
        backends_of(request).wallet.ListTransactions,
        wallet_pb2.ListTransactionsRequest(user_id=customer_of(request).user_id, limit=limit, cursor=cursor),
        timeout_seconds=WALLET_SECONDS,
    )
    return TransactionPage(
        items=[as_transaction(entry) for entry in answer.items], next_cursor=answer.next_cursor or None
    )


def as_profile(profile: wallet_pb2.Profile) -> Profile:
    return Profile(
        id=profile.id,
        email=profile.email,
        points=profile.points,
        points_held=profile.points_held,
        points_available=profile.points_available,
        points_debt=profile.points_debt,
    )


def _as_package(package: payments_pb2.Package) -> Package:
    return Package(
        id=package.id,
        name=package.name,
        points=package.points,
        price_cents=package.price_cents,
        currency=package.currency,
    )


def _as_checkout(checkout: payments_pb2.Checkout) -> CheckoutState:
    return CheckoutState(
        id=checkout.id,
        status=STATUSES[checkout.status],
        package_id=checkout.package_id or None,
        order_id=checkout.order_id or None,
        plan_id=checkout.plan_id or None,
        points=checkout.points,
        amount_cents=checkout.amount_cents,
        currency=checkout.currency,
        session_id=checkout.session_id or None,
        url=checkout.url or None,
        expires_at=as_time(checkout.expires_at) if checkout.HasField("expires_at") else None,
        created_at=as_time(checkout.created_at),
    )


_FOLLOWED = Kind("checkout", _as_checkout)


def as_transaction(entry: wallet_pb2.Transaction) -> Transaction:
    return Transaction(
        id=entry.id,
        seq=entry.seq,
        amount=entry.amount,
        type=TYPES[entry.type],
        description=entry.description,
        order_id=entry.order_id or None,
        balance_after=entry.balance_after,
        created_at=as_time(entry.created_at),
    )
