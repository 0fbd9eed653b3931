"""Delivery of events to the shop's endpoint: signed, at least once, in no order, until a 2xx.

Stripe tries again for three days, after minutes and then hours. Here the waits are 0.5 s, 1 s, 2 s … up to
30 s, and there is no end to them, so that a test need not wait and a shop that was down catches up.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle

import httpx
import orjson

from deploy.local.stripe_sandbox.events import copy_due_at
from deploy.local.stripe_sandbox.store import Store
from services.chassis import logs

log = logs.get(__name__)

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 30.0
_ATTEMPT_SECONDS = 10.0
_AT_ONCE = 32
_TICK_SECONDS = 0.25
_POLL_SECONDS = 0.01


def signature(payload: bytes, *, secret: str, now: int) -> str:
    """The Stripe-Signature header: HMAC-SHA256 over `timestamp.payload`."""
    signed = hmac.new(secret.encode(), f"{now}.".encode() + payload, hashlib.sha256)
    return f"t={now},v1={signed.hexdigest()}"


def retry_seconds(attempts: int) -> float:
    """The wait after that many failed attempts (1 or more)."""
    return min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 16))


class Sender:
    """Works off the deliveries of the store; `wake` after a commit that has added some."""

    def __init__(self, store: Store, *, urls: Sequence[str], secret: str) -> None:
        """Each attempt goes to the next of the URLs, as a load balancer would have it."""
        self._store = store
        self._urls = cycle(urls)
        self._secret = secret
        self._woken = asyncio.Event()
        self._running: set[str] = set()
        # How many webhooks the endpoint has taken, copies too.
        self.taken = 0
        self._http = httpx.AsyncClient(
            timeout=_ATTEMPT_SECONDS,
            # Straight to the endpoint, whatever proxy the machine has.
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_AT_ONCE),
        )

    def wake(self) -> None:
        self._woken.set()

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._woken.clear()
                for event_id in self._due():
                    self._running.add(event_id)
                    group.create_task(self._deliver(event_id))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), _TICK_SECONDS)

    async def send(self, event_id: str, *, copies: int) -> list[int]:
        """Sends so many copies at the same time, whatever was sent before; returns the statuses (0: no
        answer)."""
        statuses = await asyncio.gather(*(self._attempt(event_id) for _ in range(copies)))
        if any(_is_taken(status) for status in statuses):
            self._settle(event_id)
        return list(statuses)

    async def all_taken(self, event_ids: list[str], *, within_seconds: float) -> bool:
        """Waits until the endpoint has taken every one of the events."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                while self._open_among(event_ids):
                    await asyncio.sleep(_POLL_SECONDS)
        return not self._open_among(event_ids)

    def _open_among(self, event_ids: list[str]) -> int:
        marks = ", ".join("?" * len(event_ids))
        sql = f"SELECT count(*) FROM deliveries WHERE event_id IN ({marks}) AND state <> 'delivered'"
        return int(self._store.execute(sql, *event_ids).fetchone()[0])

    def _due(self) -> list[str]:
        rows = self._store.execute(
            "SELECT event_id FROM deliveries WHERE state = 'pending' AND due_at <= ? ORDER BY due_at LIMIT ?",
            *(time.time(), _AT_ONCE + len(self._running)),
        ).fetchall()
        idle = [event_id for (event_id,) in rows if event_id not in self._running]
        return idle[: _AT_ONCE - len(self._running)]

    async def _deliver(self, event_id: str) -> None:
        try:
            if _is_taken(await self._attempt(event_id)):
                self._take_off(event_id)
            else:
                self._postpone(event_id)
        finally:
            self._running.discard(event_id)
            self.wake()

    async def _attempt(self, event_id: str) -> int:
        """One POST; the status of its answer, 0 when there was none."""
        event = self._store.find("event", event_id)
        if event is None:
            # Forgotten on its way.
            return 0
        # The endpoint may have another API version than the account.
        payload = orjson.dumps(event.hidden.get("sent", event.body), option=orjson.OPT_INDENT_2)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(payload, secret=self._secret, now=int(time.time())),
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        status = 0
        with suppress(httpx.HTTPError):
            status = (await self._http.post(next(self._urls), content=payload, headers=headers)).status_code
        self.taken += _is_taken(status)
        log.info("webhook.sent", event_id=event_id, type=event.body["type"], status=status)
        return status

    def _take_off(self, event_id: str) -> None:
        """One copy has arrived; another one, if there is to be one, goes out a little later."""
        row = self._store.execute(
            "UPDATE deliveries SET copies = copies - 1 WHERE event_id = ? RETURNING copies, rowid", event_id
        ).fetchone()
        if row is None:
            # Forgotten on its way.
            return
        copies, number = row
        if copies <= 0:
            self._settle(event_id)
            return
        due_at = copy_due_at(self._store, number)
        self._store.execute("UPDATE deliveries SET due_at = ? WHERE event_id = ?", due_at, event_id)

    def _settle(self, event_id: str) -> None:
        with self._store.transaction():
            self._store.execute("UPDATE deliveries SET state = 'delivered' WHERE event_id = ?", event_id)
            self._store.execute(
                "UPDATE objects SET body = json_set(body, '$.pending_webhooks', 0) WHERE id = ?", event_id
            )

    def _postpone(self, event_id: str) -> None:
        with self._store.transaction():
            row = self._store.execute(
                "UPDATE deliveries SET attempts = attempts + 1 WHERE event_id = ? RETURNING attempts",
                event_id,
            ).fetchone()
            if row is not None:
                due_at = time.time() + retry_seconds(row[0])
                self._store.execute("UPDATE deliveries SET due_at = ? WHERE event_id = ?", due_at, event_id)


def _is_taken(status: int) -> bool:
    return 200 <= status < 300
