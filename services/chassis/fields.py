"""Checks of request fields that several services' messages share."""

from uuid import UUID

from services.chassis.errors import Invalid


def as_uuid(value: str, *, field: str) -> UUID:
    """A UUID out of a message, or Invalid that names the field."""
    try:
        return UUID(value)
    except ValueError as error:
        raise Invalid("INVALID_FIELD", f"{field} must be a UUID", field=field) from error


def in_range(value: int, *, field: str, low: int, high: int) -> int:
    """A whole number within bounds (both included), or Invalid that names the field."""
    if low <= value <= high:
        return value
    raise Invalid("INVALID_FIELD", f"{field} must be {low} to {high}", field=field)


def as_text(value: str, *, field: str, longest: int, shortest: int = 1) -> str:
    """Text of so many characters, without NUL, which Postgres does not take; or Invalid that names the
    field."""
    if shortest <= len(value) <= longest and "\0" not in value:
        return value
    raise Invalid("INVALID_FIELD", f"{field} must be {shortest} to {longest} characters", field=field)
