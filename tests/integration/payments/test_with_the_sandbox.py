"""payments against the sandbox that the shop ships with: a customer on the hosted page, signed webhooks,
faults on the wire."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import (
    SECRETS,
    Payments,
    PaymentsProcess,
    free_port,
    payments_running,
)
from tests.integration.payments.stripe_double import StripeDouble

SESSIONS = "/v1/checkout/sessions"


class Sandbox(StripeDouble):
    """The sandbox's process, in the place of the scripted Stripe."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.http = httpx.AsyncClient(base_url=url)

    async def fault(self, kind: str, **more: Any) -> None:
        answer = await self.http.post("/_control/faults", json={"path": SESSIONS, "kind": kind, **more})
        assert answer.status_code == 201

    async def count(self) -> int:
        return int((await self.http.get("/_control/state")).json()["sessions"])

    async def pay(self, url: str) -> None:
        assert (await self.http.post(url, data={"action": "pay"})).status_code == 303


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Where a sandbox listens, and where it delivers its webhooks."""
    address, webhooks = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environment = os.environ | {
        "SANDBOX_LISTEN": address,
        "SANDBOX_PUBLIC_URL": f"http://{address}",
        "SANDBOX_WEBHOOK_URL": f"http://{webhooks}/api/webhooks/stripe",
        "SANDBOX_DATA": str(tmp_path_factory.mktemp("sandbox")),
        "STRIPE_SECRET_KEY": "sk_test_scripted",
        "STRIPE_WEBHOOK_SECRET": SECRETS[0],
    }
    stripe = subprocess.Popen([sys.executable, "-m", "deploy.local.stripe_sandbox"], env=environment)
    yield address, webhooks
    stripe.terminate()
    stripe.wait(10)


@pytest.fixture(scope="module")
async def sandboxed(process: PaymentsProcess, addresses: tuple[str, str]) -> AsyncIterator[Payments]:
    address, webhooks = addresses
    sandbox = Sandbox(f"http://{address}")
    await _until_healthy(sandbox.http)
    async with payments_running(process, sandbox, WEBHOOK_LISTEN=webhooks) as payments:
        yield payments
    await sandbox.http.aclose()


async def _until_healthy(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                (await http.get("/healthz")).raise_for_status()
                return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


@pytest.fixture
async def payments(sandboxed: Payments) -> AsyncIterator[Payments]:
    sandboxed.user_id = uuid4()
    yield sandboxed
    await _sandbox(sandboxed).http.delete("/_control/faults")


def _sandbox(payments: Payments) -> Sandbox:
    assert isinstance(payments.stripe, Sandbox)
    return payments.stripe


async def test_paying_on_the_hosted_page_grants_the_points_once(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    assert checkout.url.startswith(payments.stripe.url)
    await _sandbox(payments).pay(checkout.url)
    await payments.until_status(checkout.id, "paid")
    events = (await _sandbox(payments).http.get("/v1/events", headers=_AUTH)).json()["data"]
    [completed] = [event for event in events if event["data"]["object"]["id"] == checkout.session_id]
    copies = await _sandbox(payments).http.post(f"/_control/events/{completed['id']}/deliver?copies=50")
    assert copies.json()["statuses"] == [200] * 50
    subject = "payments.points.grant_changed"
    [grant] = await payments.facts(subject, events_pb2.PointsGrantChanged, checkout.id)
    assert grant.net_points == 550


_AUTH = {"Authorization": "Bearer sk_test_scripted"}


async def test_a_declined_card_leaves_the_session_open(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    http = _sandbox(payments).http
    assert (await http.post(checkout.url, data={"action": "decline"})).status_code == 402
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_OPEN
    await _sandbox(payments).pay(checkout.url)
    await payments.until_status(checkout.id, "paid")


async def test_an_expired_session_ends_the_order(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    assert (await payments.expire(checkout.order_id)).status == pb.CHECKOUT_STATUS_EXPIRED
    with pytest.raises(AssertionError):
        await _sandbox(payments).pay(checkout.url)


@pytest.mark.parametrize("kind", ["timeout_after_effect", "error_after_effect"])
async def test_an_effect_without_its_answer_is_one_session(payments: Payments, kind: str) -> None:
    before = await _sandbox(payments).count()
    await _sandbox(payments).fault(kind)
    checkout = await payments.points_checkout()
    assert checkout.status == pb.CHECKOUT_STATUS_CREATING
    await payments.until_status(checkout.id, "open")
    assert await _sandbox(payments).count() == before + 1


async def test_busy_answers_are_waited_out(payments: Payments) -> None:
    before = await _sandbox(payments).count()
    for status in (409, 429):
        await _sandbox(payments).fault("status", status=status)
    checkout = await payments.points_checkout()
    assert checkout.status == pb.CHECKOUT_STATUS_OPEN
    assert await _sandbox(payments).count() == before + 1
