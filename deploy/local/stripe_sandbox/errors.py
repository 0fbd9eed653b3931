"""Stripe's error objects (docs.stripe.com/api/errors)."""

from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call is answered with; what is kept under an idempotency key."""

    status: int
    body: Body
    replayed: bool = False
    # The connection breaks before it is through.
    is_cut: bool = False


class Refusal(Exception):
    """A call that failed as Stripe's would. `executed` says that it got past its parameters: only then
    does Stripe keep the answer under the call's idempotency key."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        executed: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.executed = executed
        fields = {"code": code, "message": message, "param": param, "type": kind}
        self.error = {name: value for name, value in fields.items() if value is not None}
        if code:
            self.error["doc_url"] = f"https://docs.stripe.com/error-codes/{code.replace('_', '-')}"

    def answer(self) -> Answer:
        return Answer(self.status, {"error": self.error})


def invalid(message: str, *, param: str, code: str | None = None) -> Refusal:
    return Refusal(400, message, param=param, code=code)


def no_such(kind: str, object_id: str, *, param: str, status: int = 404) -> Refusal:
    """404 for the object that the path names, 400 for one that a parameter names."""
    return Refusal(status, f"No such {kind}: '{object_id}'", param=param, code="resource_missing")


_OF_STATUS = {
    401: ("invalid_request_error", None, "Invalid API Key provided."),
    402: ("card_error", "card_declined", "Your card was declined."),
    409: (
        "idempotency_error",
        "idempotency_key_in_use",
        "There is currently another in-progress request using this Idempotent Key.",
    ),
    429: ("invalid_request_error", "rate_limit", "Request rate limit exceeded."),
}


def of_status(status: int) -> Refusal:
    """What Stripe says with a status, whatever the call was."""
    default = (
        ("api_error", None, "An unknown error occurred.")
        if status >= 500
        else ("invalid_request_error", None, "The request was unacceptable.")
    )
    kind, code, message = _OF_STATUS.get(status, default)
    # Stripe keeps its own failures (500) under the key; refusals at the door it does not.
    return Refusal(status, message, kind=kind, code=code, executed=status in (402, 500))
