"""Webhooks: every event once delivered, signed, tried again until a 2xx."""

import asyncio
import hashlib
import hmac
import json
import time
from contextlib import suppress
from typing import Literal

import httpx

from deploy.local.stripe_sandbox.objects import Fields
from deploy.local.stripe_sandbox.store import Store

Mode = Literal["deliver", "hold", "drop"]

_TICK_SECONDS = 0.25
_TIMEOUT_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 30.0
_AT_ONCE = 8


class Webhooks:
    """Delivers what is queued. `hold` keeps everything back until a flush."""

    def __init__(self, store: Store, *, url: str, secret: str) -> None:
        self._store = store
        self._url = url
        self._secret = secret.encode()
        self._woken = asyncio.Event()
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS)
        self.held = False

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            if not self.held:
                await self._deliver_due()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), _TICK_SECONDS)

    def flush(self) -> int:
        """Makes everything due now, held or waiting for its next try; returns how much that is."""
        self.held = False
        self._store.make_due(0.0)
        self.wake()
        return len(self._store.undelivered())

    async def deliver(self, event: Fields) -> int:
        """One delivery; the answer's status, 0 when there was none."""
        body = json.dumps(event, indent=2).encode()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": self.sign(body, int(time.time())),
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        try:
            return (await self._http.post(self._url, content=body, headers=headers)).status_code
        except httpx.HTTPError:
            return 0

    def sign(self, body: bytes, timestamp: int) -> str:
        """https://docs.stripe.com/webhooks#verify-manually"""
        digest = hmac.new(self._secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
        return f"t={timestamp},v1={digest}"

    async def _deliver_due(self) -> None:
        due = self._store.due(time.time())
        for start in range(0, len(due), _AT_ONCE):
            await asyncio.gather(*(self._try(*each) for each in due[start : start + _AT_ONCE]))

    async def _try(self, event_id: str, attempts: int) -> None:
        event = self._store.find("event", event_id)
        assert event is not None, "an event is saved with its delivery"
        status = await self.deliver(event)
        with self._store.change():
            if 200 <= status < 300:
                self._store.drop_delivery(event_id)
                self._store.save(event | {"pending_webhooks": 0})
            else:
                pause = min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempts)
                self._store.postpone(event_id, time.time() + pause)
