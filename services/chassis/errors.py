"""Domain errors: a category, a stable reason and context as fields.

The category decides the gRPC code (grpc_server.py) and, through it, the HTTP status; the reason is what
clients program against. The same classes are raised again on the caller's side (grpc_client.py).
"""

from typing import ClassVar


class DomainError(Exception):
    """Base of everything that a user or a calling service may be told."""

    category: ClassVar[str] = "internal"

    def __init__(self, reason: str, message: str, **fields: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields: dict[str, str] = {name: str(value) for name, value in fields.items()}


class Invalid(DomainError):
    """The request itself is wrong, whatever the state."""

    category = "invalid"


class Rejected(DomainError):
    """A well-formed request that the state of the shop does not allow."""

    category = "rejected"


class NotFound(DomainError):
    """Nothing of that id that this user may see."""

    category = "not_found"


class Conflict(DomainError):
    """The resource moved on: read it again, then decide."""

    category = "conflict"


class NotAllowed(DomainError):
    """Not for this caller, whatever the request: another service, not a user, made it."""

    category = "not_allowed"


class Unavailable(DomainError):
    """Try again later, with the same idempotency key."""

    category = "unavailable"


class Overloaded(Unavailable):
    """Too many ask for the same scarce thing: try again later, not at once."""

    category = "overloaded"


class OutcomeUnknown(Unavailable):
    """A call ran out of time or lost its connection: it may or may not have taken effect."""


CATEGORIES: dict[str, type[DomainError]] = {
    error.category: error for error in (Invalid, Rejected, NotFound, Conflict, Unavailable)
}
