"""docs.stripe.com/api/test_clocks/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

_THIRTY_DAYS = 30 * 24 * 3600


def build(*, frozen_time: int, name: str | None, now: int) -> dict[str, Any]:
    return {
        "id": new_id("clock_1"),
        "object": "test_helpers.test_clock",
        "created": now,
        "deletes_after": now + _THIRTY_DAYS,
        "frozen_time": frozen_time,
        "livemode": False,
        "name": name,
        "status": "ready",
        "status_details": {},
    }
