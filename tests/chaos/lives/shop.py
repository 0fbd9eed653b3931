"""The running shop as the proof sees it: what customers and operators ask, and Stripe's side of the wire."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx

from deploy.local.ephemeral import RunningStack
from deploy.local.tokens import mint

JSON = dict[str, Any]
_PATIENCE_SECONDS = 300.0
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 2.0
# Lives ask for the same listing at the same time.
_FRESH_SECONDS = 0.3
_SAID_LATER = ("request_in_flight", "rate_limited")


class Refused(Exception):
    """A definite no; `code` is the shop's."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"{answer.request.method} {answer.request.url.path}: {answer.text}")
        self.code = answer.json().get("code", "")


class Shop:
    def __init__(self, stack: RunningStack, gateway: httpx.AsyncClient, stripe: httpx.AsyncClient) -> None:
        self._secret = stack.file.auth_jwt_secret
        self._key = stack.file.stripe_secret_key
        self._gateway = gateway
        self._stripe = stripe
        self._operator = uuid4()
        # When it was listed, back to when, and what there was.
        self._quarantine: tuple[float, datetime, list[JSON]] = (0.0, datetime.max.replace(tzinfo=UTC), [])
        self._listing = asyncio.Lock()

    async def ask(self, method: str, path: str, *, user: UUID | None = None, body: Any = None) -> JSON:
        """As a customer, or else as an operator; again under the same key while the shop is too busy."""
        token = mint(
            secret=self._secret,
            user_id=user or self._operator,
            email=None,
            operator=user is None,
            ttl_seconds=900,
        )
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())}
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                answer = await self._gateway.request(method, path, json=body, headers=headers)
            except httpx.TransportError:
                # Nothing is lost: the key is the same.
                if time.monotonic() > deadline:
                    raise
            else:
                if answer.is_success:
                    return dict(answer.json())
                is_later = answer.status_code >= 500 or answer.json().get("code") in _SAID_LATER
                if not is_later or time.monotonic() > deadline:
                    raise Refused(answer)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def control(self, where: str, /, **body: Any) -> JSON:
        answer = await self._stripe.post(f"/_control/{where}", json=body)
        assert answer.is_success, f"{where}: {answer.text}"
        return dict(answer.json())

    async def told(self, about: str) -> list[JSON]:
        """The events about a payment, as Stripe has written them."""
        return list((await self._stripe.get(f"/_control/events?about={about}")).json()["events"])

    async def press(self, url: str, action: str) -> None:
        """A button of the hosted page."""
        answer = await self._stripe.post(url, data={"action": action})
        assert answer.status_code in (303, 402), answer.text

    async def stripe(self, method: str, path: str, **params: Any) -> JSON:
        """As the dashboard does."""
        send: JSON = {"params": params} if method in ("GET", "DELETE") else {"data": params}
        headers = {"Authorization": f"Bearer {self._key}"}
        answer = await self._stripe.request(method, f"/v1/{path}", headers=headers, **send)
        assert answer.is_success, f"{path}: {answer.text}"
        return dict(answer.json())

    async def deliveries(self) -> JSON:
        """How many webhooks Stripe has sent, held back and dropped by now."""
        return dict((await self._stripe.get("/_control/state")).json()["deliveries"])

    async def parked(self, *, since: datetime, fresh: bool = False) -> list[JSON]:
        """Everything that was put into the quarantine since then, and maybe more."""
        async with self._listing:
            listed_at, back_to, rows = self._quarantine
            if fresh or since < back_to or time.monotonic() > listed_at + _FRESH_SECONDS:
                rows = await self._list_parked(since)
                self._quarantine = (time.monotonic(), since, rows)
            return rows

    async def _list_parked(self, since: datetime) -> list[JSON]:
        rows: list[JSON] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await self.ask("GET", f"/api/admin/quarantine?limit=100&cursor={cursor}")
            rows += page["items"]
            is_enough = rows and datetime.fromisoformat(rows[-1]["createdAt"]) < since
            cursor = None if is_enough else page["nextCursor"]
        return rows

    async def reconcile(self, *, since: datetime) -> JSON:
        """A comparison with Stripe, to its end."""
        run = await self.ask("POST", "/api/admin/reconciliations", body={"since": since.isoformat()})
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while run["status"] != "done":
            assert time.monotonic() < deadline, run
            await asyncio.sleep(_PAUSE_SECONDS)
            run = await self.ask("GET", f"/api/admin/reconciliations/{run['id']}")
        return run

    async def quiet(self) -> None:
        """Webhooks go their usual way again, and what was held back goes out."""
        await self._stripe.delete("/_control/faults")
        await self.control("api_versions")
        await self.control("webhooks", mode="deliver")
        await self.control("webhooks/flush")


class Pauses:
    """Growing ones, between two looks, until a deadline."""

    def __init__(self, *, within_seconds: float) -> None:
        self._deadline = time.monotonic() + within_seconds
        self._seconds = _PAUSE_SECONDS

    async def pause(self) -> bool:
        """False when it is too late."""
        await asyncio.sleep(self._seconds)
        self._seconds = min(_LONGEST_PAUSE_SECONDS, self._seconds * 1.6)
        return time.monotonic() < self._deadline


@asynccontextmanager
async def shop_at(stack: RunningStack) -> AsyncIterator[Shop]:
    file = stack.file
    async with (
        httpx.AsyncClient(base_url=file.gateway_url, timeout=20, trust_env=False) as gateway,
        # A connection of its own for each call: one that waits may be closed while something is sent.
        httpx.AsyncClient(
            base_url=file.stripe_url,
            timeout=60,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        ) as stripe,
    ):
        shop = Shop(stack, gateway, stripe)
        try:
            yield shop
        finally:
            await shop.quiet()
