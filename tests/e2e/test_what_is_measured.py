"""What the running shop tells Prometheus: sales as they were, and all that dashboards, alerts and docs name.

The name of this file is late in the alphabet, so that other tests have bought, refunded and failed before."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from prometheus_client.metrics_core import Metric
from typer.main import get_command

from deploy import dashboards, pki
from deploy.local.cli import app
from deploy.local.ephemeral import RunningStack
from deploy.local.parts import ROOT
from services.chassis.metrics import serving_metrics
from tests.e2e.rest_client import Customer, pay, sign_in, until
from tests.integration.chassis.test_grpc import free_address
from tests.support.metrics import scrape, total
from tests.support.promql import grouping_labels, selectors

PROCESSES = ("gateway", "wallet", "orders", "payments")
RULES = sorted((ROOT / "deploy/observability/rules").glob("*.yml"))
PAGES = sorted((ROOT / "docs/alerts").glob("*.md"))
DOCS = ROOT / "docs/observability.md"
# Prometheus adds these to whatever it scrapes.
OF_THE_TARGET = {"job", "instance"}
OF_PROMETHEUS = {"up": OF_THE_TARGET}
# Told five minutes after the start, and by one replica.
LATE = {"aishop_invariant_violations": {*OF_THE_TARGET, "invariant"}}

Scraped = Mapping[str, list[Metric]]


def scraped_from(stack: RunningStack) -> Scraped:
    return {process: scrape(stack.file.metrics_urls[process]) for process in PROCESSES}


@pytest.fixture(scope="module")
async def shopper(stack: RunningStack) -> AsyncIterator[Customer]:
    """One who did a bit of everything."""
    async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as customer:
        await customer.top_up()
        image = (await customer.read("/api/products"))["items"][0]
        path = f"/api/cart/items/{image['id']}"
        assert (await customer.http.put(path, json={"quantity": 1})).status_code == 200
        assert (await customer.buy("points")).status_code == 201
        placed = (await customer.buy("stripe", items=[{"productId": image["id"], "quantity": 1}])).json()
        await pay(placed["url"])
        await until(lambda: customer.order(placed["orderId"]), lambda order: order["status"] == "completed")
        yield customer


@pytest.fixture(scope="module")
async def told(stack: RunningStack, shopper: Customer) -> Scraped:
    """What is told once sales have been counted: within two ticks, 30 s, unless others bought before."""

    async def sales() -> dict[str, Any]:
        scraped = scraped_from(stack)
        of_orders, of_payments, of_wallet = (scraped[name] for name in ("orders", "payments", "wallet"))
        completed = "aishop_orders_decided_total"
        return {
            "completed": [
                total(of_orders, completed, payment_method=method, status="completed")
                for method in ("points", "stripe")
            ],
            "placed": total(of_orders, "aishop_orders_placed_total"),
            "points": total(of_orders, "aishop_orders_completed_points_sum"),
            "cents": total(of_orders, "aishop_orders_completed_cents_sum"),
            "carts": total(of_orders, "aishop_orders_carts_total"),
            "paid": total(of_payments, "aishop_payments_paid_cents_sum", purpose="order"),
            "sold": total(of_payments, "aishop_payments_points_sold_total"),
            "spent": total(of_wallet, "aishop_wallet_transaction_points_sum", type="spend"),
            "bought": total(of_wallet, "aishop_wallet_transaction_points_sum", type="purchase"),
        }

    def all_counted(sales: dict[str, Any]) -> bool:
        return all(all(each) if isinstance(each, list) else each for each in sales.values())

    await until(sales, all_counted, seconds=60)
    return scraped_from(stack)


@pytest.fixture(scope="module")
def exported(told: Scraped, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every series that was told, by name; of metrics without series, none."""
    found = {name: set(labels) for name, labels in (OF_PROMETHEUS | LATE).items()}
    for metrics in (*told.values(), _of_a_process_with_tls(tmp_path_factory.mktemp("pki"))):
        for metric in metrics:
            names = {metric.name, f"{metric.name}_total"} if metric.type == "counter" else {metric.name}
            for name in names:
                found.setdefault(name, set(OF_THE_TARGET))
            for sample in metric.samples:
                found.setdefault(sample.name, set(OF_THE_TARGET)).update(sample.labels)
    return found | _recorded()


def _of_a_process_with_tls(folder: Path) -> list[Metric]:
    issued, listen = datetime.now(UTC), free_address()
    issuer = pki.new_authority(issued)
    pki.write_leaf(folder, issuer, "wallet", hosts=(), now=issued, life=timedelta(days=1))
    with serving_metrics(listen, {"own": folder / "tls.crt"}):
        return scrape(f"http://{listen}/metrics")


def rules() -> Iterator[dict[str, Any]]:
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def _recorded() -> dict[str, set[str]]:
    """What rules record, with the labels that they group by."""
    return {rule["record"]: grouping_labels(rule["expr"]) for rule in rules() if "record" in rule}


