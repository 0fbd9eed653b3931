"""The chain of the audit log: what is hashed, and where a break is seen."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from services.chassis.audit_log import GENESIS, Entry, broken_at, entry_hash

NOW = datetime(2026, 7, 4, 12, 30, 15, 250_000, tzinfo=UTC)


def chain(length: int) -> list[Entry]:
    entries: list[Entry] = []
    for seq in range(1, length + 1):
        unhashed = Entry(
            seq=seq,
            actor="cli:ada",
            action="points.adjusted",
            subject=f"user {seq}",
            reason="a gift",
            details={"points": seq},
            created_at=NOW + timedelta(seconds=seq),
            prev_hash=entries[-1].hash if entries else GENESIS,
            hash=b"",
        )
        entries.append(replace(unhashed, hash=entry_hash(unhashed)))
    return entries


def test_the_encoding_is_the_documented_one() -> None:
    entry = Entry(7, "ada", "x.done", "s", "wärum", {"b": 1, "a": "é"}, NOW, b"\x01" * 32, b"")
    parts = [
        b"aishop.audit_log/v1",
        b"7",
        b"ada",
        b"x.done",
        b"s",
        "wärum".encode(),
        b'{"a":"\\u00e9","b":1}',
        b"1783168215250000",
        b"\x01" * 32,
    ]
    encoded = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    assert entry_hash(entry) == sha256(encoded).digest()


def test_a_whole_chain_holds_and_so_does_an_empty_one() -> None:
    assert broken_at(chain(5)) is None
    assert broken_at([]) is None


CHANGES: dict[str, object] = {
    "actor": "cli:eve",
    "action": "points.taken",
    "subject": "somebody else",
    "reason": "another",
    "details": {"points": 2_000_000},
    "created_at": NOW,
    "prev_hash": GENESIS,
    "hash": GENESIS,
}


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_a_changed_field_breaks_the_chain_where_it_stands(field: str) -> None:
    entries = chain(4)
    entries[1] = replace(entries[1], **{field: CHANGES[field]})  # type: ignore[arg-type]
    assert broken_at(entries) == 2


def forged(entries: list[Entry]) -> list[Entry]:
    """One who knows the encoding hashes his change again: the next entry gives it away."""
    changed = replace(entries[1], reason="another")
    entries[1] = replace(changed, hash=entry_hash(changed))
    return entries


@pytest.mark.parametrize(
    ("tamper", "seq"),
    [
        (lambda entries: entries[1:], 1),
        (lambda entries: [*entries[:2], *entries[3:]], 3),
        (lambda entries: [entries[0], entries[2], entries[1], entries[3]], 2),
        (lambda entries: [*entries[:2], entries[1], *entries[2:]], 3),
        (forged, 3),
    ],
    ids=["head cut", "row removed", "rows swapped", "row doubled", "row hashed again"],
)
def test_rows_that_are_not_where_they_were_break_the_chain(
    tamper: Callable[[list[Entry]], list[Entry]], seq: int
) -> None:
    assert broken_at(tamper(chain(4))) == seq


def test_no_two_entries_are_encoded_alike() -> None:
    """Lengths are part of the encoding: text cannot move from one field into the next."""
    entry = chain(1)[0]
    assert entry_hash(replace(entry, actor="ab", action="c")) != entry_hash(
        replace(entry, actor="a", action="bc")
    )
