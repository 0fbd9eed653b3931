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


def trouble_of(store: Store) -> Trouble:
    return Trouble.model_validate_json(store.switch(TROUBLE, "{}"))


def release(store: Store) -> int:
    """What is held goes out: shuffled in an order of its own, else at once. Returns how many there are."""
    held = store.execute("SELECT rowid FROM deliveries WHERE state = 'held'").fetchall()
    for (number,) in held:
        store.execute(
            "UPDATE deliveries SET state = 'pending', due_at = ? WHERE rowid = ?",
            *(time.time() + _delay(store, _chance(store, number, ":release")), number),
        )
    return len(held)


def copy_due_at(store: Store, number: int) -> float:
    """When a copy of that delivery follows the one that has arrived."""
    return time.time() + _chance(store, number, ":copy").random()


def _queue(store: Store, event_id: str) -> None:
    number = store.execute("SELECT coalesce(max(rowid), 0) + 1 FROM deliveries").fetchone()[0]
    trouble, chance = trouble_of(store), _chance(store, number)
    state = STATE_OF_MODE[store.switch(MODE, "deliver")]
    if chance.random() * 100 < trouble.drop_percent:
        state = "dropped"
    copies = 2 if chance.random() * 100 < trouble.duplicate_percent else 1
    # Sent in real time, whatever time a test clock shows.
    due_at = time.time() + _delay(store, chance)
    store.execute(
        "INSERT INTO deliveries (event_id, state, due_at, copies) VALUES (?, ?, ?, ?)",
        *(event_id, state, due_at, copies),
    )


def _delay(store: Store, chance: random.Random) -> float:
    return chance.random() * _SHUFFLE_SECONDS if trouble_of(store).shuffle else 0


def _chance(store: Store, number: int, of: str = "") -> random.Random:
    """By the number of the event, not by its random id, so that a test may be run again."""
    return random.Random(f"{trouble_of(store).seed}:{number}{of}")  # noqa: S311 - not a secret
