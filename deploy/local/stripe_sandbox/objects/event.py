"""docs.stripe.com/api/events/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id
from deploy.local.stripe_sandbox.objects import API_VERSION


def build(
    event_type: str,
    subject: dict[str, Any],
    *,
    request: dict[str, str | None],
    now: int,
    previous: dict[str, Any] | None = None,
    version: str = API_VERSION,
) -> dict[str, Any]:
    """`previous` is the object before the change, for the events that tell what was changed."""
    changes = {} if previous is None else {"previous_attributes": _old_values(previous, subject)}
    return {
        "id": new_id("evt_1"),
        "object": "event",
        "api_version": version,
        "created": now,
        "data": {"object": subject, **changes},
        "livemode": False,
        # One endpoint, until it has taken the event.
        "pending_webhooks": 1,
        "request": request,
        "type": event_type,
    }


def _old_values(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Of what differs, the old values: null for what was not there, of objects only what differs in them."""
    return {
        name: _old_values(old[name], new[name])
        if isinstance(old.get(name), dict) and isinstance(new.get(name), dict)
        else old.get(name)
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }
