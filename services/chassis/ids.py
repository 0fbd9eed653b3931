"""Ids that sort by time."""

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def uuid7() -> UUID:
    """A version 7 UUID (RFC 9562 §5.7): 48 bits of Unix milliseconds, then random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def first_of(moment: datetime) -> UUID:
    """The least UUID that begins with a moment's milliseconds: those made before it are less, those made from
    it on are not. Itself it is none of any version."""
    return UUID(int=(moment - _EPOCH) // _MILLISECOND << 80)
