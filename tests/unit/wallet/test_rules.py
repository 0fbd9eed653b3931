"""Balances, debt, captures and the hash chain, without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.wallet import rules
from services.wallet.errors import (
    HoldMismatch,
    HoldReleased,
    InsufficientPoints,
    NotCaptured,
    RefundExceedsSpend,
)
from services.wallet.rules import Account, Balance, Capture, Entry, Hold, HoldStatus, Posting

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
USER = UUID("00000000-0000-7000-8000-000000000001")
ORDER = UUID("00000000-0000-7000-8000-000000000002")


def assert_sound(balance: Balance) -> None:
    assert 0 <= balance.held <= balance.points
    assert balance.debt >= 0
    assert balance.debt == 0 or balance.free == 0


def balances() -> st.SearchStrategy[Balance]:
    free_of_debt = st.builds(
        lambda points, held: Balance(points, min(points, held)), st.integers(0, 50), st.integers(0, 50)
    )
    in_debt = st.builds(lambda held, debt: Balance(held, held, debt), st.integers(0, 50), st.integers(1, 50))
    return free_of_debt | in_debt


@given(balances(), st.integers(-100, 100))
def test_a_signed_amount_moves_the_net_by_exactly_itself(balance: Balance, amount: int) -> None:
    after = rules.change(balance, amount)
    assert_sound(after)
    assert after.net == balance.net + amount
    assert after.held == balance.held


@given(balances(), st.data())
def test_releasing_keeps_the_net_and_settles_debt(balance: Balance, data: st.DataObject) -> None:
    points = data.draw(st.integers(0, balance.held))
    after = rules.release(balance, points)
    assert_sound(after)
    assert after.net == balance.net
    assert after.debt == max(0, balance.debt - points)


@given(balances(), st.data())
def test_spending_held_points_is_never_blocked_by_debt(balance: Balance, data: st.DataObject) -> None:
    points = data.draw(st.integers(0, balance.held))
    after = rules.spend(balance, points)
    assert_sound(after)
    assert (after.net, after.debt, after.free) == (balance.net - points, balance.debt, balance.free)


def test_every_share_spent_and_held_ends_with_the_same_net_whenever_the_reversal_comes() -> None:
    credited = 6
    for spent, held, reversed_, captured in product(range(7), range(7), range(7), (True, False)):
        if spent + held > credited:
            continue
        end_hold = rules.spend if captured else rules.release
        bought = rules.credit(Balance(), credited)
        open_hold = replace(rules.spend(replace(bought, held=spent), spent), held=held)
        reversed_first = rules.debit(open_hold, reversed_)
        reversed_last = rules.debit(end_hold(open_hold, held), reversed_)
        for balance in (open_hold, reversed_first, reversed_last):
            assert_sound(balance)
        assert end_hold(reversed_first, held) == reversed_last
        assert reversed_last.net == credited - spent - reversed_ - (held if captured else 0)


def test_nothing_is_available_while_there_is_debt() -> None:
    with pytest.raises(InsufficientPoints) as refused:
        rules.refuse_to_reserve(Balance(points=5, held=5, debt=1), points=1)
    assert refused.value.fields == {"needed": "1", "available": "0"}
    rules.refuse_to_reserve(Balance(points=5, held=2), points=3)


def hold(status: HoldStatus, *, points: int = 10, refunded: int = 0) -> Hold:
    return Hold(uuid4(), USER, ORDER, points, refunded, status, NOW)


def test_the_same_hold_is_given_back_while_held_or_captured() -> None:
    for status in ("held", "captured"):
        held = hold(status)
        assert rules.same_hold(held, points=10) is held
        with pytest.raises(HoldMismatch):
            rules.same_hold(held, points=11)


def test_a_released_hold_is_refused_whatever_its_points() -> None:
    for points in (0, 10, 11):
        with pytest.raises(HoldReleased):
            rules.same_hold(hold("released", points=points), points=10)


def test_refunds_together_never_exceed_the_spend() -> None:
    rules.refuse_to_refund(hold("captured", refunded=4), points=6)
    with pytest.raises(RefundExceedsSpend) as refused:
        rules.refuse_to_refund(hold("captured", refunded=4), points=7)
    assert refused.value.fields == {"requested": "7", "refundable": "6"}
    for status in ("held", "released"):
        with pytest.raises(NotCaptured):
            rules.refuse_to_refund(hold(status), points=1)


def chain(*amounts: int) -> tuple[Account, list[Entry]]:
    account, entries = Account(USER, Balance(), 0, rules.GENESIS), []
    for number, amount in enumerate(amounts):
        posting = Posting(
            amount=amount, type="adjustment", description="größer", idempotency_key=f"test:{number}"
        )
        account, entry = rules.append(
            account,
            posting,
            balance=rules.change(account.balance, amount),
            id=UUID(int=number),
            now=NOW + timedelta(seconds=number),
        )
        entries.append(entry)
    return account, entries


def test_the_encoding_of_version_1_is_fixed() -> None:
    """Stored hashes must verify for ever: this value may never change."""
    _, [entry] = chain(550)
    assert rules.transaction_hash(entry) == by_the_book(entry)
    full = replace(
        entry,
        order_id=ORDER,
        stripe_payment_intent_id="pi_1",
        metadata={"version": "2", "source_id": "ä"},
        processed_at=NOW - timedelta(microseconds=1),
    )
    assert rules.transaction_hash(full) == by_the_book(full)
    golden = "a1252ba9d3b27bf61297cfa240fc33644b02dbd5b1c74524501951a35103ecf5"
    assert rules.transaction_hash(entry).hex() == golden


def by_the_book(entry: Entry) -> bytes:
    """The docstring again, written by another hand: no helper of rules is used."""
    import hashlib
    import struct

    def text(value: object) -> bytes:
        raw = str(value).encode("utf-8")
        return struct.pack(">I", len(raw)) + raw

    def optional(value: object) -> bytes:
        return struct.pack(">I", 0xFFFFFFFF) if value is None else text(value)

    def micros(moment: datetime) -> int:
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds

    metadata = "{" + ",".join(
        f'"{key}":"{value}"'.replace("ä", "\\u00e4") for key, value in sorted(entry.metadata.items())
    )
    return hashlib.sha256(
        text("aishop.points_transaction/v1")
        + text(entry.id)
        + text(entry.user_id)
        + text(entry.seq)
        + text(entry.amount)
        + text(entry.type)
        + text(entry.description)
        + optional(entry.order_id)
        + optional(entry.stripe_payment_intent_id)
        + text(entry.idempotency_key)
        + text(metadata + "}")
        + text(entry.balance_after)
        + text(micros(entry.processed_at))
        + text(micros(entry.created_at))
        + struct.pack(">I", 32)
        + entry.prev_hash
    ).digest()


def test_an_unknown_hash_version_is_refused() -> None:
    _, [entry] = chain(1)
    with pytest.raises(ValueError, match="hash version 2"):
        rules.transaction_hash(replace(entry, hash_version=2))


def test_a_whole_chain_holds() -> None:
    account, entries = chain(550, -100, -500, 30)
    assert rules.broken_at(account, entries) is None
    assert rules.broken_at(Account(USER, Balance(), 0, rules.GENESIS), []) is None


@pytest.mark.parametrize(
    "change",
    [
        {"id": uuid4()},
        {"user_id": uuid4()},
        {"amount": -101},
        {"type": "spend"},
        {"description": "smaller"},
        {"order_id": ORDER},
        {"stripe_payment_intent_id": ""},
        {"idempotency_key": "test:9"},
        {"metadata": {"a": "b"}},
        {"balance_after": 451},
        {"prev_hash": bytes(32)},
        {"hash": bytes(32)},
        {"processed_at": NOW},
        {"created_at": NOW},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_changed_field_breaks_the_chain_at_its_entry(change: dict[str, object]) -> None:
    account, entries = chain(550, -100, 30)
    entries[1] = replace(entries[1], **change)  # type: ignore[arg-type]
    assert rules.broken_at(account, entries) == 2


def test_a_rehashed_change_breaks_the_chain_at_the_next_entry() -> None:
    account, entries = chain(550, -100, 30)
    forged = replace(entries[1], description="smaller")
    entries[1] = replace(forged, hash=rules.transaction_hash(forged))
    assert rules.broken_at(account, entries) == 3


def test_a_missing_a_swapped_and_a_cut_entry_are_seen() -> None:
    account, entries = chain(550, -100, 30)
    assert rules.broken_at(account, [entries[0], entries[2]]) == 2
    assert rules.broken_at(account, [entries[1], entries[0], entries[2]]) == 1
    assert rules.broken_at(account, entries[:2]) == 3
    assert rules.broken_at(account, entries[1:]) == 1


def test_a_balance_that_the_ledger_does_not_explain_is_seen() -> None:
    account, entries = chain(550, -100)
    assert rules.broken_at(replace(account, balance=Balance(451)), entries) == 3


def test_a_posting_must_explain_the_change_of_the_net() -> None:
    account, _ = chain(550)
    posting = Posting(amount=1, type="adjustment", description="", idempotency_key="x")
    with pytest.raises(AssertionError):
        rules.append(account, posting, balance=Balance(552), id=uuid4(), now=NOW)


def test_captures_of_one_user_chain_one_after_the_other() -> None:
    other = uuid4()
    orders = [uuid4() for _ in range(5)]
    statuses: list[HoldStatus] = ["held", "held", "held", "released", "captured"]
    owners = [USER, other, USER, USER, USER]
    held = {
        order: Hold(uuid4(), user, order, 10, 0, status, NOW)
        for order, user, status in zip(orders, owners, statuses, strict=True)
    }
    start, history = chain(50)
    accounts = {
        USER: replace(start, balance=Balance(50, 20)),
        other: Account(other, Balance(10, 10, 7), 0, rules.GENESIS),
    }
    asked = [Capture(held[order].user_id, order, "Order") for order in orders]
    asked += [asked[0], Capture(other, orders[0], "not mine"), Capture(USER, uuid4(), "unknown")]

    plan = rules.plan_captures(asked, accounts=accounts, holds=held, now=NOW, new_id=uuid4)

    assert plan.outcomes == [
        "captured", "captured", "captured", "released", "captured", "captured", "not_found", "not_found",
    ]  # fmt: skip
    assert [entry.order_id for entry in plan.entries] == orders[:3]
    after = {account.user_id: account for account in plan.accounts}
    assert after[USER].balance == Balance(30, 0)
    assert after[other].balance == Balance(0, 0, 7)
    mine = [entry for entry in plan.entries if entry.user_id == USER]
    assert rules.broken_at(after[USER], [*history, *mine]) is None
