"""What may be an idempotency key, for whoever takes one from a client and for whoever keeps it.

Apart from `idempotency.py`, so that the gateway, which has no database, loads none of its libraries.
"""

from services.chassis.errors import Invalid

MAX_KEY_LENGTH = 255


def check_key(key: str) -> str:
    """1 to 255 printable ASCII characters, or Invalid."""
    if 1 <= len(key) <= MAX_KEY_LENGTH and all(" " <= char <= "~" for char in key):
        return key
    raise Invalid(
        "INVALID_IDEMPOTENCY_KEY",
        f"an idempotency key is 1 to {MAX_KEY_LENGTH} printable ASCII characters",
    )
