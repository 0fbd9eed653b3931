"""Checks of text in requests and events."""

from services.chassis.errors import Invalid


def as_text(value: str, *, field: str, low: int = 0, high: int) -> str:
    """Text of `low` to `high` characters without NUL, which Postgres cannot store."""
    if low <= len(value) <= high and "\x00" not in value:
        return value
    raise Invalid("INVALID_FIELD", f"{field} must be {low} to {high} characters without NUL", field=field)
