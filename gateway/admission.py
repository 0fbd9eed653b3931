"""Before every route: who asks, and whether that one asks too often, or for too much at once.

Whoever shows a valid token is counted by it, so that nobody pays for a neighbour at the same address; all
others, also those with a token that is not valid, by address; deliveries of webhooks by their source. What
costs the shop the most has a bucket of its own besides. Whether a token is needed at all is the route's
business (routing.py). Probes of the platform are never refused.
"""

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.auth import Authenticator, Customer
from gateway.gate import PROBES
from gateway.lanes import DOWNLOADS_PATH, WEBHOOK_PATH, lane_of
from gateway.problems import ProblemError, problem
from gateway.settings import GatewaySettings
from services.chassis.at_once import AtOnce, InTurn
from services.chassis.client_address import address_of, source_of
from services.chassis.rates import Rate, RateLimiter, Try

# Where a request notes its Customer, or the ProblemError that says why there is none.
CALLER_IN_SCOPE = "aishop.caller"
# And from which address it came.
ADDRESS_IN_SCOPE = "aishop.address"
_DOWNLOADS_THAT_WAIT = 100
_DOWNLOAD_PATIENCE_SECONDS = 5.0
_CHECKOUT_PATHS = frozenset({"/api/checkout", "/api/checkout/points", "/api/subscriptions"})


class Admission:
    """See the module."""

    def __init__(
        self, app: ASGIApp, settings: GatewaySettings, authenticator: Authenticator, limiter: RateLimiter
    ) -> None:
        self._app = app
        self._settings = settings
        self._authenticator = authenticator
        self._limiter = limiter
        self._strangers = AtOnce(settings.max_requests_per_address)
        self._customers = AtOnce(settings.max_requests_per_user)
        self._webhooks = AtOnce(settings.max_webhooks_per_source)
        self._streams = AtOnce(settings.max_streams_per_user)
        # Somebody who fetches all pictures of an order at once gets them one after the other.
        self._downloads = InTurn(
            settings.max_downloads_per_user,
            waiting=_DOWNLOADS_THAT_WAIT,
            patience_seconds=_DOWNLOAD_PATIENCE_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            return await self._app(scope, receive, send)
        address = address_of(scope, self._settings.trusted_proxies)
        caller = await self._caller(scope)
        limits = self._limits(scope, caller, address)
        tries = [Try(bucket, rate) for bucket, rate in limits if rate is not None]
        if wait_seconds := await self._limiter.wait_seconds(*tries):
            headers = {"Retry-After": str(math.ceil(wait_seconds))}
            return await problem(scope, "rate_limited", headers=headers)(scope, receive, send)
        scope[CALLER_IN_SCOPE], scope[ADDRESS_IN_SCOPE] = caller, address
        async with self._held(scope, caller, address) as is_allowed:
            if not is_allowed:
                return await problem(scope, "too_many_at_once")(scope, receive, send)
            return await self._app(scope, receive, send)

    @asynccontextmanager
    async def _held(self, scope: Scope, caller: Customer | ProblemError, address: str) -> AsyncIterator[bool]:
        """Counts the request as its holder's until it is answered."""
        lane = lane_of(scope["path"])
        if lane == "downloads" and isinstance(caller, Customer):
            async with self._downloads.one(caller.user_id) as is_allowed:
                yield is_allowed
            return
        if lane == "webhooks":
            at_once, holder = self._webhooks, source_of(address)
        elif isinstance(caller, ProblemError):
            at_once, holder = self._strangers, source_of(address)
        else:
            at_once = self._streams if lane == "streams" else self._customers
            holder = caller.user_id
        with at_once.one(holder) as is_allowed:
            yield is_allowed

    async def _caller(self, scope: Scope) -> Customer | ProblemError:
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        try:
            return await self._authenticator.verify(authorization.decode("latin-1"))
        except ProblemError as refusal:
            return refusal

    def _limits(
        self, scope: Scope, caller: Customer | ProblemError, address: str
    ) -> Iterator[tuple[str, Rate | None]]:
        """The buckets that the request takes a token of."""
        settings, path = self._settings, scope["path"]
        if path == WEBHOOK_PATH:
            yield f"webhooks:{source_of(address)}", settings.rate_limit_webhooks
        elif isinstance(caller, ProblemError):
            yield f"address:{source_of(address)}", settings.rate_limit_address
        else:
            yield f"user:{caller.user_id}", settings.rate_limit_user
            if path in _CHECKOUT_PATHS and scope["method"] == "POST":
                yield f"checkout:{caller.user_id}", settings.rate_limit_checkout
            if path.startswith(DOWNLOADS_PATH):
                yield f"download:{caller.user_id}", settings.rate_limit_download
