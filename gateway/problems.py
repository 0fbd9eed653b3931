"""Errors on the wire: domain errors and bad requests become RFC 9457 problem+json with a stable code."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from gateway.errors import KINDS, Kind
from services.chassis import logs, tracing
from services.chassis.errors import (
    Conflict,
    DomainError,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Rejected,
    Unavailable,
)

log = logs.get(__name__)

MEDIA_TYPE = "application/problem+json"
# Where a request notes its Idempotency-Key, so that every answer to it can name the key.
KEY_IN_SCOPE = "aishop.idempotency_key"

# Where a request notes that its answer has begun.
STARTED_IN_SCOPE = "aishop.answer_has_started"
# What ends an answer on its way and is nobody's defect: the client, or who gives us what we pass on.
_BROKEN_WIRE = (DomainError, OSError, TimeoutError, ClientDisconnect)

# What a reason answers that has no row in the table: by the error's category.
_STATUS_BY_CATEGORY: dict[type[DomainError], int] = {
    Invalid: 422,
    Rejected: 409,
    NotFound: 404,
    Conflict: 409,
}
_CODE_BY_STATUS = {
    400: "malformed_json",
    404: "route_not_found",
    405: "method_not_allowed",
    413: "body_too_large",
}
_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code", "traceId"})
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


class ProblemError(Exception):
    """An error that the gateway itself answers with; `code` is a row of errors.KINDS."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail or code)
        self.code = code
        self.detail = detail
        self.headers = headers
        self.fields = fields


def problem(
    scope: Scope,
    code: str,
    detail: str = "",
    *,
    kind: Kind | None = None,
    fields: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer for a code; `kind` for a code that the table does not know."""
    kind = kind or KINDS[code]
    body = {"type": f"/docs/errors#{code}", "title": kind.title, "status": kind.status, "code": code}
    # The title in other letters tells nothing more.
    if detail and detail.casefold() != kind.title.casefold():
        body["detail"] = detail
    if trace_id := tracing.trace_id():
        body["traceId"] = trace_id
    sent = dict(headers or {})
    if kind.retry_after_seconds is not None:
        sent["Retry-After"] = str(kind.retry_after_seconds)
    if key := scope.get(KEY_IN_SCOPE):
        sent["Idempotency-Key"] = key
    return Response(orjson.dumps(body | dict(fields or {})), kind.status, sent, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Registers the handlers: nothing that fails leaves the gateway in another shape."""
    app.exception_handler(DomainError)(_on_domain_error)
    app.exception_handler(ProblemError)(_on_problem)
    app.exception_handler(RequestValidationError)(_on_invalid_request)
    app.exception_handler(HTTPException)(_on_http_exception)
    app.exception_handler(ClientDisconnect)(_on_disconnect)
    app.exception_handler(Exception)(_on_unexpected)


async def _on_problem(request: Request, error: ProblemError) -> Response:
    return problem(request.scope, error.code, error.detail, headers=error.headers, fields=error.fields)


async def _on_domain_error(request: Request, error: DomainError) -> Response:
    if isinstance(error, Unavailable):
        return _on_unavailable(request, error)
    if error.reason == "INVALID_FIELD":
        broken = {"field": to_camel(error.fields.get("field", "")), "message": error.message}
        return problem(request.scope, "invalid_request", fields={"errors": [broken]})
    code = error.reason.lower()
    kind = KINDS.get(code) or Kind(_STATUS_BY_CATEGORY[type(error)], error.message, "")
    return problem(request.scope, code, error.message, kind=kind, fields=context_of(error.fields))


def _on_unavailable(request: Request, error: Unavailable) -> Response:
    """What broke inside is for the log; the customer hears whether, and how, to repeat."""
    log.warning("gateway.unavailable", route=_route(request), reason=error.reason, error=error.message)
    if isinstance(error, OutcomeUnknown):
        return problem(request.scope, "outcome_unknown")
    code = error.reason.lower()
    return problem(request.scope, code if code in KINDS else "service_unavailable")


def context_of(fields: Mapping[str, str]) -> dict[str, object]:
    """A domain error's fields as JSON: camelCase, counts and amounts as integers, ids as text."""
    context: dict[str, object] = {}
    for name, value in fields.items():
        camel = to_camel(name)
        key = f"current{camel.capitalize()}" if camel in _MEMBERS else camel
        is_number = not name.endswith("_id") and _WHOLE_NUMBER.fullmatch(value)
        context[key] = int(value) if is_number else value
    return context


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    found = error.errors()
    if any(entry["type"] == "json_invalid" for entry in found):
        return problem(request.scope, "malformed_json")
    errors = [{"field": _field(entry["loc"]), "message": entry["msg"]} for entry in found]
    if found[0]["loc"] in (("query", "limit"), ("query", "cursor")):
        return problem(request.scope, f"invalid_{found[0]['loc'][1]}", fields={"errors": errors})
    return problem(request.scope, "invalid_request", fields={"errors": errors})


def _field(location: Sequence[Any]) -> str:
    """items.0.quantity for ("body", "items", 0, "quantity"); the body itself is `body`."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    return problem(request.scope, _CODE_BY_STATUS[error.status_code], headers=headers)


def _allowed(request: Request) -> str:
    """The methods of all routes of the path; Starlette knows only those of the first one."""
    api: FastAPI = request.app
    methods = {
        method
        for route in iter_route_contexts(api.routes)
        if route.methods and route.path_regex.match(request.url.path)
        for method in route.methods
    }
    return ", ".join(sorted(methods))


async def _on_disconnect(_request: Request, _error: ClientDisconnect) -> Response:
    """Nobody is there to read it."""
    return Response(status_code=400)


def broke_off(scope: Scope, error: Exception) -> Exception | None:
    """Why an answer that had begun broke off; None for a defect, and for one that had not begun."""
    # Starlette tells what a handler cannot answer any more as the cause of an error of its own.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    has_started = scope.get(STARTED_IN_SCOPE, False)
    return cause if has_started and isinstance(cause, _BROKEN_WIRE) else None


async def _on_unexpected(request: Request, error: Exception) -> Response:
    """A defect of ours. Starlette raises it again after the answer, and uvicorn logs the traceback."""
    if broke_off(request.scope, error) is None:
        log.error("gateway.unexpected_error", route=_route(request), error=repr(error))
    return problem(request.scope, "internal_error")


def _route(request: Request) -> str:
    """What was asked for, without what is in the path: of a download that is its key."""
    return getattr(request.scope.get("route"), "path", "none")
