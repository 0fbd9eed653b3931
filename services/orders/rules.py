"""Pure decisions about orders: the status table, lines and totals. No I/O, no clock."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from services.orders import errors

SHOP_CURRENCY = "usd"
MAX_QUANTITY = 1000
MAX_LINES = 100
# Stripe refuses more than eight digits of minor units in most currencies:
# https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts
MAX_TOTAL_CENTS = 99_999_999
# A full order of the dearest products still is a number that JavaScript holds.
MAX_PRICE_POINTS = 1_000_000_000
MAX_ASSET_KEY_LENGTH = 200
# Segments begin with a letter, a digit or an underscore: no "..", no hidden file, no absolute path.
ASSET_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
# As mails print it: the end of the id.
ORDER_NUMBER = re.compile("[0-9a-f]{12}")


class Status(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"


class ProductType(StrEnum):
    DIGITAL = "digital"
    PHYSICAL = "physical"


PRODUCT_TYPES = tuple(ProductType)


class Method(StrEnum):
    STRIPE = "stripe"
    POINTS = "points"


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.PROCESSING, Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
    Status.PROCESSING: frozenset({Status.COMPLETED, Status.FAILED, Status.REFUNDED}),
    # A payment that Stripe took after we gave the order up.
    Status.FAILED: frozenset({Status.PROCESSING}),
    Status.CANCELLED: frozenset({Status.PROCESSING}),
    Status.COMPLETED: frozenset({Status.REFUNDED}),
    # The bank sent a refund back, or decided a lost dispute anew. Processing: paid too late for its goods.
    Status.REFUNDED: frozenset({Status.COMPLETED, Status.PROCESSING}),
}
# What a customer may repeat at no cost of one's own: bounded within a day, kept for 30 (commands/purging.py).
UNBOUGHT = ("out_of_stock", "insufficient_points")
# The failure_reason of an order whose payment came when it had ended and its goods were gone.
LATE_PAYMENT = "late_payment_out_of_stock"


# What the customer waits for is decided; a refund or a late payment is news of another day.
_DECIDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.REFUNDED})


def check_move(current: Status, to: Status) -> None:
    """Raises ILLEGAL_TRANSITION when the table does not know the move."""
    if to not in TRANSITIONS[current]:
        raise errors.illegal_transition(current, to)


@dataclass(frozen=True, slots=True)
class Offer:
    """A product as it stands now. `available` None: unlimited."""

    product_id: UUID
    title: str
    price_cents: int
    price_points: int
    currency: str
    active: bool
    available: int | None


@dataclass(frozen=True, slots=True)
class Line:
    """One frozen line of an order; prices are of one piece. What refunds have taken of it rises."""

    product_id: UUID
    title: str
    price_cents: int
    price_points: int
    quantity: int
    refunded_quantity: int = 0
    refunded_cents: int = 0
    refunded_points: int = 0


def is_settled(status: Status, lines: Sequence[Line], *, refunded_cents: int, refunded_points: int) -> bool:
    """Whether neither a payment nor a refund of an order is under way: its lines bear the refunds that were
    asked for, the order those that arrived."""
    asked_cents = sum(line.refunded_cents for line in lines)
    asked_points = sum(line.refunded_points for line in lines)
    return status in _DECIDED and asked_cents <= refunded_cents and asked_points <= refunded_points


@dataclass(frozen=True, slots=True)
class Money:
    """What became of an order's payment, in cents or in points: everything else about it follows from these.

    `requested` is what refunds have asked for, those under way included; `refunded` what arrived, whoever
    asked; `disputed` what open disputes hold and `lost` what lost ones took; `promised` the most that the
    customer was ever told to get back; `settled` what an operator gave outside of Stripe; `written_off` what
    is given up.
    """

    paid: int
    requested: int = 0
    refunded: int = 0
    disputed: int = 0
    lost: int = 0
    promised: int = 0
    settled: int = 0
    written_off: int = 0

    @property
    def left(self) -> int:
        """What is with the shop and asked for by nobody, disputes that are open apart."""
        return max(0, self.paid - max(self.requested, self.refunded) - self.lost - self.settled)

    @property
    def refundable(self) -> int:
        """What may be refunded now: what the bank decides about is not ours to give."""
        return max(0, self.left - self.disputed)

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it is left with the shop."""
        return 0 < self.paid <= self.refunded + self.lost + self.settled

    @property
    def owed(self) -> int:
        """What the customer was promised and has not got: a refund that came back, say. Never more than the
        shop still has of it."""
        given = max(self.requested, self.refunded) + self.settled + self.written_off
        return max(0, min(self.promised - given, self.left))


