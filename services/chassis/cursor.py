"""Pages and their keyset cursors: opaque to clients, the sort key of the last row to us."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from google.protobuf.message import Message

from services.chassis.errors import Invalid

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
# gRPC takes no message of more than 4 MiB: a page of large rows ends early.
MAX_PAGE_BYTES = 2 * 1024 * 1024

_Row = TypeVar("_Row")
_Item = TypeVar("_Item", bound=Message)


def page_size(limit: int) -> int:
    """1 to 100, 20 when absent (0); Invalid otherwise."""
    if limit == 0:
        return DEFAULT_LIMIT
    if not 1 <= limit <= MAX_LIMIT:
        raise Invalid("INVALID_LIMIT", f"limit is 1 to {MAX_LIMIT}", limit=limit)
    return limit


def page(
    rows: Sequence[_Row],
    *,
    limit: int,
    message: Callable[[_Row], _Item],
    key: Callable[[_Row], tuple[object, ...]],
    max_bytes: int = MAX_PAGE_BYTES,
) -> tuple[list[_Item], str]:
    """The messages of a page and the cursor of the next one, empty on the last. `rows` are one more than
    `limit` when there are more; `key` is what `encode` takes of the last row. A row that is too large alone
    is a page of its own."""
    items: list[_Item] = []
    size = 0
    for row in rows[:limit]:
        item = message(row)
        size += item.ByteSize()
        if items and size > max_bytes:
            break
        items.append(item)
    has_more = len(items) < len(rows)
    return items, encode(*key(rows[len(items) - 1])) if has_more else ""


def encode(*key: object) -> str:
    joined = "|".join(str(part) for part in key)
    return base64.urlsafe_b64encode(joined.encode()).decode().rstrip("=")


def decode_id(cursor: str) -> UUID | None:
    """The id in a cursor made by `encode(id)`; None for the first page."""
    return UUID(_decode(cursor)) if _is_valid(cursor, UUID) else None


def decode_text(cursor: str) -> str | None:
    """The text in a cursor made by `encode(text)`, without NUL, which Postgres does not take; None for the
    first page."""
    return _printable(_decode(cursor)) if _is_valid(cursor, _printable) else None


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(text)
    return text


def decode_int(cursor: str) -> int | None:
    """The number in a cursor made by `encode(number)`; None for the first page."""
    return _bigint(_decode(cursor)) if _is_valid(cursor, _bigint) else None


def decode_ints(cursor: str, *, count: int) -> tuple[int, ...] | None:
    """The numbers in a cursor made by `encode(number, …)`, so many; None for the first page."""

    def numbers(text: str) -> tuple[int, ...]:
        found = tuple(_bigint(part) for part in text.split("|"))
        if len(found) != count:
            raise ValueError(text)
        return found

    return numbers(_decode(cursor)) if _is_valid(cursor, numbers) else None


def _bigint(text: str) -> int:
    """A number that a bigint column can be compared with, or ValueError."""
    number = int(text)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(text)
    return number


def _decode(cursor: str) -> str:
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()


def _is_valid(cursor: str, kind: Callable[[str], object]) -> bool:
    if not cursor:
        return False
    try:
        kind(_decode(cursor))
    except (ValueError, binascii.Error) as error:
        raise Invalid("INVALID_CURSOR", "the cursor is not one of ours") from error
    return True
