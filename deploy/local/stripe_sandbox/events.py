"""Events: written with the change that they tell of, delivered by webhooks.py, in trouble when asked for."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from deploy.local.stripe_sandbox.objects import API_VERSION, event
from deploy.local.stripe_sandbox.store import Object, Store
from deploy.local.stripe_sandbox.versions import is_known, rendered

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


class Versions(BaseModel):
    """In which API versions new events are written: those that are listed in the account's, those that are
    sent in the endpoint's (none: the account's). So many percent of them; the others are of today."""

    model_config = ConfigDict(extra="forbid")

    account: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}(\.[a-z]+)?$")
    endpoint: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}(\.[a-z]+)?$")
    percent: int = Field(default=100, ge=0, le=100)


VERSIONS = "event_versions"


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
    versions = versions_of(store)
    request = {"id": origin.request_id, "idempotency_key": origin.idempotency_key}

    def written_in(version: str) -> Object:
        shown = rendered(store, subject, version)
        before = rendered(store, previous, version) if previous else None
        return event.build(event_type, shown, request=request, now=now, previous=before, version=version)

    is_old = _chance(store, _next_number(store), ":version").random() * 100 < versions.percent
    account = (is_old and versions.account) or API_VERSION
    endpoint = (is_old and versions.endpoint) or account
    body = written_in(account)
    sent = {} if endpoint == account else {"sent": written_in(endpoint) | {"id": body["id"]}}
    store.add(body, sent)
    if is_known(subject, endpoint):
        _queue(store, body["id"])
    return str(body["id"])


def versions_of(store: Store) -> Versions:
    return Versions.model_validate_json(store.switch(VERSIONS, "{}"))


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


def forget_events(store: Store, about: Sequence[str]) -> int:
    """Those about one of these objects, or about what names one of them as its payment; of none: all.
    Returns how many there were."""
    where = _about(len(about)) if about else "kind = 'event'"
    rows = store.execute(f"DELETE FROM objects WHERE {where} RETURNING id", *about, *about).fetchall()
    for (event_id,) in rows:
        store.execute("DELETE FROM deliveries WHERE event_id = ?", event_id)
    return len(rows)


def events_about(store: Store, object_id: str) -> list[tuple[str, str]]:
    """Id and type of each, the oldest first; of what names the object as its payment, too."""
    type_of = "json_extract(body, '$.type')"
    sql = f"SELECT id, {type_of} FROM objects WHERE {_about(1)} ORDER BY seq"
    return [(event_id, kind) for event_id, kind in store.execute(sql, object_id, object_id).fetchall()]


def _about(count: int) -> str:
    """Each id is given twice."""
    marks = ", ".join("?" * count)
    names = ("$.data.object.id", "$.data.object.payment_intent")
    # Written as the partial indexes are, or SQLite does not use them.
    named = " OR ".join(f"(kind = 'event' AND json_extract(body, '{name}') IN ({marks}))" for name in names)
    return f"({named})"


def copy_due_at(store: Store, number: int) -> float:
    """When a copy of that delivery follows the one that has arrived."""
    return time.time() + _chance(store, number, ":copy").random()


def _queue(store: Store, event_id: str) -> None:
    number = _next_number(store)
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


def _next_number(store: Store) -> int:
    return int(store.execute("SELECT coalesce(max(rowid), 0) + 1 FROM deliveries").fetchone()[0])


def _delay(store: Store, chance: random.Random) -> float:
    return chance.random() * _SHUFFLE_SECONDS if trouble_of(store).shuffle else 0


def _chance(store: Store, number: int, of: str = "") -> random.Random:
    """By the number of the event, not by its random id, so that a test may be run again."""
    return random.Random(f"{trouble_of(store).seed}:{number}{of}")  # noqa: S311 - not a secret
