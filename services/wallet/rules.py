"""Pure decisions about points: balances and debt, the life of a hold, the hash chain of the ledger.

Amounts are whole points. Nothing here reads a clock, makes an id or touches the database.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal
from uuid import UUID

from services.wallet.errors import (
    HoldMismatch,
    HoldReleased,
    InsufficientPoints,
    NotCaptured,
    RefundExceedsSpend,
)

# One posting of a point for every person alive still fits a bigint many times over.
MAX_POINTS = 10**12

TransactionType = Literal["purchase", "spend", "refund", "reversal", "adjustment"]
HoldStatus = Literal["held", "captured", "released"]
CaptureOutcome = Literal["captured", "released", "not_found"]

TRANSITIONS: Mapping[HoldStatus, frozenset[HoldStatus]] = {
    "held": frozenset({"captured", "released"}),
    "captured": frozenset(),
    "released": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Balance:
    """`0 <= held <= points`; debt exists only when nothing is free. profiles has the same as CHECKs."""

    points: int = 0
    held: int = 0
    debt: int = 0

    @property
    def free(self) -> int:
        """Points that no hold has taken."""
        return self.points - self.held

    @property
    def available(self) -> int:
        """What a new hold may take."""
        return 0 if self.debt else self.free

    @property
    def net(self) -> int:
        """What the ledger sums up to; negative while debt outweighs held points."""
        return self.points - self.debt


def credit(balance: Balance, points: int) -> Balance:
    """Points come in: debt is paid first."""
    paid = min(balance.debt, points)
    return replace(balance, points=balance.points + points - paid, debt=balance.debt - paid)


def debit(balance: Balance, points: int) -> Balance:
    """Points are taken back: free points first, what is missing becomes debt. Held points stay held."""
    taken = min(balance.free, points)
    return replace(balance, points=balance.points - taken, debt=balance.debt + points - taken)


def spend(balance: Balance, points: int) -> Balance:
    """Held points leave for good; debt does not stop them, they were promised before it."""
    return replace(balance, points=balance.points - points, held=balance.held - points)


def release(balance: Balance, points: int) -> Balance:
    """Held points are free again, and settle debt at once. The net stays as it was."""
    freed = replace(balance, held=balance.held - points)
    settled = min(freed.debt, freed.free)
    return replace(freed, points=freed.points - settled, debt=freed.debt - settled)


def change(balance: Balance, amount: int) -> Balance:
    """A signed amount: a credit or a debit."""
    return credit(balance, amount) if amount > 0 else debit(balance, -amount)


@dataclass(frozen=True, slots=True)
class Hold:
    """Points promised to one order."""

    id: UUID
    user_id: UUID
    order_id: UUID
    points: int
    refunded_points: int
    status: HoldStatus
    due_at: datetime


def refuse_to_reserve(balance: Balance, *, points: int) -> None:
    """Raises InsufficientPoints when a new hold of `points` does not fit."""
    if balance.available < points:
        raise InsufficientPoints(needed=points, available=balance.available)


def same_hold(hold: Hold, *, points: int) -> Hold:
    """The user's own earlier hold of this order, when the same was asked for."""
    if hold.status == "released":
        raise HoldReleased(order_id=hold.order_id)
    if hold.points != points:
        raise HoldMismatch(order_id=hold.order_id)
    return hold


def refuse_to_refund(hold: Hold, *, points: int) -> None:
    """Raises unless `points` of what was spent on the hold's order can still be given back."""
    if hold.status != "captured":
        raise NotCaptured(order_id=hold.order_id)
    refundable = hold.points - hold.refunded_points
    if points > refundable:
        raise RefundExceedsSpend(requested=points, refundable=refundable)


# --- the ledger -------------------------------------------------------------------------------------

HASH_VERSION = 1
# prev_hash of a user's first transaction, and ledger_head of a profile without any.
GENESIS = bytes(32)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ABSENT = b"\xff\xff\xff\xff"


