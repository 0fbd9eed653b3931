"""Where the orders database keeps sealed values (chassis/crypto.py binds each to its place)."""

from uuid import UUID


def email_place(order_id: UUID) -> str:
    """The customer's e-mail on an order."""
    return f"orders.email:{order_id}"
