"""Stripe's error objects (https://docs.stripe.com/api/errors)."""

from typing import Any


class StripeError(Exception):
    """Answered as `{"error": {...}}` with its HTTP status."""

    def __init__(
        self, status: int, type: str, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {
            "error": {"type": type, "message": message}
            | ({"code": code} if code else {})
            | ({"param": param} if param else {})
        }


def missing(param: str) -> StripeError:
    message = f"Missing required param: {param}."
    return StripeError(400, "invalid_request_error", message, code="parameter_missing", param=param)


def unknown_parameter(param: str) -> StripeError:
    message = f"Received unknown parameter: {param}"
    return StripeError(400, "invalid_request_error", message, code="parameter_unknown", param=param)


def invalid(param: str, message: str) -> StripeError:
    return StripeError(400, "invalid_request_error", message, param=param)


def no_such(kind: str, id: str, *, param: str = "id") -> StripeError:
    message = f"No such {kind}: '{id}'"
    return StripeError(404, "invalid_request_error", message, code="resource_missing", param=param)


def wrong_key() -> StripeError:
    return StripeError(401, "invalid_request_error", "Invalid API Key provided.")


def fault(status: int) -> StripeError:
    """What a scripted fault answers."""
    kinds = {409: "idempotency_error", 429: "rate_limit_error"}
    codes = {409: "idempotency_key_in_use", 429: "rate_limit"}
    return StripeError(
        status, kinds.get(status, "api_error"), "A fault that a test asked for.", code=codes.get(status)
    )
