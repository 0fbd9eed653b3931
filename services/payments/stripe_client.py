"""The calls to Stripe that we make, through the official client, with one answer or one of three errors.

No retries hide in here: `StripeRefused` is a definite no, `StripeBusy` asks for the same key a little
later, any other `StripeUnknown` leaves open whether the call took effect. Whoever called decides.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

import stripe
from opentelemetry.trace import SpanKind
from pydantic import SecretStr
from stripe import HTTPXClient, StripeClient

from services.chassis import logs, tracing
from services.chassis.ids import uuid7
from services.payments import metrics, rules, stripe_objects
from services.payments.errors import (
    EMAIL_INVALID,
    StripeBusy,
    StripeKeySpent,
    StripeMalformed,
    StripeMissing,
    StripeRefused,
    StripeUnknown,
)
from services.payments.rules import Checkout, Line
from services.payments.stripe_objects import (
    Charge,
    Dispute,
    Fields,
    Intent,
    Invoice,
    InvoicePart,
    Malformed,
    Refund,
    Session,
    Subscription,
)

log = logs.get(__name__)

API_VERSION = "2026-10-28.endive"
CALL_SECONDS = 4.5
# Below this there is no point in starting a call.
_SHORTEST_CALL_SECONDS = 0.2
_BUSY_PAUSE_SECONDS = 0.25
_PAGE = 100
# More than this, of sessions in 45 minutes say, is beyond what one listing may read.
_MAX_PAGES = 200
# A month of a busy shop: whoever lists events has a deadline for each page, and keeps what was read.
_MAX_EVENT_PAGES = 100_000

# docs.stripe.com/api/events/list#list_events-types
MAX_EVENT_TYPES = 20

_Answer = TypeVar("_Answer")
_Parsed = TypeVar("_Parsed")


class Stripe:
    """One Stripe account. `deadline` is in seconds of the running loop's clock."""

    def __init__(self, *, secret_key: SecretStr, api_base: str, shop_url: str, shop_id: str) -> None:
        self._http = HTTPXClient(timeout=CALL_SECONDS, allow_sync_methods=False)
        self._client = StripeClient(
            secret_key.get_secret_value(),
            base_addresses={"api": api_base},
            stripe_version=API_VERSION,
            http_client=self._http,
            # The SDK would retry with no regard to our deadlines, and not at all on 429.
            max_network_retries=0,
        )
        self._shop_url = shop_url.rstrip("/")
        self._shop_id = shop_id

    async def close(self) -> None:
        await cast(Any, self._http).close_async()

    async def retrieve_account(self, *, deadline: float) -> str:
        """The id of the account that the key belongs to."""
        call = self._client.v1.accounts.retrieve_current_async()
        answer = await _answer("retrieve_account", call, deadline)
        return _parsed(answer, lambda fields: stripe_objects.parse_id(fields, "account"))

    async def create_session(
        self, checkout: Checkout, *, lines: list[Line], email: str, deadline: float
    ) -> Session:
        """Opens the session of a checkout; the same key and parameters however often it is called."""
        params = self._creation(checkout, lines, email)
        call = self._client.v1.checkout.sessions.create_async(
            cast(Any, params), {"idempotency_key": rules.creation_key(checkout)}
        )
        return _parsed(await _answer("create_session", call, deadline), stripe_objects.parse_session)

    async def retrieve_session(self, session_id: str, *, deadline: float) -> Session:
        call = self._client.v1.checkout.sessions.retrieve_async(session_id)
        return _parsed(await _answer("retrieve_session", call, deadline), stripe_objects.parse_session)

    async def expire_session(self, session_id: str, *, deadline: float) -> Session:
        """Ends an open session; StripeRefused when it is not open. Ending it twice does no harm, hence a
        new key for each call: under one key a stored failure would keep the session open."""
        call = self._client.v1.checkout.sessions.expire_async(
            session_id, None, {"idempotency_key": f"expire:{session_id}:{uuid7()}"}
        )
        return _parsed(await _answer("expire_session", call, deadline), stripe_objects.parse_session)

    def list_sessions(self, *, since: datetime, deadline: float) -> AsyncIterator[Session]:
        """Every session created at `since` or later, the newest first; StripeUnknown when they are too
        many to be read."""
        params = {"created": {"gte": int(since.timestamp())}}
        return self._pages(
            "list_sessions",
            self._client.v1.checkout.sessions.list_async,
            params,
            stripe_objects.parse_session,
            deadline,
        )

    def list_sessions_of(self, payment_intent_id: str, *, deadline: float) -> AsyncIterator[Session]:
        """The session that a payment was made in; nothing when it was made in another way."""
        return self._pages(
            "list_sessions",
            self._client.v1.checkout.sessions.list_async,
            {"payment_intent": payment_intent_id},
            stripe_objects.parse_session,
            deadline,
        )

    async def create_refund(self, refund: rules.Refund, *, deadline: float) -> Refund:
        """Gives money back; the same key and parameters however often it is called."""
        params = {
            "payment_intent": refund.payment_intent_id,
            "amount": refund.amount_cents,
            "metadata": {"refund_id": str(refund.id)},
        }
        call = self._client.v1.refunds.create_async(
            cast(Any, params), {"idempotency_key": rules.refund_key(refund)}
        )
        return _parsed(await _answer("create_refund", call, deadline), stripe_objects.parse_refund)

    def list_refunds(self, payment_intent_id: str, *, deadline: float) -> AsyncIterator[Refund]:
        return self._pages(
            "list_refunds",
            self._client.v1.refunds.list_async,
            {"payment_intent": payment_intent_id},
            stripe_objects.parse_refund,
            deadline,
        )

    def list_disputes(self, payment_intent_id: str, *, deadline: float) -> AsyncIterator[Dispute]:
        return self._pages(
            "list_disputes",
            self._client.v1.disputes.list_async,
            {"payment_intent": payment_intent_id},
            stripe_objects.parse_dispute,
            deadline,
        )

    async def retrieve_intent(self, payment_intent_id: str, *, deadline: float) -> Intent:
        call = self._client.v1.payment_intents.retrieve_async(payment_intent_id)
        return _parsed(await _answer("retrieve_intent", call, deadline), stripe_objects.parse_intent)

    async def retrieve_charge(self, charge_id: str, *, deadline: float) -> Charge:
        """With what it brought in the currency that the account is settled in."""
        call = self._client.v1.charges.retrieve_async(charge_id, {"expand": ["balance_transaction"]})
        return _parsed(await _answer("retrieve_charge", call, deadline), stripe_objects.parse_charge)

    async def retrieve_payment_of(self, kind: str, object_id: str, *, deadline: float) -> str | None:
        """The payment intent of a charge, a refund or a dispute; a charge made without one has None."""
        v1 = self._client.v1
        retrieve: Callable[[str], Awaitable[Any]] = {
            "charge": v1.charges.retrieve_async,
            "refund": v1.refunds.retrieve_async,
            "dispute": v1.disputes.retrieve_async,
        }[kind]
        answer = await _answer(f"retrieve_{kind}", retrieve(object_id), deadline)
        return _parsed(answer, stripe_objects.parse_payment_of)

    async def retrieve_invoice(self, invoice_id: str, *, deadline: float) -> Invoice:
        call = self._client.v1.invoices.retrieve_async(invoice_id)
        return _parsed(await _answer("retrieve_invoice", call, deadline), stripe_objects.parse_invoice)

    def parts_of_invoice(self, invoice_id: str, *, deadline: float) -> AsyncIterator[InvoicePart]:
        """All that has paid an invoice."""
        return self._pages(
            "list_invoice_payments",
            self._client.v1.invoice_payments.list_async,
            {"invoice": invoice_id, "status": "paid"},
            stripe_objects.parse_invoice_part,
            deadline,
        )

    async def invoice_of_payment(self, payment_intent_id: str, *, deadline: float) -> str | None:
        """The invoice that a payment intent paid."""
        params = {"payment": {"type": "payment_intent", "payment_intent": payment_intent_id}}
        pages = self._pages(
            "list_invoice_payments",
            self._client.v1.invoice_payments.list_async,
            params,
            stripe_objects.parse_invoice_part,
            deadline,
        )
        return next(iter([part.invoice_id async for part in pages if part.invoice_id]), None)

    async def retrieve_subscription(self, subscription_id: str, *, deadline: float) -> Subscription:
        call = self._client.v1.subscriptions.retrieve_async(subscription_id)
        return _parsed(
            await _answer("retrieve_subscription", call, deadline), stripe_objects.parse_subscription
        )

    async def end_with_period(self, subscription_id: str, *, deadline: float) -> Subscription:
        """No renewal any more. Asking twice does no harm, hence a new key for each call."""
        call = self._client.v1.subscriptions.update_async(
            subscription_id,
            {"cancel_at_period_end": True},
            {"idempotency_key": f"end:{subscription_id}:{uuid7()}"},
        )
        return _parsed(
            await _answer("update_subscription", call, deadline), stripe_objects.parse_subscription
        )

    async def cancel_at_once(self, subscription_id: str, *, deadline: float) -> Subscription:
        """Ends a subscription now, and bills nothing for it any more; StripeRefused when it has ended. Asking
        twice does no harm, hence a new key for each call."""
        call = self._client.v1.subscriptions.cancel_async(
            subscription_id,
            {"prorate": False, "invoice_now": False},
            {"idempotency_key": f"cancel:{subscription_id}:{uuid7()}"},
        )
        return _parsed(
            await _answer("cancel_subscription", call, deadline), stripe_objects.parse_subscription
        )

    async def list_created(self, kind: str, since: datetime, until: datetime | None) -> AsyncIterator[Any]:
        """Charges, invoices, refunds or disputes that were made within a time, the newest first. Without what
        cannot be read: an account has objects of other programs and other years. Each page has a deadline of
        its own."""
        v1 = self._client.v1
        listings: dict[str, tuple[Callable[[Any], Awaitable[Any]], Callable[[Fields], Any]]] = {
            "charges": (v1.charges.list_async, stripe_objects.parse_charge),
            "invoices": (v1.invoices.list_async, stripe_objects.parse_invoice),
            "refunds": (v1.refunds.list_async, stripe_objects.parse_refund),
            "disputes": (v1.disputes.list_async, stripe_objects.parse_dispute),
        }
        listing, parse = listings[kind]
        created = {"gte": int(since.timestamp())} | ({"lte": int(until.timestamp())} if until else {})
        listed = self._pages(
            f"list_{kind}", listing, {"created": created}, dict, deadline=None, most_pages=_MAX_EVENT_PAGES
        )
        async for fields in listed:
            try:
                yield parse(fields)
            except Malformed as error:
                log.warning("stripe.unreadable", kind=kind, object_id=fields.get("id"), why=str(error))

    def list_invoices_of(self, subscription_id: str, *, deadline: float) -> AsyncIterator[Invoice]:
        """The paid ones of a subscription, the newest first."""
        return self._pages(
            "list_invoices",
            self._client.v1.invoices.list_async,
            {"subscription": subscription_id, "status": "paid"},
            stripe_objects.parse_invoice,
            deadline,
        )

    def list_events(
        self, types: Sequence[str], *, since: datetime, undelivered: bool = False, page_seconds: float
    ) -> AsyncIterator[Fields]:
        """Stripe's events of 20 types at most, the newest first, as they would have come by webhook. Stripe
        keeps them for 30 days. Each page has a deadline of its own."""
        assert len(types) <= MAX_EVENT_TYPES, "Stripe refuses more"
        params: dict[str, Any] = {"types": list(types), "created": {"gte": int(since.timestamp())}}
        params |= {"delivery_success": False} if undelivered else {}
        return self._pages(
            "list_events",
            self._client.v1.events.list_async,
            params,
            dict,
            deadline=None,
            page_seconds=page_seconds,
            most_pages=_MAX_EVENT_PAGES,
        )

    async def _pages(
        self,
        name: str,
        listing: Callable[[Any], Awaitable[Any]],
        params: Mapping[str, Any],
        parse: Callable[[Fields], _Parsed],
        deadline: float | None,
        page_seconds: float = CALL_SECONDS,
        most_pages: int = _MAX_PAGES,
    ) -> AsyncIterator[_Parsed]:
        asked: dict[str, Any] = {**params, "limit": _PAGE}
        for _ in range(most_pages):
            until = deadline or asyncio.get_running_loop().time() + page_seconds
            page = await _answer(name, listing(asked), until)
            for item in page.data:
                yield _parsed(item, parse)
            if not page.has_more:
                return
            if not page.data:
                raise StripeUnknown("the listing has more, and an empty page")
            asked["starting_after"] = page.data[-1].id
        raise StripeUnknown("the listing has too many pages")

    def _creation(self, checkout: Checkout, lines: list[Line], email: str) -> dict[str, Any]:
        metadata = rules.metadata_of(checkout) | {rules.SHOP_MARK: self._shop_id}
        params: dict[str, Any] = {
            "mode": "subscription" if checkout.plan_id else "payment",
            "client_reference_id": str(checkout.id),
            "metadata": metadata,
            # A subscription's payments are found by its invoices, which carry its metadata.
            "subscription_data" if checkout.plan_id else "payment_intent_data": {"metadata": metadata},
            "line_items": [_line_item(checkout, line) for line in lines],
            "success_url": f"{self._shop_url}/checkout/success?checkout_id={checkout.id}",
            "cancel_url": f"{self._shop_url}/checkout/cancel?checkout_id={checkout.id}",
            "expires_at": int(checkout.expires_at.timestamp()),
        }
        params |= {"allow_promotion_codes": True} if checkout.promotion_codes else {}
        return params | ({"customer_email": email} if email else {})


