"""The sandbox's process in the place of Stripe: a customer on the hosted page, a bank, faults on the wire."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.integration.payments.conftest import SECRETS, Payments
from tests.integration.payments.stripe_double import ACCOUNT, StripeDouble
from tests.support.plain_http import NO_TLS

SESSIONS, REFUNDS = "/v1/checkout/sessions", "/v1/refunds"
KEY = "sk_test_scripted"
AUTH = {"Authorization": f"Bearer {KEY}"}


class Sandbox(StripeDouble):
    """What a test does at Stripe."""

    def __init__(self, url: str, *, key: str = KEY) -> None:
        super().__init__()
        self.url = url
        self.http = httpx.AsyncClient(base_url=url, timeout=20, trust_env=False, verify=NO_TLS)
        self._auth = {"Authorization": f"Bearer {key}"}

    async def control(self, where: str, /, **body: Any) -> Any:
        answer = await self.http.post(f"/_control/{where}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def fault(self, path: str, kind: str, **more: Any) -> None:
        await self.control("faults", path=path, kind=kind, **more)

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.http.get(f"/v1/{path}", params=params, headers=self._auth)
        assert answer.is_success, answer.text
        return answer.json()

    async def listed(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """Every object of a listing, the newest first."""
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {"has_more": True}
        while page["has_more"]:
            after = {"starting_after": found[-1]["id"]} if found else {}
            page = await self.get(path, limit=100, **after, **params)
            found += page["data"]
        return found

    async def post(self, path: str, **form: Any) -> Any:
        """As the dashboard does."""
        answer = await self.http.post(f"/v1/{path}", data=form, headers=self._auth)
        assert answer.is_success, answer.text
        return answer.json()

    async def state(self) -> Any:
        return (await self.http.get("/_control/state")).json()

    async def count(self) -> int:
        return int((await self.state())["sessions"])

    async def pay(self, url: str) -> None:
        assert (await self.http.post(url, data={"action": "pay"})).status_code == 303

    async def intent_of(self, session_id: str) -> str:
        """The payment intent of a session that was paid."""
        return str((await self.get(f"checkout/sessions/{session_id}"))["payment_intent"])

    async def events(self, *types: str, about: str = "") -> list[dict[str, Any]]:
        """The oldest first; of these types, and about this payment intent or object, when given."""
        found = reversed(await self.listed("events"))
        of_types = [event for event in found if not types or event["type"] in types]
        return [event for event in of_types if not about or about in _names(event)]

    async def deliver(self, event_id: str, *, copies: int = 1) -> None:
        answer = await self.http.post(f"/_control/events/{event_id}/deliver?copies={copies}")
        assert answer.json() == {"statuses": [200] * copies}

    async def quiet(self) -> None:
        """Leaves no trouble to the next test."""
        await self.http.delete("/_control/faults")
        await self.control("webhooks", mode="deliver")
        await self.control("webhooks/flush")


def _names(event: dict[str, Any]) -> set[Any]:
    subject = event["data"]["object"]
    return {subject["id"], subject.get("payment_intent")}


def sandbox_of(payments: Payments) -> Sandbox:
    assert isinstance(payments.stripe, Sandbox)
    return payments.stripe


@contextmanager
def sandbox_running(address: str, webhooks: str, data: Path) -> Iterator[None]:
    environment = os.environ | {
        "SANDBOX_LISTEN": address,
        "SANDBOX_PUBLIC_URL": f"http://{address}",
        "SANDBOX_WEBHOOK_URL": f"http://{webhooks}/api/webhooks/stripe",
        "SANDBOX_DATA": str(data),
        "SANDBOX_ACCOUNT": ACCOUNT,
        "STRIPE_SECRET_KEY": KEY,
        "STRIPE_WEBHOOK_SECRET": SECRETS[0],
    }
    command = [sys.executable, "-m", "deploy.local.stripe_sandbox"]
    stripe = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        stripe.terminate()
        stripe.wait(10)


async def until_healthy(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                (await http.get("/healthz")).raise_for_status()
                return
            except httpx.TransportError:
                await asyncio.sleep(0.05)
