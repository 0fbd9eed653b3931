"""The calls to Stripe that we make, through the official client, with one answer or one of three errors.

No retries hide in here: `StripeRefused` is a definite no, `StripeBusy` asks for the same key a little
later, any other `StripeUnknown` leaves open whether the call took effect. Whoever called decides.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import datetime
from typing import Any, TypeVar, cast

import stripe
from pydantic import SecretStr
from stripe import HTTPXClient, StripeClient

from services.chassis.ids import uuid7
from services.payments import rules
from services.payments.errors import StripeBusy, StripeKeySpent, StripeRefused, StripeUnknown
from services.payments.rules import Checkout, Line, Malformed, Session

API_VERSION = "2026-10-28.endive"
CALL_SECONDS = 4.5
# Below this there is no point in starting a call.
_SHORTEST_CALL_SECONDS = 0.2
_PAGE = 100
# More sessions than this in the 45 minutes of one checkout are beyond what one listing may read.
_MAX_PAGES = 200

_Answer = TypeVar("_Answer")


class Stripe:
    """Checkout Sessions of one Stripe account. `deadline` is in seconds of the running loop's clock."""

    def __init__(self, *, secret_key: SecretStr, api_base: str, shop_url: str) -> None:
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

    async def close(self) -> None:
        await cast(Any, self._http).close_async()

    async def create_session(
        self, checkout: Checkout, *, lines: list[Line], email: str, deadline: float
    ) -> Session:
        """Opens the session of a checkout; the same key and parameters however often it is called."""
        params = self._creation(checkout, lines, email)
        call = self._client.v1.checkout.sessions.create_async(
            cast(Any, params), {"idempotency_key": rules.creation_key(checkout)}
        )
        return _session(await _answer(call, deadline))

    async def retrieve_session(self, session_id: str, *, deadline: float) -> Session:
        return _session(await _answer(self._client.v1.checkout.sessions.retrieve_async(session_id), deadline))

    async def expire_session(self, session_id: str, *, deadline: float) -> Session:
        """Ends an open session; StripeRefused when it is not open. Ending it twice does no harm, hence a
        new key for each call: under one key a stored failure would keep the session open."""
        call = self._client.v1.checkout.sessions.expire_async(
            session_id, None, {"idempotency_key": f"expire:{session_id}:{uuid7()}"}
        )
        return _session(await _answer(call, deadline))

    async def list_sessions(self, *, since: datetime, deadline: float) -> AsyncIterator[Session]:
        """Every session created at `since` or later, the newest first; StripeUnknown when they are too
        many to be read."""
        params: dict[str, Any] = {"created": {"gte": int(since.timestamp())}, "limit": _PAGE}
        for _ in range(_MAX_PAGES):
            page = await _answer(self._client.v1.checkout.sessions.list_async(cast(Any, params)), deadline)
            for item in page.data:
                yield _session(item)
            if not page.has_more:
                return
            params["starting_after"] = page.data[-1].id
        raise StripeUnknown("the listing has too many pages")

    def _creation(self, checkout: Checkout, lines: list[Line], email: str) -> dict[str, Any]:
        metadata = rules.metadata_of(checkout)
        params: dict[str, Any] = {
            "mode": "payment",
            "client_reference_id": str(checkout.id),
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata},
            "line_items": [
                {
                    "quantity": line.quantity,
                    "price_data": {
                        "currency": checkout.currency,
                        "unit_amount": line.unit_price_cents,
                        "product_data": {"name": line.title},
                    },
                }
                for line in lines
            ],
            "success_url": f"{self._shop_url}/checkout/success?checkout_id={checkout.id}",
            "cancel_url": f"{self._shop_url}/checkout/cancel?checkout_id={checkout.id}",
            "expires_at": int(checkout.expires_at.timestamp()),
        }
        return params | ({"customer_email": email} if email else {})


async def _answer(call: Awaitable[_Answer], deadline: float) -> _Answer:
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
    if isinstance(error, stripe.IdempotencyError):
        return StripeKeySpent("the key belongs to other parameters")
    if status == 409 or isinstance(error, stripe.RateLimitError):
        return StripeBusy(f"http_{status}")
    if status is not None and status >= 500 and _is_replayed(error):
        return StripeKeySpent("a stored failure")
    if isinstance(error, (stripe.InvalidRequestError, stripe.CardError)):
        return StripeRefused(error.code or f"http_{status}")
    # 401 and 403 too: a key that is being rolled is no reason to fail a customer's checkout.
    return StripeUnknown(f"http_{status}" if status else type(error).__name__)


def _is_replayed(error: stripe.StripeError) -> bool:
    return (error.headers or {}).get("idempotent-replayed", "").lower() == "true"


def _session(answer: stripe.checkout.Session) -> Session:
    try:
        return rules.parse_session(answer.to_dict())
    except Malformed as error:
        raise StripeUnknown(f"malformed session: {error}") from error