class Access(StrEnum):
    """How a line's download stands."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


def status_after(status: Status, money: Money, *, is_late: bool) -> Status:
    """The status of an order as its money wants it; of one that is not paid (yet) the one it has. `is_late`:
    paid when its goods were gone."""
    was_paid = status in (Status.COMPLETED, Status.REFUNDED) or (status is Status.PROCESSING and is_late)
    if not was_paid:
        return status
    if money.is_gone:
        return Status.REFUNDED
    return Status.PROCESSING if is_late else Status.COMPLETED


def access_to(line: Line, status: Status, money: Money) -> Access:
    """Which line a dispute of a part means is never guessed: all are suspended while it is open."""
    if status is Status.REFUNDED or line.refunded_quantity == line.quantity:
        return Access.REVOKED
    return Access.SUSPENDED if money.disputed else Access.ACTIVE


@dataclass(frozen=True, slots=True)
class Basket:
    """What an order will hold. A points order has no cents, a card order no points."""

    lines: tuple[Line, ...]
    total_cents: int
    total_points: int
    currency: str


def sum_quantities(wanted: Iterable[tuple[UUID, int]]) -> dict[UUID, int]:
    """Lines of one product become one line; raises INVALID_QUANTITY and TOO_MANY_LINES."""
    quantities: dict[UUID, int] = {}
    for product_id, quantity in wanted:
        if not 1 <= quantity <= MAX_QUANTITY:
            raise errors.invalid_quantity(product_id, MAX_QUANTITY)
        quantities[product_id] = quantities.get(product_id, 0) + quantity
    for product_id, quantity in quantities.items():
        if quantity > MAX_QUANTITY:
            raise errors.invalid_quantity(product_id, MAX_QUANTITY)
    if len(quantities) > MAX_LINES:
        raise errors.too_many_lines(MAX_LINES)
    return quantities


def price(quantities: Mapping[UUID, int], offers: Sequence[Offer], method: Method) -> Basket:
    """Freezes lines and totals; raises when a product cannot be bought that way. Stock is not looked at."""
    by_id = {offer.product_id: offer for offer in offers}
    for product_id in quantities:
        _check_offer(product_id, by_id.get(product_id), method)
    # In product order, as rows are locked.
    lines = tuple(
        Line(
            offer.product_id, offer.title, offer.price_cents, offer.price_points, quantities[offer.product_id]
        )
        for offer in sorted(offers, key=lambda offer: offer.product_id)
    )
    total_cents = sum(line.price_cents * line.quantity for line in lines)
    total_points = sum(line.price_points * line.quantity for line in lines)
    if total_cents > MAX_TOTAL_CENTS:
        raise errors.order_too_large(MAX_TOTAL_CENTS)
    by_card = method is Method.STRIPE
    return Basket(lines, total_cents if by_card else 0, 0 if by_card else total_points, offers[0].currency)


def _check_offer(product_id: UUID, offer: Offer | None, method: Method) -> None:
    if offer is None:
        raise errors.product_not_found(product_id)
    if not offer.active:
        raise errors.product_inactive(product_id)
    if method is Method.POINTS and offer.price_points == 0:
        raise errors.not_for_points(product_id)


def first_short(quantities: Mapping[UUID, int], offers: Sequence[Offer]) -> Offer | None:
    """The first product of which fewer pieces are free than wanted; None when all are there."""
    for offer in offers:
        if offer.available is not None and offer.available < quantities[offer.product_id]:
            return offer
    return None


def is_asset_key(key: str) -> bool:
    """Whether a key names a file of the asset store: plain segments, none of which leads anywhere else."""
    return len(key) <= MAX_ASSET_KEY_LENGTH and ASSET_KEY.fullmatch(key) is not None


def check_asset_key(key: str, product_type: ProductType) -> str:
    """The key as it may be kept; Invalid when it could lead out of the store, or a file is missing."""
    fits = is_asset_key(key) if key else product_type is not ProductType.DIGITAL
    if not fits:
        raise errors.invalid_asset_key()
    return key


def order_number(order_id: UUID) -> str:
    """What people are told of an order's id: all of it that is random."""
    return str(order_id)[-12:]
