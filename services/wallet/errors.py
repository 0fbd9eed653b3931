"""What wallet refuses, and why. The reasons are contracts (wallet.proto)."""

from uuid import UUID

from services.chassis.errors import Conflict, NotFound, Rejected


class InsufficientPoints(Rejected):
    """A new hold wants more than is free; nothing is free while there is debt."""

    def __init__(self, *, needed: int, available: int) -> None:
        super().__init__("INSUFFICIENT_POINTS", "not enough points", needed=needed, available=available)


class HoldReleased(Conflict):
    """The order's hold was released, perhaps before it was made (a tombstone)."""

    def __init__(self, *, order_id: UUID) -> None:
        super().__init__("HOLD_RELEASED", "the hold of this order was released", order_id=order_id)


class HoldMismatch(Conflict):
    """The order has a hold of other points, or of somebody else; whose and how much is not told."""

    def __init__(self, *, order_id: UUID) -> None:
        super().__init__("HOLD_MISMATCH", "this order has another hold", order_id=order_id)


class HoldNotFound(NotFound):
    """No hold of this user and order."""

    def __init__(self, *, order_id: UUID) -> None:
        super().__init__("HOLD_NOT_FOUND", "this user has no hold for this order", order_id=order_id)


class NotCaptured(Conflict):
    """Only points that were spent can be given back."""

    def __init__(self, *, order_id: UUID) -> None:
        super().__init__("NOT_CAPTURED", "the points of this order were not spent", order_id=order_id)


class RefundExceedsSpend(Rejected):
    """All refunds of an order together never exceed what was spent on it."""

    def __init__(self, *, requested: int, refundable: int) -> None:
        super().__init__(
            "REFUND_EXCEEDS_SPEND",
            "more than is left of what was spent on this order",
            requested=requested,
            refundable=refundable,
        )


class RefundMismatch(Conflict):
    """The refund's id stands for another refund."""

    def __init__(self, *, refund_id: UUID) -> None:
        super().__init__("REFUND_MISMATCH", "this refund_id was used for another refund", refund_id=refund_id)


class AdjustmentMismatch(Conflict):
    """The adjustment's id stands for another adjustment."""

    def __init__(self, *, adjustment_id: UUID) -> None:
        super().__init__(
            "ADJUSTMENT_MISMATCH",
            "this adjustment_id was used for another adjustment",
            adjustment_id=adjustment_id,
        )


class GrantOfAnotherUser(Rejected):
    """One paid source never gives points to two users."""

    def __init__(self, *, source_id: str) -> None:
        super().__init__(
            "GRANT_OF_ANOTHER_USER", "this source gave points to somebody else", source_id=source_id
        )