def _line_item(checkout: Checkout, line: Line) -> dict[str, Any]:
    price: dict[str, Any] = {
        "currency": checkout.currency,
        "unit_amount": line.unit_price_cents,
        "product_data": {"name": line.title},
    }
    if line.interval:
        price["recurring"] = {"interval": line.interval}
    return {"quantity": line.quantity, "price_data": price}


async def while_busy(call: Callable[[], Awaitable[_Answer]], *, deadline: float) -> _Answer:
    """Calls again under the same key while Stripe says 409 or 429 and there is time."""
    loop = asyncio.get_running_loop()
    pause = _BUSY_PAUSE_SECONDS
    while True:
        try:
            return await call()
        except StripeBusy:
            wait = pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
            if loop.time() + wait + pause >= deadline:
                raise
            await asyncio.sleep(wait)
            pause *= 2


async def _answer(name: str, call: Awaitable[_Answer], deadline: float) -> _Answer:
    with (
        tracing.within(
            f"stripe {name}",
            kind=SpanKind.CLIENT,
            attributes={"peer.service": "stripe", "aishop.operation": name},
        ),
        metrics.calling_stripe(name),
    ):
        try:
            return await _answer_or_meaning(call, deadline)
        except (StripeUnknown, StripeRefused) as error:
            tracing.refuse(error)
            raise


