"""Ids that look like Stripe's: a prefix, then letters and digits."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 24) -> str:
    """A session's id opens its payment page to whoever has it, so all of them are unguessable."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(length))
