"""Download links: a token that only this service can make, bound to one grant, generation, user and end."""

import base64
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from cryptography.exceptions import InvalidTag

from services.chassis.crypto import Keyring

_PLACE = "downloads.token"
# Grant, generation, user, end in seconds since 1970.
_PAYLOAD = struct.Struct(">16sI16sQ")
MAX_TOKEN_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Link:
    """What a token says."""

    grant_id: UUID
    generation: int
    user_id: UUID
    ends_at: datetime


def seal_link(keyring: Keyring, link: Link) -> str:
    """The token, in base64url; its end is in whole seconds."""
    payload = _PAYLOAD.pack(
        link.grant_id.bytes, link.generation, link.user_id.bytes, int(link.ends_at.timestamp())
    )
    return _encode(keyring.seal(payload, place=_PLACE))


def open_link(keyring: Keyring, token: str) -> Link | None:
    """None for whatever is not, to the letter, a token of ours."""
    if len(token) > MAX_TOKEN_LENGTH:
        return None
    try:
        sealed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        if _encode(sealed) != token:
            # The decoder drops foreign characters and spare bits: one link, many spellings.
            return None
        grant, generation, user, end = _PAYLOAD.unpack(keyring.open(sealed, place=_PLACE))
    # Not base64 or not ASCII (ValueError), never sealed, by an unknown key, for something else.
    except (ValueError, IndexError, KeyError, InvalidTag, struct.error):
        return None
    return Link(UUID(bytes=grant), generation, UUID(bytes=user), datetime.fromtimestamp(end, UTC))


def _encode(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")
