"""`aishop bench`: points checkouts of two lines over REST, beside pgbench writing the same rows.

The unit is CPU milliseconds per order, summed over gateway, services, Postgres and NATS. The clock stops
only when the captures, events and mails of the orders are done. The limit (limit.py) is measured in the
same run on the same Postgres, and the ratio is what counts: machines differ, and are noisy.
"""

import asyncio
import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import uvloop
from rich.console import Console
from rich.table import Table

from bench import catalogue, limit
from bench.cpu import cpu_ms
from bench.figures import MEASURED, percentile
from bench.http import Connection
from bench.shop import Shop, fill
from deploy.local import audit
from deploy.local.ephemeral import running_stack, wait_until
from deploy.local.quiet import is_quiet
from deploy.local.stackfile import StackFile

CUSTOMERS = 1000
PRODUCTS = 1000
_WARM_UP = 500
_SETTLE_SECONDS = 120


@dataclass(frozen=True)
class Load:
    """What one burst of orders did."""

    seconds: float
    latencies_ms: list[float]
    errors: int
    cpu_ms: dict[str, float]

    @property
    def orders(self) -> int:
        return len(self.latencies_ms)

    def percentile_ms(self, percent: float) -> float:
        return percentile(self.latencies_ms, percent)


def main(orders: int, concurrency: int, json_file: Path | None) -> int:
    """Measures and prints; 1 when an order failed or the audit finds something."""
    console = Console(highlight=False)
    with running_stack() as running:
        stack = running.file
        shop = fill(stack, customers=CUSTOMERS, products=PRODUCTS)
        _burst(stack, shop, _WARM_UP, concurrency)
        load = _burst(stack, shop, orders, concurrency)
        floor = limit.measure(
            stack, products=PRODUCTS, customers=CUSTOMERS, orders=orders, concurrency=concurrency
        )
        cached, uncached = catalogue.measure(running, shop.products)
        findings = audit.audit(running.file)
    _print(console, load, floor, concurrency)
    _print_reading(console, cached, uncached)
    console.print(f"audit: {findings or 'all invariants hold'}")
    if json_file is not None:
        json_file.write_text(json.dumps(_as_json(load, floor, cached, uncached), indent=2))
    return 1 if load.errors or findings else 0


def _burst(stack: StackFile, shop: Shop, orders: int, concurrency: int) -> Load:
    pids = {name: stack.pids[name] for name in MEASURED}
    before, began = cpu_ms(pids), time.monotonic()
    latencies_ms, errors = uvloop.run(_customers(stack, shop, orders, concurrency))
    wait_until(lambda: is_quiet(stack.database_urls), seconds=_SETTLE_SECONDS, what="quiet")
    seconds, after = time.monotonic() - began, cpu_ms(pids)
    return Load(seconds, latencies_ms, errors, {name: after[name] - before[name] for name in after})


async def _customers(stack: StackFile, shop: Shop, orders: int, concurrency: int) -> tuple[list[float], int]:
    latencies_ms: list[float] = []
    errors = 0
    address = urlsplit(stack.gateway_url)

    async def customer(count: int) -> None:
        nonlocal errors
        connection = Connection(address.hostname or "", address.port or 80)
        for _ in range(count):
            headers, body = _request(shop)
            began = time.perf_counter()
            answer = await connection.post("/api/checkout", headers, body)
            latencies_ms.append((time.perf_counter() - began) * 1000)
            errors += answer.status != 201 or b'"completed"' not in answer.body
        connection.close()

    shares = [orders // concurrency + (place < orders % concurrency) for place in range(concurrency)]
    await asyncio.gather(*(customer(share) for share in shares))
    return latencies_ms, errors


def _request(shop: Shop) -> tuple[str, bytes]:
    token = random.choice(shop.tokens)
    items = [{"productId": str(product), "quantity": 1} for product in random.sample(shop.products, 2)]
    headers = (
        f"Authorization: Bearer {token}\r\nIdempotency-Key: {uuid4()}\r\nContent-Type: application/json\r\n"
    )
    return headers, json.dumps({"paymentMethod": "points", "items": items}).encode()


def _as_json(
    load: Load, floor: limit.Limit, cached: catalogue.Reading, uncached: catalogue.Reading
) -> dict[str, object]:
    return {
        "orders_per_s": load.orders / load.seconds,
        "p50_ms": load.percentile_ms(50),
        "p99_ms": load.percentile_ms(99),
        "errors": load.errors,
        "cpu_ms_per_order": sum(load.cpu_ms.values()) / load.orders,
        "cpu_ms_per_order_by_process": {name: ms / load.orders for name, ms in load.cpu_ms.items()},
        "limit_orders_per_s": floor.orders_per_s,
        "limit_cpu_ms_per_order": floor.cpu_ms_per_order,
        "catalogue_cpu_ms_per_read": {"cached": asdict(cached), "uncached": asdict(uncached)},
    }


def _print(console: Console, load: Load, floor: limit.Limit, concurrency: int) -> None:
    per_order = {name: ms / load.orders for name, ms in load.cpu_ms.items()}
    total = sum(per_order.values())
    table = Table("points checkouts, two lines", "orders/s", "p50 ms", "p99 ms", "errors", "CPU ms/order")
    table.add_row(
        f"AI Shop, {concurrency} customers at once",
        f"{load.orders / load.seconds:.0f}",
        f"{load.percentile_ms(50):.0f}",
        f"{load.percentile_ms(99):.0f}",
        str(load.errors),
        f"{total:.2f}",
    )
    table.add_row(
        "pgbench, the same rows", f"{floor.orders_per_s:.0f}", "", "", "", f"{floor.cpu_ms_per_order:.2f}"
    )
    console.print(table)
    console.print("by process: " + ", ".join(f"{name} {ms:.2f}" for name, ms in per_order.items()))
    console.print(f"ratio: [bold]{total / floor.cpu_ms_per_order:.1f} × the limit's CPU per order[/]")


def _print_reading(console: Console, cached: catalogue.Reading, uncached: catalogue.Reading) -> None:
    console.print(
        "catalogue, CPU ms per read with and without Valkey: "
        f"a page {cached.page_cpu_ms:.2f} and {uncached.page_cpu_ms:.2f}, "
        f"a product {cached.product_cpu_ms:.2f} and {uncached.product_cpu_ms:.2f}"
    )
