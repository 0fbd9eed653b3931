"""The OpenAPI document: every error a route can answer, with the codes it may carry."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.errors import KINDS
from gateway.problems import MEDIA_TYPE
from gateway.routing import BEARER

Responses = dict[int | str, dict[str, Any]]

# What any route under /api may answer, whatever it does.
_ANY = (
    *("rate_limited", "too_many_at_once", "request_timeout"),
    *("internal_error", "overloaded", "service_unavailable", "outcome_unknown", "busy"),
)
_SIGNED_IN = (
    *("missing_token", "invalid_token", "token_expired", "keys_unavailable"),
    *("email_not_verified", "second_factor_required"),
)
BODY = ("malformed_json", "body_too_large", "unsupported_media_type", "invalid_request")
KEYED = ("invalid_idempotency_key", "idempotency_key_reused", "request_in_flight")
PAGED = ("invalid_limit", "invalid_cursor")

_PROBLEM = {
    "type": "object",
    "description": "RFC 9457. Codes and their extra fields are listed in /docs/errors.",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "traceId": {"type": "string", "description": "To ask the shop with; in its logs, too."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
    "additionalProperties": True,
}


def public_problems(*codes: str) -> Responses:
    """The `responses` of a public route that may answer these codes."""
    return only_problems(*codes, *_ANY)


def customer_problems(*codes: str) -> Responses:
    """The `responses` of a signed-in route that may answer these codes."""
    return only_problems(*_SIGNED_IN, *codes, *_ANY)


def operator_problems(*codes: str) -> Responses:
    """The `responses` of an operator's route that may answer these codes."""
    return customer_problems("operator_only", *codes)


def only_problems(*codes: str) -> Responses:
    """Just these codes, by status."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(KINDS[code].status, []).append(code)
    return {status: _response(group) for status, group in by_status.items()}


def _response(codes: list[str]) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem", "properties": {"code": {"enum": codes}}}
    return {
        "description": "; ".join(f"`{code}`: {KINDS[code].title}" for code in codes),
        "content": {MEDIA_TYPE: {"schema": schema}},
    }


def install(app: FastAPI) -> None:
    """Lets the app build its document once, with problems and the bearer scheme."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    schemas = document["components"]["schemas"]
    # FastAPI's own error shape, which no route of ours answers.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    schemas["Problem"] = _PROBLEM
    document["components"]["securitySchemes"] = {
        BEARER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    return document