async def _answer_or_meaning(call: Awaitable[_Answer], deadline: float) -> _Answer:
    seconds = min(CALL_SECONDS, deadline - asyncio.get_running_loop().time())
    try:
        # httpx limits each phase of a request; this limits all of it.
        async with asyncio.timeout(max(seconds, _SHORTEST_CALL_SECONDS)):
            return await call
    except TimeoutError as error:
        raise StripeUnknown("timeout") from error
    except stripe.StripeError as error:
        raise _meaning(error) from error


def _meaning(error: stripe.StripeError) -> StripeUnknown | StripeRefused:
    """What an error of the official client says about the effect of the call."""
    status = error.http_status
    words = {"said": _words_of(error), "request_id": error.request_id or ""}
    if isinstance(error, stripe.IdempotencyError):
        return StripeKeySpent("the key belongs to other parameters", **words)
    if status == 409 or isinstance(error, stripe.RateLimitError):
        return StripeBusy(f"http_{status}", **words)
    if status is not None and status >= 500 and _is_replayed(error):
        return StripeKeySpent("a stored failure", **words)
    if isinstance(error, (stripe.InvalidRequestError, stripe.CardError)):
        # 404 for what the address names, 400 for what a parameter names.
        kind = StripeMissing if error.code == "resource_missing" else StripeRefused
        return kind(error.code or f"http_{status}", **words)
    # 401 and 403 too: a key that is being rolled is no reason to fail a customer's checkout.
    return StripeUnknown(f"http_{status}" if status else type(error).__name__, **words)


_MAX_WORDS = 300
_ADDRESS = re.compile(r"\S+@\S+")
_SECRET = re.compile(r"\b(?:sk|rk|pk|whsec)_\S+")


def _words_of(error: stripe.StripeError) -> str:
    """Stripe's message for an operator: without what it repeats of addresses and keys."""
    if error.http_status is None or error.code == EMAIL_INVALID:
        return ""
    words = " ".join((error.user_message or "").split())
    return _SECRET.sub("<key>", _ADDRESS.sub("<address>", words))[:_MAX_WORDS]


def _is_replayed(error: stripe.StripeError) -> bool:
    return (error.headers or {}).get("idempotent-replayed", "").lower() == "true"


def _parsed(answer: Any, parse: Callable[[Fields], _Parsed]) -> _Parsed:
    try:
        return parse(answer.to_dict())
    except Malformed as error:
        raise StripeMalformed(f"malformed answer: {error}") from error