@dataclass(frozen=True, slots=True)
class Posting:
    """What is to be written, before it has its place in the chain."""

    amount: int
    type: TransactionType
    description: str
    idempotency_key: str
    order_id: UUID | None = None
    stripe_payment_intent_id: str | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of points_transactions; the fields are its columns."""

    id: UUID
    user_id: UUID
    seq: int
    amount: int
    type: TransactionType
    description: str
    order_id: UUID | None
    stripe_payment_intent_id: str | None
    idempotency_key: str
    metadata: Mapping[str, str]
    balance_after: int
    prev_hash: bytes
    hash: bytes
    hash_version: int
    processed_at: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Account:
    """A profile under its row lock: the balance, and the end of its chain."""

    user_id: UUID
    balance: Balance
    ledger_seq: int
    ledger_head: bytes


def transaction_hash(entry: Entry) -> bytes:
    """SHA-256 over version 1 of the encoding; `entry.hash` itself is not read.

    The encoded bytes are these, one after the other, each with its length before it as a big-endian
    unsigned 32-bit number (absent: the length 0xFFFFFFFF and nothing else), text in UTF-8:
    the text "aishop.points_transaction/v1"; id; user_id (both as hyphenated lower-case text); seq; amount
    (both as decimal text); type; description; order_id; stripe_payment_intent_id; idempotency_key;
    metadata as JSON with sorted keys, without blanks, non-ASCII characters escaped; balance_after
    (decimal text); processed_at; created_at (both as microseconds since 1970-01-01T00:00:00Z, decimal
    text); prev_hash (32 raw bytes).
    """
    if entry.hash_version != HASH_VERSION:
        raise ValueError(f"hash version {entry.hash_version} is not known")
    parts: tuple[object, ...] = (
        "aishop.points_transaction/v1",
        entry.id,
        entry.user_id,
        entry.seq,
        entry.amount,
        entry.type,
        entry.description,
        entry.order_id,
        entry.stripe_payment_intent_id,
        entry.idempotency_key,
        json.dumps(dict(entry.metadata), sort_keys=True, separators=(",", ":")) if entry.metadata else "{}",
        entry.balance_after,
        (entry.processed_at - _EPOCH) // _MICROSECOND,
        (entry.created_at - _EPOCH) // _MICROSECOND,
        entry.prev_hash,
    )
    return sha256(b"".join(map(_encode, parts))).digest()


def _encode(part: object) -> bytes:
    if part is None:
        return _ABSENT
    raw = part if isinstance(part, bytes) else str(part).encode()
    return len(raw).to_bytes(4, "big") + raw


def append(
    account: Account, posting: Posting, *, balance: Balance, id: UUID, now: datetime
) -> tuple[Account, Entry]:
    """Puts a posting at the end of the account's chain; `balance` is the one after it."""
    assert posting.amount == balance.net - account.balance.net, "a posting explains the change of the net"
    unhashed = Entry(
        id=id,
        user_id=account.user_id,
        seq=account.ledger_seq + 1,
        amount=posting.amount,
        type=posting.type,
        description=posting.description,
        order_id=posting.order_id,
        stripe_payment_intent_id=posting.stripe_payment_intent_id,
        idempotency_key=posting.idempotency_key,
        metadata=posting.metadata or {},
        balance_after=balance.net,
        prev_hash=account.ledger_head,
        hash=b"",
        hash_version=HASH_VERSION,
        processed_at=now,
        created_at=now,
    )
    entry = replace(unhashed, hash=transaction_hash(unhashed))
    return Account(account.user_id, balance, entry.seq, entry.hash), entry


def broken_at(account: Account, entries: Iterable[Entry]) -> int | None:
    """The seq where a user's chain first fails its check, None when all of it holds.

    `entries` are all of the user's, by seq. A cut tail is seen as the seq after the last entry.
    """
    seq, head, net = 0, GENESIS, 0
    for entry in entries:
        net += entry.amount
        linked = (entry.user_id, entry.seq, entry.prev_hash) == (account.user_id, seq + 1, head)
        if not linked or entry.balance_after != net or transaction_hash(entry) != entry.hash:
            return seq + 1
        seq, head = entry.seq, entry.hash
    whole = (seq, head, net) == (account.ledger_seq, account.ledger_head, account.balance.net)
    return None if whole else seq + 1


# --- captures ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capture:
    """One order of a batch."""

    user_id: UUID
    order_id: UUID
    description: str
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """What a batch does: an outcome for each request, new entries, and the accounts that they change."""

    outcomes: list[CaptureOutcome]
    entries: list[Entry]
    accounts: list[Account]


def spend_key(order_id: UUID) -> str:
    return f"spend:{order_id}"


def plan_captures(
    captures: Sequence[Capture],
    *,
    accounts: Mapping[UUID, Account],
    holds: Mapping[UUID, Hold],
    now: datetime,
    new_id: Callable[[], UUID],
) -> CapturePlan:
    """Decides a batch, in its order; several captures of one user chain one after the other."""
    current = dict(accounts)
    captured: set[UUID] = set()
    outcomes: list[CaptureOutcome] = []
    entries: list[Entry] = []
    for capture in captures:
        hold = holds.get(capture.order_id)
        if hold is None or hold.user_id != capture.user_id:
            outcomes.append("not_found")
            continue
        outcomes.append("released" if hold.status == "released" else "captured")
        if hold.status == "held" and hold.order_id not in captured:
            captured.add(hold.order_id)
            account, entry = _spend_entry(current[hold.user_id], hold, capture, id=new_id(), now=now)
            current[hold.user_id] = account
            entries.append(entry)
    changed = {entry.user_id for entry in entries}
    return CapturePlan(outcomes, entries, [current[user_id] for user_id in sorted(changed)])


def _spend_entry(
    account: Account, hold: Hold, capture: Capture, *, id: UUID, now: datetime
) -> tuple[Account, Entry]:
    posting = Posting(
        amount=-hold.points,
        type="spend",
        description=capture.description,
        idempotency_key=spend_key(hold.order_id),
        order_id=hold.order_id,
    )
    return append(account, posting, balance=spend(account.balance, hold.points), id=id, now=now)
