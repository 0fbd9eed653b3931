"""Following something as server-sent events: each with the version as its id, until nothing is under way.

A stream that ends early (its time is up, its token has expired, a service restarts, we stop) ends cleanly,
and the browser asks again with the last id that it saw. Comments keep the connection alive while there is no
news (fastapi.sse, 15 s).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Query
from fastapi.sse import ServerSentEvent

from gateway.schemas import INT64_MAX, ApiModel
from services.chassis import logs
from services.chassis.errors import DomainError

log = logs.get(__name__)

# Longer than a service lets anybody wait.
FOLLOW_SECONDS = 600.0
_RECONNECT_MS = 2_000

After = Annotated[
    int,
    Query(
        ge=0, le=INT64_MAX, description="The last version that was seen, where no Last-Event-ID can be sent."
    ),
]
LastEventId = Annotated[
    str, Header(alias="Last-Event-ID", description="The `id` of the last event that was seen.")
]


def last_seen(last_event_id: str, after: int) -> int:
    """A header that is no id of ours says nothing: then everything is news."""
    is_id = last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 19
    return int(last_event_id) if is_id else after


@dataclass(frozen=True, slots=True)
class Kind:
    """What is followed: the name of its events, which is the field of its messages, too."""

    name: str
    as_json: Callable[[Any], ApiModel]


async def events_of(
    kind: Kind, messages: AsyncIterator[Any], *, closing: asyncio.Event, expires_at: float
) -> AsyncIterator[ServerSentEvent]:
    """An event for each message, and `end` after the last one; nothing more once we close, or after
    `expires_at`, a Unix timestamp."""
    yield ServerSentEvent(comment="following", retry=_RECONNECT_MS)
    try:
        async for message in _until(closing, expires_at, messages):
            if message.HasField(kind.name):
                yield _event(kind, getattr(message, kind.name))
            if message.is_final:
                yield ServerSentEvent(event="end", raw_data="{}")
                return
    except DomainError as error:
        log.info("following.interrupted", kind=kind.name, reason=error.reason)


def _event(kind: Kind, followed: Any) -> ServerSentEvent:
    body = kind.as_json(followed).model_dump_json(by_alias=True)
    return ServerSentEvent(event=kind.name, id=str(followed.version), raw_data=body)


async def _until(
    closing: asyncio.Event, expires_at: float, messages: AsyncIterator[Any]
) -> AsyncIterator[Any]:
    """The messages, as long as we do not close and whoever follows may."""
    closed = asyncio.ensure_future(closing.wait())
    ends_at = time.monotonic() + expires_at - time.time()
    following = asyncio.ensure_future(_following(messages))
    try:
        while True:
            seconds_left = min(max(0.0, ends_at - time.monotonic()), FOLLOW_SECONDS)
            await asyncio.wait((closed, following), timeout=seconds_left, return_when=asyncio.FIRST_COMPLETED)
            if not following.done() or (message := following.result()) is None:
                return
            yield message
            following = asyncio.ensure_future(_following(messages))
    finally:
        closed.cancel()
        following.cancel()
        await asyncio.wait((closed, following))


async def _following(messages: AsyncIterator[Any]) -> Any:
    """The next message, None at the end."""
    return await anext(messages, None)
