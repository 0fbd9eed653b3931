"""A second wallet, payments, orders and gateway beside a running stack, and customers of both gateways."""

import asyncio
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from uuid import uuid4

import httpx
import psycopg

from deploy.local import ports
from deploy.local.ephemeral import RunningStack, pauses
from deploy.local.parts import ROOT, Part, Plan, applications, base_environment
from deploy.local.secret_store import load_or_draw
from deploy.local.tokens import mint
from tests.chaos.shopping import buy_points, insist, see, settled
from tests.e2e.rest_client import JSON, Customer, pay, until
from tests.support.collector import Collector, collecting

OURS = ("wallet", "payments", "orders", "gateway")
_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0
_PATIENCE_SECONDS = 60.0
_TOKEN_SECONDS = 3600
_OUT_OF_POINTS = 402
# What a dead replica holds is free again soon.
_SHORT_LEASES = {
    "SAGA_LEASE_SECONDS": "2",
    "MAIL_LEASE_SECONDS": "4",
    "EVENT_LEASE_SECONDS": "2",
    "CONSUMER_ACK_WAIT_SECONDS": "2",
}
_LEADER = """
    SELECT backend_pid FROM relay WHERE lease_until > now()
        AND EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = backend_pid)"""


class Twins:
    """The stack's parts are the first replicas, which its supervisor keeps; the second ones are ours alone.
    Whoever calls a service calls both replicas of it. `seen` has the spans of the first and of the second
    ones."""

    def __init__(
        self, stack: RunningStack, first: Plan, second: Plan, *, seen: tuple[Collector, Collector]
    ) -> None:
        self.stack = stack
        self.gateway_urls = [plan.url("gateway") for plan in (first, second)]
        self.orders_addresses = [plan.address("orders") for plan in (first, second)]
        self.seen = seen
        self._webhook_urls = [plan.webhook_url for plan in (first, second)]
        self._targets = {
            f"{name.upper()}_TARGET": f"ipv4:{first.address(name)},{second.address(name)}"
            for name in ("wallet", "orders", "payments")
        }
        self._parts = {part.name: part for part in applications(second) if part.name in OURS}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    async def begin(self) -> None:
        """Tells the first replicas of the second ones, and starts these."""
        urls = {"SANDBOX_WEBHOOK_URL": ",".join(self._webhook_urls)}
        await asyncio.gather(
            asyncio.to_thread(self.stack.restart, "stripe", urls),
            *(asyncio.to_thread(self.stack.restart, name, self._environment(self.seen[0])) for name in OURS),
        )
        await self.start_second(*OURS)

    def _environment(self, collector: Collector) -> dict[str, str]:
        """The second variable of the collector is of the SDK: it sends what it has every 5 s otherwise."""
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        return self._targets | _SHORT_LEASES | told

    async def kill_first(self) -> None:
        """SIGKILL to each of the first replicas; nobody starts them again."""
        for name in OURS:
            self.stack.kill(name)
        await asyncio.gather(*(asyncio.to_thread(self.stack.hold, name) for name in OURS))

    def end(self) -> None:
        """Of the second replicas; the first ones end with the stack."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    async def start_second(self, *names: str) -> None:
        for name in names:
            self._spawn(self._parts[name])
        await asyncio.gather(*(self._ready(self._parts[name]) for name in names))

    def _spawn(self, part: Part) -> None:
        with (self.stack.data / "logs" / f"{part.name}-2.log").open("ab") as log:
            self._processes[part.name] = subprocess.Popen(
                part.command,
                cwd=ROOT,
                env=base_environment() | part.environment | self._environment(self.seen[1]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _ready(self, part: Part) -> None:
        pause = pauses()
        async with asyncio.timeout(_READY_SECONDS):
            while not await _is_ready(part):
                assert self._processes[part.name].poll() is None, self.stack.log(f"{part.name}-2")
                await asyncio.sleep(next(pause))

    async def replace(self, name: str) -> None:
        """SIGTERM, the end, and a new process: first one replica, then the other."""
        await asyncio.to_thread(self.stack.restart, name)
        process = self._processes[name]
        process.terminate()
        assert await asyncio.to_thread(process.wait, _STOP_SECONDS) == 0, self.stack.log(f"{name}-2")
        await self.start_second(name)

    async def leaders(self) -> dict[str, int]:
        """The connection that leads each database's relay, once there is one everywhere."""
        pause = pauses()
        async with asyncio.timeout(_READY_SECONDS):
            while len(found := await asyncio.to_thread(self._leaders)) < len(self.stack.file.database_urls):
                await asyncio.sleep(next(pause))
        return found

    def _leaders(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, url in self.stack.file.database_urls.items():
            with psycopg.connect(url) as connection:
                pids = connection.execute(_LEADER).fetchall()
            assert len(pids) <= 1, "the relay has one lease"
            if pids:
                [(found[name],)] = pids
        return found


async def _is_ready(part: Part) -> bool:
    try:
        return await part.ready()
    except OSError:
        return False


@asynccontextmanager
async def twins_of(stack: RunningStack) -> AsyncIterator[Twins]:
    with ports.free_offset() as offset, collecting() as of_first, collecting() as of_second:
        first = _plan_of(stack)
        moved = {name: port for name, port in ports.shifted(offset).items() if _is_ours(name)}
        second = replace(first, ports={**first.ports, **moved})
        twins = Twins(stack, first, second, seen=(of_first, of_second))
        try:
            await twins.begin()
            yield twins
        finally:
            twins.end()


def _is_ours(port_name: str) -> bool:
    return port_name == "webhooks" or port_name.removesuffix(" metrics") in OURS


def _plan_of(stack: RunningStack) -> Plan:
    offset = int(stack.file.gateway_url.rpartition(":")[2]) - ports.DEFAULTS["gateway"]
    secrets = load_or_draw(stack.data)
    return Plan(data=stack.data, ports=ports.shifted(offset), secrets=secrets, real_stripe=None, extra={})


class InTurns(httpx.AsyncBaseTransport):
    """A load balancer that knows nothing: each request goes to the next gateway, dead or alive."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = cycle([httpx.URL(origin) for origin in origins])
        self._inner = httpx.AsyncHTTPTransport()
        # What became of the requests, by status; `lost` had no answer.
        self.answers: Counter[int | str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        origin = next(self._origins)
        request.url = request.url.copy_with(host=origin.host, port=origin.port)
        try:
            answer = await self._inner.handle_async_request(request)
        except httpx.TransportError:
            self.answers["lost"] += 1
            raise
        self.answers[answer.status_code] += 1
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


class Shopper:
    """Buys with points and by card, through both gateways, and remembers what the shop promised."""

    def __init__(self, twins: Twins) -> None:
        self.door = InTurns(twins.gateway_urls)
        user_id = uuid4()
        token = mint(
            secret=twins.stack.file.auth_jwt_secret,
            user_id=user_id,
            email=f"{user_id}@example.com",
            operator=False,
            ttl_seconds=_TOKEN_SECONDS,
        )
        http = httpx.AsyncClient(
            base_url=twins.gateway_urls[0],
            headers={"Authorization": f"Bearer {token}"},
            transport=self.door,
            timeout=20,
        )
        self.customer = Customer(http, user_id=user_id)
        self.promised: list[str] = []

    async def buy_until(self, stop: asyncio.Event) -> None:
        products = (await see(self.customer, "/api/products"))["items"]
        image = min((each for each in products if each["pricePoints"]), key=lambda each: each["pricePoints"])
        items = [{"productId": image["id"], "quantity": 1}]
        while not stop.is_set():
            await self._buy_with_points(items)
            await self._buy_by_card(items)

    async def _buy_with_points(self, items: list[JSON]) -> None:
        body = {"paymentMethod": "points", "items": items}
        answer = await insist(self.customer, "POST", "/api/checkout", body)
        if answer.status_code != _OUT_OF_POINTS and not await self._was_refused_later(answer.json()):
            self._promise(answer)
            return
        before = await see(self.customer, "/api/profile")
        await buy_points(self.customer, "basic")
        await self._until("/api/profile", lambda profile: profile["points"] > before["points"])

    async def _was_refused_later(self, answer: JSON) -> bool:
        """Whoever is told `pending`, since nobody knew, follows the order: it may yet cost too much."""
        if answer["status"] != "pending":
            return False
        order = await settled(self.customer, answer["orderId"], seconds=_PATIENCE_SECONDS)
        return bool(order["failureReason"] == "insufficient_points")

    async def _buy_by_card(self, items: list[JSON]) -> None:
        body = {"paymentMethod": "stripe", "items": items}
        order_id = self._promise(await insist(self.customer, "POST", "/api/checkout", body))
        order = await self._until(f"/api/orders/{order_id}", lambda order: bool(order["url"]))
        await pay(order["url"])

    def _promise(self, answer: httpx.Response) -> str:
        assert answer.status_code == 201, answer.text
        self.promised.append(answer.json()["orderId"])
        return self.promised[-1]

    async def _until(self, path: str, is_so: Callable[[JSON], bool]) -> JSON:
        return await until(lambda: see(self.customer, path), is_so, seconds=_PATIENCE_SECONDS)

    async def settle(self) -> None:
        """Waits until every promised order is completed."""
        for order_id in self.promised:
            order = await settled(self.customer, order_id, seconds=_PATIENCE_SECONDS)
            assert order["status"] == "completed", order


@dataclass
class Crowd:
    """Shoppers at it."""

    shoppers: list[Shopper]

    @property
    def promised(self) -> int:
        return sum(len(shopper.promised) for shopper in self.shoppers)

    @property
    def answers(self) -> Counter[int | str]:
        return sum((shopper.door.answers for shopper in self.shoppers), Counter[int | str]())

    async def buys(self, more: int) -> None:
        """Waits until so many more orders are acknowledged."""
        wanted, pause = self.promised + more, pauses()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while self.promised < wanted:
                await asyncio.sleep(next(pause))


@asynccontextmanager
async def shopping(twins: Twins, number: int) -> AsyncIterator[Crowd]:
    """So many buy during the block; at its end everything that they were promised is theirs."""
    crowd, stop = Crowd([Shopper(twins) for _ in range(number)]), asyncio.Event()
    async with AsyncExitStack() as clients:
        for shopper in crowd.shoppers:
            await clients.enter_async_context(shopper.customer.http)
        async with asyncio.TaskGroup() as group:
            for shopper in crowd.shoppers:
                group.create_task(shopper.buy_until(stop))
            yield crowd
            stop.set()
        await asyncio.gather(*(shopper.settle() for shopper in crowd.shoppers))
