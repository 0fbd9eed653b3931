"""The ASGI application: routes, error handlers, the gate in front, CORS and the headers of every answer."""

import asyncio

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway import openapi, problems
from gateway.admission import Admission
from gateway.auth import Authenticator
from gateway.backends import Backends
from gateway.gate import TRACE_HEADER, Gate
from gateway.load_shedding import LoadShedding
from gateway.routes import (
    admin_analytics,
    admin_audit,
    admin_dead_letters,
    admin_debts,
    admin_mails,
    admin_orders,
    admin_payments,
    admin_points,
    admin_products,
    admin_shipments,
    admin_timeline,
    cart,
    catalog,
    downloads,
    health,
    orders,
    pages,
    points,
    subscriptions,
    webhooks,
)
from gateway.security_headers import SecurityHeaders
from gateway.settings import GatewaySettings
from services.chassis.rates import RateLimiter
from services.chassis.version import VERSION

_ROUTERS = (
    orders.router,
    downloads.router,
    points.router,
    points.public_router,
    subscriptions.router,
    subscriptions.public_router,
    cart.router,
    catalog.router,
    admin_points.router,
    admin_products.router,
    admin_orders.router,
    admin_payments.router,
    admin_shipments.router,
    admin_debts.router,
    admin_mails.router,
    admin_dead_letters.router,
    admin_timeline.router,
    admin_analytics.router,
    admin_audit.router,
    webhooks.router,
    health.router,
    pages.router,
)
_TAGS = [
    {"name": "catalog", "description": "What can be bought."},
    {"name": "points", "description": "Points: packages, checkouts, balance and ledger."},
    {"name": "subscriptions", "description": "Plans that give points for each paid period."},
    {"name": "cart", "description": "The customer's cart."},
    {"name": "orders", "description": "Buying images, and what became of it."},
    {"name": "downloads", "description": "The files of bought images, for their buyers alone."},
    {"name": "operators", "description": "For operators (`app_metadata.role`); each action is audited."},
    {"name": "webhooks", "description": "For Stripe."},
    {"name": "health", "description": "For the platform."},
]


def create_api(settings: GatewaySettings, backends: Backends) -> FastAPI:
    """The routes and their error handlers, without what stands before them."""
    api = FastAPI(
        title="AI Shop",
        version=VERSION,
        description="Buy points, spend them on images, or buy images by card. Errors: /docs/errors.",
        openapi_tags=_TAGS,
        # pages.py has one that works offline.
        docs_url=None,
        redoc_url=None,
        # Its spans tell whole paths, and a download's path is its key; ours (gate.py) tell the route.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        redirect_slashes=False,
    )
    api.state.settings = settings
    api.state.backends = backends
    api.state.authenticator = Authenticator(settings)
    api.state.limiter = RateLimiter(settings.valkey_url)
    api.state.is_draining = False
    # Set when we stop: whoever follows something is told to ask another replica.
    api.state.closing = asyncio.Event()
    problems.install(api)
    for router in _ROUTERS:
        api.include_router(router)
    openapi.install(api)
    return api


def guarded(api: FastAPI, settings: GatewaySettings) -> ASGIApp:
    """The application as it is served."""
    bounded = LoadShedding(api, settings)
    gate = Gate(Admission(bounded, settings, api.state.authenticator, api.state.limiter))
    if not settings.cors_origins:
        return SecurityHeaders(gate, settings)
    cors = CORSMiddleware(
        gate,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "If-Match",
            "Last-Event-ID",
            "traceparent",
        ],
        expose_headers=[
            "Content-Disposition",
            "ETag",
            "Location",
            "Retry-After",
            "Idempotency-Key",
            TRACE_HEADER,
        ],
        max_age=600,
    )
    return SecurityHeaders(cors, settings)
