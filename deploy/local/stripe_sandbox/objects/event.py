"""docs.stripe.com/api/events/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id
from deploy.local.stripe_sandbox.objects import API_VERSION


def build(
    event_type: str, subject: dict[str, Any], *, request: dict[str, str | None], now: int
) -> dict[str, Any]:
    return {
        "id": new_id("evt_1"),
        "object": "event",
        "api_version": API_VERSION,
        "created": now,
        "data": {"object": subject},
        "livemode": False,
        # One endpoint, until it has taken the event.
        "pending_webhooks": 1,
        "request": request,
        "type": event_type,
    }
