"""Events (https://docs.stripe.com/api/events/object)."""

from deploy.local.stripe_sandbox.objects import Fields, new_id

API_VERSION = "2026-10-28.endive"


def build(type: str, thing: Fields, *, now: int) -> Fields:
    """A snapshot of an object at the moment it changed."""
    return {
        "id": new_id("evt"),
        "object": "event",
        "account": None,
        "api_version": API_VERSION,
        "context": None,
        "created": now,
        "data": {"object": thing},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": type,
    }