QUERIES = {
    **{rule.get("alert", rule.get("record", "")): [rule["expr"]] for rule in rules()},
    **{
        f"{dashboard.uid}: {panel.title}": list(panel.queries.values())
        for dashboard in dashboards.FILES.values()
        for panels in dashboard.rows.values()
        for panel in panels
    },
}


def test_every_query_names_what_the_shop_tells(exported: dict[str, set[str]]) -> None:
    wrong = [
        (place, name, labels)
        for place, queries in QUERIES.items()
        for query in queries
        for name, labels in _unknown(query, exported)
    ]
    assert wrong == []


def _unknown(query: str, exported: dict[str, set[str]]) -> Iterator[tuple[str, set[str]]]:
    named = dict(selectors(query))
    assert named, query
    for name, labels in selectors(query):
        if name not in exported:
            yield name, set()
        elif not labels <= exported[name]:
            yield name, labels - exported[name]
    known = set().union(*(exported.get(name, set()) for name in named))
    if not grouping_labels(query) <= known:
        yield query, grouping_labels(query) - known


def test_every_metric_of_ours_is_looked_at(exported: dict[str, set[str]]) -> None:
    """What no dashboard and no alert asks for is measured in vain."""
    asked = {name for queries in QUERIES.values() for query in queries for name, _ in selectors(query)}
    families = {re.sub("_(bucket|sum|count|total)$", "", name) for name in asked}
    ours = {re.sub("_(bucket|sum|count|total)$", "", name) for name in exported if name.startswith("aishop_")}
    assert ours - families == set()


def test_the_table_of_metrics_is_that_of_the_shop(told: Scraped) -> None:
    """Else: put the expected lines there."""
    assert _table(told) in DOCS.read_text()


def _table(told: Scraped) -> str:
    lines = [
        f"| `{name}` | {kind} | {', '.join(_tellers(told, name))} | {what} |"
        for name, kind, what in sorted(
            {_described(metric) for metrics in told.values() for metric in metrics}
        )
        if name.startswith("aishop_")
    ]
    return "\n".join(("| metric | type | of | what |", "|---|---|---|---|", *lines)) + "\n"


def _described(metric: Metric) -> tuple[str, str, str]:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return name, metric.type, metric.documentation


def _tellers(told: Scraped, name: str) -> list[str]:
    """Who has series of it. One that nobody has (yet, or without TLS) is of all who know it."""
    know = {
        process: metric.samples
        for process, metrics in told.items()
        for metric in metrics
        if _described(metric)[0] == name
    }
    return [process for process, samples in know.items() if samples] or list(know)


def test_samples_are_taken(told: Scraped) -> None:
    """Every query of a sample runs with the service's own login."""
    for process in ("wallet", "orders", "payments"):
        taken = [
            sample
            for metric in told[process]
            for sample in metric.samples
            if sample.name == "aishop_sampled_timestamp_seconds" and sample.labels["sample"] != "invariants"
        ]
        assert len(taken) > 5
        # Once a minute at least; balances every five.
        oldest = min(taken, key=lambda sample: sample.value)
        assert datetime.now(UTC).timestamp() - oldest.value < 400, oldest
    assert total(told["payments"], "aishop_payments_webhooks_total", outcome="received") > 0
    assert total(told["payments"], "aishop_payments_webhook_processing_lag_seconds_count") > 0
    assert total(told["wallet"], "aishop_wallet_points_outstanding") >= 0
    assert total(told["orders"], "aishop_orders_products") > 0


@pytest.mark.parametrize("page", [page.stem for page in PAGES])
def test_queries_and_commands_of_the_pages_exist(stack: RunningStack, page: str) -> None:
    text = (ROOT / f"docs/alerts/{page}.md").read_text()
    for database, query in re.findall(r'^psql (\w+) -c "([^"]*)"$', text, re.MULTILINE):
        with psycopg.connect(stack.file.database_urls[database]) as connection:
            connection.execute(f"EXPLAIN {query}".encode())
    for words in re.findall(r"^aishop ([a-z-]+)(?: ([a-z][a-z-]*))?", text, re.MULTILINE):
        _command(words)


def _command(words: tuple[str, str]) -> None:
    commands: Any = get_command(app)
    found = commands.commands[words[0]]
    if hasattr(found, "commands"):
        assert words[1] in found.commands


def test_nothing_tells_who_bought_what(stack: RunningStack, told: Scraped, shopper: Customer) -> None:
    is_id: Callable[[str], object] = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}|@|\b(evt|pi|cs|re)_").search
    values = {
        value
        for metrics in told.values()
        for metric in metrics
        for sample in metric.samples
        for value in sample.labels.values()
    }
    assert [value for value in values if is_id(value)] == []
