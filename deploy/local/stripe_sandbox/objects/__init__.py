"""Builders of Stripe's objects, with every field that the official client's types declare."""

import secrets
from typing import Any

Fields = dict[str, Any]


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(14)}"


def nulls(names: str) -> Fields:
    """Fields that Stripe answers as null here."""
    return dict.fromkeys(names.split())
