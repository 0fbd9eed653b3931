"""Events: written with the change that they tell of, delivered by webhooks.py."""

import time
from dataclasses import dataclass

from deploy.local.stripe_sandbox.objects import event
from deploy.local.stripe_sandbox.store import Object, Store

MODE = "webhook_mode"
# What becomes of the deliveries of new events.
STATE_OF_MODE = {"deliver": "pending", "hold": "held", "drop": "dropped"}


@dataclass(frozen=True, slots=True)
class Origin:
    """The API call that caused an event; nothing for what the customer or the clock did."""

    request_id: str | None = None
    idempotency_key: str | None = None


def emit(store: Store, event_type: str, subject: Object, *, now: int, origin: Origin) -> str:
    """Writes the event with the object as it is at this moment; returns the event's id."""
    request = {"id": origin.request_id, "idempotency_key": origin.idempotency_key}
    body = event.build(event_type, subject, request=request, now=now)
    store.add(body)
    state = STATE_OF_MODE[store.switch(MODE, "deliver")]
    # Sent in real time, whatever time a test clock shows.
    store.execute(
        "INSERT INTO deliveries (event_id, state, due_at) VALUES (?, ?, ?)", body["id"], state, time.time()
    )
    return str(body["id"])
