"""What happens before a handler, in this order: 401, 403, then 404 for a malformed id, then the body.

FastAPI reads and parses the body before it runs any dependency, so that a stranger's malformed body would
be answered 400 instead of 401; hence a route class.
"""

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from gateway.admission import CALLER_IN_SCOPE
from gateway.auth import Authenticator, Customer
from gateway.backends import Backends
from gateway.problems import ProblemError
from gateway.schemas import EVENT_ID_PATTERN, LINK_PATTERN, MAIL_PATTERN, SAGA_PATTERN, UUID_PATTERN

BEARER = "bearer"
_UUID = re.compile(UUID_PATTERN)
# What is no UUID: ids that Stripe gave, links that orders sealed, and names.
_PATTERNS = {
    "eventId": re.compile(EVENT_ID_PATTERN),
    "token": re.compile(LINK_PATTERN),
    "saga": re.compile(SAGA_PATTERN),
    "mail": re.compile(MAIL_PATTERN),
    "service": re.compile("orders|wallet"),
}
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
# The path's parameter, and what is not found when it cannot be an id.
_NOT_FOUND = {
    "productId": "product_not_found",
    "orderId": "order_not_found",
    "checkoutId": "checkout_not_found",
    "subscriptionId": "subscription_not_found",
    "token": "download_not_found",
    "eventId": "stripe_event_not_found",
    "quarantineId": "quarantine_not_found",
    "reconciliationId": "reconciliation_not_found",
    "saga": "saga_not_found",
    "mail": "mail_not_found",
    "service": "dead_letter_not_found",
    "deadLetterId": "dead_letter_not_found",
}

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PublicRoute(APIRoute):
    """A route for anyone."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        reads_body = self.body_field is not None

        async def checked(request: Request) -> Response:
            _check_ids(request.path_params)
            if reads_body:
                await _check_media_type(request)
            return await handler(request)

        return checked


class CustomerRoute(PublicRoute):
    """A route for a signed-in customer."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        extra = {**(options.pop("openapi_extra", None) or {}), "security": [{BEARER: []}]}
        super().__init__(path, endpoint, openapi_extra=extra, **options)

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def authenticated(request: Request) -> Response:
            caller: Customer | ProblemError = request.scope[CALLER_IN_SCOPE]
            if isinstance(caller, ProblemError):
                raise caller
            self.refuse_entry(caller)
            return await handler(request)

        return authenticated

    def refuse_entry(self, customer: Customer) -> None:
        """Raises for whom this route is not meant."""


class OperatorRoute(CustomerRoute):
    """A route for operators; a customer hears 403 before anything is said of ids or body."""

    def refuse_entry(self, customer: Customer) -> None:
        if not customer.is_operator:
            raise ProblemError("operator_only")


def customer_of(request: Request) -> Customer:
    """The caller of a CustomerRoute or an OperatorRoute."""
    customer: Customer = request.scope[CALLER_IN_SCOPE]
    return customer


def authenticator_of(request: Request) -> Authenticator:
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator


def backends_of(request: Request) -> Backends:
    backends: Backends = request.app.state.backends
    return backends


def _check_ids(path_params: Mapping[str, str]) -> None:
    for name, value in path_params.items():
        if not _PATTERNS.get(name, _UUID).fullmatch(value):
            raise ProblemError(_NOT_FOUND[name])


async def _check_media_type(request: Request) -> None:
    """A body must say that it is JSON; no body at all is the model's business."""
    if not _JSON.fullmatch(request.headers.get("content-type", "")) and await request.body():
        raise ProblemError("unsupported_media_type")
