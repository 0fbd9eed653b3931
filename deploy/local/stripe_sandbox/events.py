"""Events: written with the change that they tell of, delivered by webhooks.py, in trouble when asked for."""

import random
import time
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from deploy.local.stripe_sandbox.objects import event
from deploy.local.stripe_sandbox.store import Object, Store

MODE = "webhook_mode"
# What becomes of the deliveries of new events.
STATE_OF_MODE = {"deliver": "pending", "hold": "held", "drop": "dropped"}


# How far apart shuffled events arrive.
_SHUFFLE_SECONDS = 2.0


class Trouble(BaseModel):
    """What befalls the deliveries of new events: so many percent are never sent (they can still be listed),
    so many are sent twice, and shuffled ones wait for a random time. The same seed, the same trouble."""

    model_config = ConfigDict(extra="forbid")

    drop_percent: int = Field(default=0, ge=0, le=100)
    duplicate_percent: int = Field(default=0, ge=0, le=100)
    shuffle: bool = False
    seed: int = 0


TROUBLE = "webhook_trouble"


@dataclass(frozen=True, slots=True)
class Origin:
    """The API call that caused an event; nothing for what the customer or the clock did."""

    request_id: str | None = None
    idempotency_key: str | None = None


def emit(
    store: Store,
    event_type: str,
    subject: Object,
    *,
    now: int,
    origin: Origin,
    previous: Object | None = None,
) -> str:
    """Writes the event with the object as it is at this moment, and of the object as it was what has
    changed; returns the event's id."""
    request = {"id": origin.request_id, "idempotency_key": origin.idempotency_key}
    body = event.build(event_type, subject, request=request, now=now, previous=previous)
    store.add(body)
    _queue(store, body["id"])
    return str(body["id"])


def _queue(store: Store, event_id: str) -> None:
    trouble = Trouble.model_validate_json(store.switch(TROUBLE, "{}"))
    # The number of the event decides, so that a test may be run again.
    chance = random.Random(f"{trouble.seed}:{store.count('event')}")  # noqa: S311 - not a secret
    state = STATE_OF_MODE[store.switch(MODE, "deliver")]
    if chance.random() * 100 < trouble.drop_percent:
        state = "dropped"
    copies = 2 if chance.random() * 100 < trouble.duplicate_percent else 1
    # Sent in real time, whatever time a test clock shows.
    due_at = time.time() + (chance.random() * _SHUFFLE_SECONDS if trouble.shuffle else 0)
    store.execute(
        "INSERT INTO deliveries (event_id, state, due_at, copies) VALUES (?, ?, ?, ?)",
        *(event_id, state, due_at, copies),
    )
