"""The kinds of traffic that keep each other from nothing: each has places, a bound for each holder, and a
deadline of its own (load_shedding.py, admission.py)."""

import re
from typing import Literal

LaneName = Literal["customers", "webhooks", "streams", "downloads"]

WEBHOOK_PATH = "/api/webhooks/stripe"
DOWNLOADS_PATH = "/api/downloads/"
_STREAM_PATH = re.compile("/api/(?:orders|checkouts)/[^/]+/events")


def lane_of(path: str) -> LaneName:
    if path == WEBHOOK_PATH:
        return "webhooks"
    if path.startswith(DOWNLOADS_PATH):
        return "downloads"
    return "streams" if _STREAM_PATH.fullmatch(path) else "customers"
