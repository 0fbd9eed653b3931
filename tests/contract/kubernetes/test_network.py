"""NetworkPolicies and the Ingress against the code: who calls whom is in settings and tables of callers."""

from itertools import product
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.routing import Route

from services.chassis.settings import ProcessSettings
from services.orders.callers import CALLERS as ORDERS_CALLERS
from services.payments.callers import CALLERS as PAYMENTS_CALLERS
from services.payments.webhooks import create_app, health
from services.wallet.callers import CALLERS as WALLET_CALLERS
from tests.contract.kubernetes.processes import SERVICES, ours, port_of, settings_of, values
from tests.support.cluster import Cluster, Endpoint, walk

CALLERS = {"wallet": WALLET_CALLERS, "orders": ORDERS_CALLERS, "payments": PAYMENTS_CALLERS}
# Settings that are told to others, and called by nobody here.
ONLY_TOLD = {"shop_url", "sandbox_public_url", "auth_issuer"}
DEFAULT_PORTS = {"https": 443, "s3": 443}

WORLD = Endpoint("world", address="203.0.113.7")
NAME_SERVER = Endpoint("name server", {"k8s-app": "kube-dns"}, {"dns": 53}, namespace="kube-system")
INGRESS = Endpoint("ingress", namespace="ingress-nginx")
PROMETHEUS = Endpoint("prometheus", {"app.kubernetes.io/name": "prometheus"}, namespace="monitoring")
GRAFANA = Endpoint("grafana", {"app.kubernetes.io/name": "grafana"}, namespace="monitoring")
OPERATOR = Endpoint("cnpg", namespace="cnpg-system")
STRANGER = Endpoint("stranger", namespace="default")
# In our namespace, and none of ours.
UNLABELLED = Endpoint("unlabelled")
# Nobody listens there: a rule that names no port would let it through.
UNUSED_PORT = 9
WORLD_PORTS = (UNUSED_PORT, 25, 80, 443, 465, 587, 5432, 6443)
# What three servers say to each other, their operator and Prometheus to them, and Postgres to the API.
BETWEEN_STORES = {
    *(("postgres", "postgres", port) for port in (5432, 8000)),
    *(("cnpg", "postgres", port) for port in (5432, 8000)),
    *(("postgres", "world", port) for port in (443, 6443)),
    ("prometheus", "postgres", 9187),
    ("nats", "nats", 6222),
    ("prometheus", "nats", 7777),
}

Edge = tuple[str, str, int]


def called(cluster: Cluster, settings: ProcessSettings) -> set[tuple[str, int]]:
    """Where a process with these settings connects to: (pod, port), the world included."""
    found: set[tuple[str, int]] = set()
    for field, value in values(settings).items():
        if field in ONLY_TOLD or "://" not in value:
            continue
        parts = urlsplit(value.replace("dns:///", "dns://"))
        if parts.scheme != "file":
            assert parts.hostname, field
            port = parts.port or DEFAULT_PORTS[parts.scheme]
            found |= set(cluster.behind(parts.hostname, port)) or {("world", port)}
    return found


def expected_edges(cluster: Cluster, patch: pytest.MonkeyPatch) -> set[Edge]:
    edges: set[Edge] = set()
    for name, workload in ours(cluster).items():
        settings = settings_of(cluster, workload, patch)
        edges |= {(name, target, port) for target, port in called(cluster, settings)}
        if metrics := getattr(settings, "metrics_listen", ""):
            edges.add(("prometheus", name, port_of(metrics)))
    for backend in (each["service"] for each in walk(cluster.of_kind("Ingress")) if "service" in each):
        service = cluster.of_kind("Service")[backend["name"]]
        [port] = [p["port"] for p in service["spec"]["ports"] if p["name"] == backend["port"]["name"]]
        edges |= {("ingress", pod, target) for pod, target in cluster.behind(backend["name"], port)}
    return edges | (BETWEEN_STORES if cluster.overlay == "production" else set())


def test_pods_reach_what_their_code_calls_and_nothing_else(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = [*cluster.pods(), UNLABELLED]
    ways = [(target, port) for target in pods for port in (*target.ports.values(), UNUSED_PORT)]
    ways += [(WORLD, port) for port in WORLD_PORTS]
    found = {
        (source.name, target.name, port)
        for source, (target, port) in product(pods, ways)
        if cluster.lets_out(source, target, port)
    }
    names = {pod.name for pod in pods}
    assert found == {edge for edge in expected_edges(cluster, monkeypatch) if edge[0] in names}


def test_pods_are_reached_by_who_calls_them_and_nobody_else(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = [*cluster.pods(), UNLABELLED]
    outside = [INGRESS, PROMETHEUS, GRAFANA, OPERATOR, STRANGER, WORLD]
    found = {
        (source.name, target.name, port)
        for source, target in product([*pods, *outside], pods)
        for port in (*target.ports.values(), UNUSED_PORT)
        if cluster.lets_in(source, target, port)
    }
    names = {pod.name for pod in pods}
    assert found == {edge for edge in expected_edges(cluster, monkeypatch) if edge[1] in names}


def test_everybody_may_ask_for_names_and_nothing_else_of_other_namespaces(cluster: Cluster) -> None:
    for pod in cluster.pods():
        assert cluster.lets_out(pod, NAME_SERVER, 53, "UDP")
        assert cluster.lets_out(pod, NAME_SERVER, 53)
        neighbours = (INGRESS, PROMETHEUS, STRANGER)
        reached = [other for other in neighbours if cluster.lets_out(pod, other, UNUSED_PORT)]
        assert not reached, pod.name


@pytest.mark.parametrize("address", ["10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.169.254", "fd00::1"])
def test_what_leads_out_leads_to_no_private_network(production: Cluster, address: str) -> None:
    private = Endpoint("private", address=address)
    for name, workload in ours(production).items():
        assert not any(production.lets_out(workload.endpoint(), private, port) for port in WORLD_PORTS), name


def test_who_calls_whom_is_in_the_tables_of_callers(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    tabled = {
        (caller, service)
        for service, table in CALLERS.items()
        for methods in table.values()
        for callers in methods.values()
        for caller in callers
    }
    grpc_ports = {cluster.workloads[service].ports["grpc"] for service in SERVICES}
    edges = expected_edges(cluster, monkeypatch)
    assert {(caller, service) for caller, service, port in edges if port in grpc_ports} == tabled


def test_stripe_comes_straight_to_payments(cluster: Cluster) -> None:
    [rule] = cluster.of_kind("Ingress")["shop"]["spec"]["rules"]
    routes = {each["path"]: (each["pathType"], each["backend"]["service"]) for each in rule["http"]["paths"]}
    webhooks = {"name": "payments-webhooks", "port": {"name": "webhooks"}}
    assert routes == {
        "/api/webhooks/stripe": ("Exact", webhooks),
        "/": ("Prefix", {"name": "gateway", "port": {"name": "http"}}),
    }
    nobody: Any = SimpleNamespace(receive=health)
    served = create_app(nobody).routes
    assert "/api/webhooks/stripe" in {route.path for route in served if isinstance(route, Route)}
    assert cluster.behind("payments-webhooks", 8081) == [("payments", 8081)]
