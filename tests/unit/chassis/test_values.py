"""Ids, cursors, keys, sealed values."""

import base64
import os
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from cryptography.exceptions import InvalidTag
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import SecretStr

from services.chassis import cursor, idempotency
from services.chassis.crypto import EmailHasher, Keyring
from services.chassis.errors import CATEGORIES, Conflict, Invalid
from services.chassis.ids import first_of, uuid7


def key(name: str) -> str:
    return f"{name}:{base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip('=')}"


def test_ids_are_version_7_and_sort_by_time() -> None:
    ids = [uuid7() for _ in range(1000)]
    assert {(id.version, id.variant) for id in ids} == {(7, "specified in RFC 4122")}
    assert [id.int >> 80 for id in ids] == sorted(id.int >> 80 for id in ids)
    assert len(set(ids)) == 1000


def test_an_id_lies_between_the_bounds_of_its_millisecond() -> None:
    before = datetime.now(UTC)
    made = uuid7()
    after = datetime.now(UTC) + timedelta(milliseconds=1)
    assert first_of(before) <= made < first_of(after)
    assert first_of(before) == first_of(before.replace(microsecond=before.microsecond // 1000 * 1000))
    assert first_of(datetime(1970, 1, 1, 0, 0, 0, 1999, UTC)).int == 1 << 80


def test_a_cursor_comes_back_as_it_went() -> None:
    id = uuid4()
    assert cursor.decode_id(cursor.encode(id)) == id
    assert cursor.decode_id("") is None
    assert cursor.decode_int(cursor.encode(7)) == 7
    assert cursor.decode_ints(cursor.encode(7, 0, 2**63 - 1), count=3) == (7, 0, 2**63 - 1)
    assert cursor.decode_ints("", count=3) is None


def test_a_page_ends_where_it_would_be_too_large() -> None:
    rows = ["x" * size for size in (10, 10, 10_000, 10, 10)]

    def pages(limit: int) -> list[list[int]]:
        found: list[list[int]] = []
        first = 0
        while first < len(rows):
            items, following = cursor.page(
                rows[first : first + limit + 1],
                limit=limit,
                message=lambda text: StringValue(value=text),
                key=lambda text: (len(text),),
                max_bytes=1000,
            )
            found.append([len(item.value) for item in items])
            first += len(items)
            assert bool(following) == (first < len(rows))
        return found

    assert pages(100) == [[10, 10], [10_000], [10, 10]]
    assert pages(1) == [[10], [10], [10_000], [10], [10]]


@pytest.mark.parametrize("given", ["x", "====", "Zm9v", "é", base64.b64encode(b"\xff" * 9).decode()])
def test_a_strange_cursor_is_invalid(given: str) -> None:
    with pytest.raises(Invalid) as refused:
        cursor.decode_id(given)
    assert refused.value.reason == "INVALID_CURSOR"


@pytest.mark.parametrize(("limit", "size"), [(0, 20), (1, 1), (100, 100)])
def test_a_page_has_a_size(limit: int, size: int) -> None:
    assert cursor.page_size(limit) == size


@pytest.mark.parametrize("limit", [-1, 101, 2**31 - 1])
def test_a_page_out_of_bounds_is_invalid(limit: int) -> None:
    with pytest.raises(Invalid):
        cursor.page_size(limit)


@pytest.mark.parametrize("given", ["", "x" * 256, "a\nb", "ключ", "\x7f"])
def test_an_unprintable_or_endless_key_is_invalid(given: str) -> None:
    with pytest.raises(Invalid) as refused:
        idempotency.check_key(given)
    assert refused.value.reason == "INVALID_IDEMPOTENCY_KEY"


def test_a_sealed_value_opens_at_its_place_only() -> None:
    ring = Keyring(SecretStr(key("k1")))
    sealed = ring.seal(b"ada@example.com", place="orders.email:1")
    assert b"ada" not in sealed
    assert ring.open(sealed, place="orders.email:1") == b"ada@example.com"
    with pytest.raises(InvalidTag):
        ring.open(sealed, place="orders.email:2")


def test_a_sealed_value_of_another_version_or_of_none_does_not_open() -> None:
    ring = Keyring(SecretStr(key("k1")))
    sealed = ring.seal(b"x", place="p")
    with pytest.raises(ValueError, match="not a sealed value"):
        ring.open(b"\x02" + sealed[1:], place="p")
    with pytest.raises(IndexError):
        ring.open(b"", place="p")


def test_a_rotated_ring_opens_what_its_old_key_sealed() -> None:
    old, new = key("k1"), key("k2")
    sealed = Keyring(SecretStr(old)).seal(b"x", place="p")
    rotated = Keyring(SecretStr(f"{new},{old}"))
    assert rotated.open(sealed, place="p") == b"x"
    with pytest.raises(KeyError):
        Keyring(SecretStr(new)).open(sealed, place="p")
    with pytest.raises(InvalidTag):
        Keyring(SecretStr(key("k1"))).open(sealed, place="p")


def test_a_short_key_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="DATA_ENCRYPTION_KEYS"):
        Keyring(SecretStr("k1:c2hvcnQ"))


def test_an_email_has_one_digest_however_it_is_written() -> None:
    hasher = EmailHasher(SecretStr(key("x").partition(":")[2]))
    assert hasher.digest(" Ada@Example.com ") == hasher.digest("ada@example.com")
    assert hasher.digest("ada@example.com") != hasher.digest("bob@example.com")


def test_a_stored_rejection_is_raised_as_it_was() -> None:
    error = Conflict("PRICE_CHANGED", "the price changed", points=550)
    again = idempotency.as_error(idempotency.as_json(error))
    assert (type(again), again.reason, again.message, again.fields) == (
        *(Conflict, "PRICE_CHANGED", "the price changed"),
        {"points": "550"},
    )
    assert set(CATEGORIES) == {"invalid", "rejected", "not_found", "conflict", "unavailable"}
