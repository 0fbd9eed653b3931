"""An overlay of deploy/k8s as a cluster would have it: pods, their environment, who may reach whom."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address, ip_network
from typing import Any

import yaml

from deploy.compose import environment
from deploy.k8s.manifests import FOLDER, STEPS, Manifest, render
from deploy.k8s.secrets import NAMESPACE, secrets

# What an operator gives to `python -m deploy.k8s.secrets production`.
GIVEN = {
    "STRIPE_SECRET_KEY": "rk_live_given",
    "STRIPE_WEBHOOK_SECRETS": f"whsec_{'given' * 7}",
    "SMTP_URL": "smtps://user:password@mail.example:465",
    "AUTH_JWT_SECRET": "",
}
_PRODUCTION = FOLDER / "overlays/production/foundation"
_POD_KINDS = ("Deployment", "StatefulSet", "Job")
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Endpoint:
    """Whoever may be at one end of a connection: a pod, or with an address something outside."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    namespace: str = NAMESPACE
    address: str = ""


@dataclass(frozen=True)
class Workload:
    """A Deployment, StatefulSet or Job."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.manifest["spec"]["template"]["metadata"]["labels"])

    @property
    def pod(self) -> dict[str, Any]:
        return dict(self.manifest["spec"]["template"]["spec"])

    @property
    def container(self) -> dict[str, Any]:
        [only] = self.pod["containers"]
        return dict(only)

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", ())}

    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, self.labels, self.ports)


class Cluster:
    """Everything that one overlay applies, with secrets as they are drawn for it."""

    def __init__(self, overlay: str) -> None:
        self.overlay = overlay
        self.manifests = [manifest for step in STEPS for manifest in render(overlay, step)]
        given = GIVEN if overlay == "production" else {}
        self.secrets = secrets(overlay, environment.variables() | given)
        self.workloads = {
            each["metadata"]["name"]: Workload(each) for each in self.manifests if each["kind"] in _POD_KINDS
        }

    def of_kind(self, kind: str) -> dict[str, Manifest]:
        return {each["metadata"]["name"]: each for each in self.manifests if each["kind"] == kind}

    @cached_property
    def stores(self) -> dict[str, Endpoint]:
        """What others than this overlay start in its namespace: by the operator and by the chart."""
        if self.overlay != "production":
            return {}
        postgres = self.of_kind("Cluster")["postgres"]["spec"]["inheritedMetadata"]["labels"]
        nats = nats_values()["podTemplate"]["merge"]["metadata"]["labels"]
        postgres_ports = {"postgres": 5432, "status": 8000, "metrics": 9187}
        nats_ports = {"nats": 4222, "cluster": 6222, "monitor": 8222, "prom-metrics": 7777}
        return {
            "postgres": Endpoint("postgres", postgres, postgres_ports),
            "nats": Endpoint("nats", nats, nats_ports),
        }

    def pods(self) -> list[Endpoint]:
        return [*(each.endpoint() for each in self.workloads.values()), *self.stores.values()]

    def behind(self, host: str, port: int) -> list[tuple[str, int]]:
        """The pods, with their own port, that answer at a Service's name; none when there is none."""
        # The operator and the chart make their Services themselves.
        made = {"postgres-rw": "postgres", "nats": "nats"}
        if made.get(host) in self.stores:
            return [(made[host], port)]
        service = self.of_kind("Service").get(host)
        if service is None:
            return []
        [target] = [each["targetPort"] for each in service["spec"]["ports"] if each["port"] == port]
        chosen = {"matchLabels": service["spec"]["selector"]}
        return [(pod.name, pod.ports[target]) for pod in self.pods() if selects(chosen, pod.labels)]

    def environment_of(self, workload: Workload) -> dict[str, str]:
        """KeyError for a Secret, a ConfigMap or a key that nobody makes."""
        resolved = ((each["name"], self._value(each)) for each in workload.container.get("env", ()))
        return {name: value for name, value in resolved if value is not None}

    def _value(self, entry: Mapping[str, Any]) -> str | None:
        if "value" in entry:
            return str(entry["value"])
        [(kind, reference)] = entry["valueFrom"].items()
        if kind == "secretKeyRef":
            data = self.secrets[reference["name"]]
            return data.get(reference["key"]) if reference.get("optional") else data[reference["key"]]
        assert kind == "configMapKeyRef"
        return str(self.of_kind("ConfigMap")[reference["name"]]["data"][reference["key"]] or "")

    def lets_out(self, source: Endpoint, target: Endpoint, port: int, protocol: str = "TCP") -> bool:
        """Whether the NetworkPolicies of `source` let it reach that port."""
        rules = self._rules(source, "Egress")
        return rules is None or any(
            _has_peer(rule.get("to"), target) and _has_port(rule.get("ports"), target, port, protocol)
            for rule in rules
        )

    def lets_in(self, source: Endpoint, target: Endpoint, port: int, protocol: str = "TCP") -> bool:
        """Whether the NetworkPolicies of `target` take connections of `source` at that port."""
        rules = self._rules(target, "Ingress")
        return rules is None or any(
            _has_peer(rule.get("from"), source) and _has_port(rule.get("ports"), target, port, protocol)
            for rule in rules
        )

    def _rules(self, end: Endpoint, direction: str) -> list[dict[str, Any]] | None:
        """None where no policy is about this end: then all is allowed."""
        specs = [each["spec"] for each in self.of_kind("NetworkPolicy").values()]
        chosen = [spec for spec in specs if _is_about(spec, end, direction)]
        return [rule for spec in chosen for rule in spec.get(direction.lower(), ())] if chosen else None


def nats_values() -> dict[str, Any]:
    return dict(yaml.safe_load((_PRODUCTION / "nats-values.yaml").read_text()))


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Of selectors what is used here; ValueError for anything else."""
    unknown = set(selector) - {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", ())
    if unknown or any(each["operator"] != "In" for each in expressions):
        raise ValueError(f"this reading of selectors knows too little: {selector}")
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(each["key"]) in each["values"] for each in expressions)


def _is_about(spec: Mapping[str, Any], end: Endpoint, direction: str) -> bool:
    is_pod = not end.address and end.namespace == NAMESPACE
    return is_pod and direction in spec["policyTypes"] and selects(spec["podSelector"], end.labels)


def _has_peer(peers: list[dict[str, Any]] | None, other: Endpoint) -> bool:
    return peers is None or any(_is_peer(peer, other) for peer in peers)


def _is_peer(peer: Mapping[str, Any], other: Endpoint) -> bool:
    if "ipBlock" in peer:
        return bool(other.address) and _is_within(peer["ipBlock"], other.address)
    if other.address:
        return False
    # Without a namespace's selector: the policy's own.
    own = {"matchLabels": {_NAMESPACE_LABEL: NAMESPACE}}
    namespaces = peer.get("namespaceSelector", own)
    pods = peer.get("podSelector", {})
    return selects(namespaces, {_NAMESPACE_LABEL: other.namespace}) and selects(pods, other.labels)


def _is_within(block: Mapping[str, Any], address: str) -> bool:
    outer, *holes = (ip_network(cidr) for cidr in (block["cidr"], *block.get("except", ())))
    place = ip_address(address)
    return place in outer and not any(place in hole for hole in holes)


def _has_port(ports: list[dict[str, Any]] | None, target: Endpoint, port: int, protocol: str) -> bool:
    if ports is None:
        return True
    return any(
        each.get("protocol", "TCP") == protocol and target.ports.get(each["port"], each["port"]) == port
        for each in ports
    )


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping inside."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)
