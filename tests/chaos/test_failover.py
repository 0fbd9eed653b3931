"""The shop on three Postgres nodes under Patroni, while customers buy: primaries die, hang, hand over and
come back."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from deploy.local import audit, parts
from deploy.local.ephemeral import RunningStack, wait_until
from deploy.local.quiet import is_quiet
from deploy.local.secret_store import load_or_draw
from deploy.local.stackfile import StackFile
from deploy.postgres.bootstrap import bootstrap
from deploy.postgres.roles import SERVICES
from services.chassis.tasks import background
from tests.chaos.shopping import buy_points, insist, see
from tests.e2e.rest_client import sign_in
from tests.support.patroni import Cluster, logins, patroni_cluster

_BACK_SECONDS = 30.0
_PATIENCE_SECONDS = 120.0
_QUIET_SECONDS = 120.0
_PROCESSES = ("wallet", "orders", "payments", "gateway")
# Enough points for many orders of one picture.
_PACKAGE = "pro"


@dataclass
class Shop:
    """A shop whose services live on the cluster, and its customers."""

    stack: RunningStack
    cluster: Cluster
    # When a call to each service began that was answered.
    served: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SERVICES})
    orders: list[str] = field(default_factory=list)
    checkouts: list[str] = field(default_factory=list)

    @property
    def file(self) -> StackFile:
        urls = {service: self.cluster.url(service) for service in SERVICES}
        return self.stack.file.model_copy(update={"database_urls": urls})

    def pids(self) -> dict[str, int | None]:
        return {name: self.stack.file.pids[name] for name in _PROCESSES}

    async def buy_pictures(self) -> None:
        """Until it is cancelled; each order is paid with points."""
        async with sign_in(self.file.gateway_url, self.file.auth_jwt_secret) as customer:
            image = (await see(customer, "/api/products"))["items"][0]
            body = {"paymentMethod": "points", "items": [{"productId": image["id"], "quantity": 1}]}
            while True:
                began = time.monotonic()
                answer = await insist(customer, "POST", "/api/checkout", body)
                if answer.status_code == 402:
                    await buy_points(customer, _PACKAGE)
                    continue
                assert answer.status_code in (200, 201), answer.text
                self.orders.append(answer.json()["orderId"])
                if answer.json()["status"] == "completed":
                    self.served["orders"].append(began)

    async def open_checkouts(self) -> None:
        while True:
            # Somebody else each time: one customer has few open pages.
            async with sign_in(self.file.gateway_url, self.file.auth_jwt_secret) as customer:
                began = time.monotonic()
                answer = await insist(customer, "POST", "/api/checkout/points", {"packageId": _PACKAGE})
                assert answer.status_code == 201, answer.text
                self.checkouts.append(answer.json()["checkoutId"])
                self.served["payments"].append(began)
            await asyncio.sleep(0.05)

    async def look_at_profiles(self) -> None:
        while True:
            async with sign_in(self.file.gateway_url, self.file.auth_jwt_secret) as customer:
                began = time.monotonic()
                await see(customer, "/api/profile")
                self.served["wallet"].append(began)
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        loops = [*(self.buy_pictures() for _ in range(4)), self.open_checkouts(), self.look_at_profiles()]
        async with background(*loops):
            yield

    async def seconds_without(self, since: float) -> dict[str, float]:
        """How long after `since` each service answered a call that was begun later."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not all(times and times[-1] > since for times in self.served.values()):
                await asyncio.sleep(0.05)
        return {
            name: round(next(at for at in times if at > since) - since, 1)
            for name, times in self.served.items()
        }

    def assert_nothing_is_lost(self) -> None:
        for database, table, acknowledged in (
            ("orders", "orders", self.orders),
            ("payments", "checkouts", self.checkouts),
        ):
            with psycopg.connect(self.cluster.url(database)) as connection:
                query = f"SELECT id::text FROM {table} WHERE id = ANY(%s::uuid[])".encode()
                found = {str(row[0]) for row in connection.execute(query, (acknowledged,))}
            assert set(acknowledged) <= found


@pytest.fixture
def shop(fresh_stack: Callable[[], AbstractContextManager[RunningStack]], tmp_path: Path) -> Iterator[Shop]:
    with patroni_cluster(tmp_path) as cluster, fresh_stack() as stack:
        passwords = load_or_draw(stack.data).role_passwords
        bootstrap(cluster.url("postgres"), passwords)
        for service in SERVICES:
            urls = logins(passwords, cluster, service)
            commands = ["migrate", *(["seed"] if service != "wallet" else [])]
            assets = {"ASSET_STORE_URL": (stack.data / "assets").absolute().as_uri()}
            for command in commands:
                subprocess.run(
                    parts.python(f"services.{service}", command), env=os.environ | urls | assets, check=True
                )
            stack.restart(service, urls)
        yield Shop(stack, cluster)


Fault = Callable[[Cluster, str], None]


def _switch_over(cluster: Cluster, _leader: str) -> None:
    cluster.switch_over()


# What happens to the primary, and what brings the node back afterwards.
_FAULTS: dict[str, tuple[Fault, Callable[[Cluster, str], None] | None]] = {
    "killed": (Cluster.kill, Cluster.start),
    "frozen": (Cluster.freeze, Cluster.thaw),
    "switched over": (_switch_over, None),
    "killed again": (Cluster.kill, Cluster.start),
}


@pytest.mark.long
@pytest.mark.timeout(1500)
async def test_the_shop_outlives_primaries_that_die_hang_and_hand_over(
    shop: Shop, record_property: Callable[[str, object], None]
) -> None:
    report: dict[str, object] = {}
    before = shop.pids()
    async with shop.under_load():
        await shop.seconds_without(time.monotonic())
        for name, (fault, mend) in _FAULTS.items():
            leader = await asyncio.to_thread(shop.cluster.leader)
            assert leader is not None, "one leads"
            began = time.monotonic()
            await asyncio.to_thread(fault, shop.cluster, leader)
            promoted = await asyncio.to_thread(_promoted, shop.cluster, leader)
            without = await shop.seconds_without(promoted)
            report[name] = {"promotion": round(promoted - began, 1), "then": without}
            assert max(without.values()) < _BACK_SECONDS, report
            if mend is not None:
                await asyncio.to_thread(mend, shop.cluster, leader)
            # The old primary streams again: it could rewind, and it may be the next one.
            back = time.monotonic()
            await asyncio.to_thread(shop.cluster.wait_whole)
            report[f"{name}, streams again"] = round(time.monotonic() - back, 1)
            await shop.seconds_without(time.monotonic())
        assert shop.pids() == before
    report |= {"orders": len(shop.orders), "checkouts": len(shop.checkouts)}
    record_property("proof", report)
    shop.assert_nothing_is_lost()
    await asyncio.to_thread(
        wait_until, lambda: is_quiet(shop.file.database_urls), seconds=_QUIET_SECONDS, what="quiet"
    )
    assert audit.audit(shop.file) == []


def _promoted(cluster: Cluster, old: str) -> float:
    """When another one was found to take writes."""
    wait_until(lambda: cluster.leader(but=old) is not None, seconds=_PATIENCE_SECONDS, what="a new leader")
    return time.monotonic()
