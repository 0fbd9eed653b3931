"""What pods run, may do and are asked, against the images, the compose file and how processes end."""

import importlib.util
from pathlib import Path

import pytest
import yaml
from starlette.routing import Route

from deploy import pki
from deploy.local.parts import ROOT
from gateway import __main__ as gateway_main
from gateway.routes import health
from gateway.settings import GatewaySettings
from services.chassis import bus, grpc_server, probe, trace_export
from services.chassis.settings import GrpcSettings, ProcessSettings
from services.chassis.transport import CALLER_SCHEME, TlsFiles
from services.payments import __main__ as payments_main
from tests.contract.kubernetes.processes import (
    PROCESSES,
    SANDBOX,
    SERVICES,
    SETTINGS,
    dockerfile_says,
    ours,
    settings_of,
)
from tests.support.cluster import Cluster, selects, walk


def test_images_and_commands_are_those_of_the_compose_file(cluster: Cluster) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, workload in cluster.workloads.items():
        image, there = workload.container["image"], compose[name]
        if name in SETTINGS:
            built = f"aishop/{there['build']['args']['SERVICE']}"
            assert image.partition(":")[0].removeprefix("registry.example.com/") == built, name
            assert workload.container.get("command") == there.get("command"), name
        else:
            assert image == there["image"], name


def test_commands_name_modules_that_are_there(cluster: Cluster) -> None:
    for name, workload in ours(cluster).items():
        if command := workload.container.get("command"):
            assert command[:2] == ["python", "-m"]
            assert importlib.util.find_spec(command[2]) is not None, name


def test_jobs_and_processes_are_of_one_release(cluster: Cluster) -> None:
    tags = {each.container["image"].rpartition(":")[2] for each in ours(cluster).values()}
    assert len(tags) == 1
    assert tags & {"", "latest"} == set()


def test_a_probe_asks_what_is_served(cluster: Cluster) -> None:
    healthcheck = yaml.safe_load(dockerfile_says("HEALTHCHECK").partition(" CMD ")[2])
    served = {route.path for route in health.router.routes if isinstance(route, Route)}
    for name in PROCESSES:
        workload = cluster.workloads[name]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = workload.container[kind]
            if name == "gateway":
                assert asked["httpGet"]["path"] in served
                assert asked["httpGet"]["port"] == "http"
            else:
                assert asked["exec"]["command"] == healthcheck
                # Else the kubelet ends the probe before it has waited for its answer.
                assert asked["timeoutSeconds"] > probe._SECONDS
    for name in cluster.workloads.keys() & SANDBOX:
        asked = cluster.workloads[name].container["readinessProbe"]["httpGet"]
        assert (asked["path"], asked["port"]) == ("/healthz", "http")


def test_a_service_away_takes_no_gateway_out(cluster: Cluster) -> None:
    """/readyz would: at every replica at once."""
    container = cluster.workloads["gateway"].container
    asked = {container[kind]["httpGet"]["path"] for kind in ("readinessProbe", "livenessProbe")}
    assert asked == {"/healthz"}


def test_no_pod_may_do_what_it_need_not(cluster: Cluster) -> None:
    user = int(dockerfile_says("USER").split()[1].partition(":")[0])
    for name, workload in cluster.workloads.items():
        pod, container = workload.pod, workload.container
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert pod["securityContext"]["runAsUser"] == user or name not in SETTINGS, name
        assert pod["securityContext"]["runAsUser"] != 0, name
        assert {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys() == set(), name
        assert {"requests", "limits"} <= container["resources"].keys(), name
    assert not [each for each in walk(cluster.manifests) if "hostPath" in each or "hostPort" in each]
    enforced = cluster.of_kind("Namespace")["aishop"]["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"


def test_each_process_has_an_account_of_its_own(cluster: Cluster) -> None:
    accounts = {name: cluster.workloads[name].pod["serviceAccountName"] for name in PROCESSES}
    assert accounts == {name: name for name in PROCESSES}
    assert set(cluster.of_kind("ServiceAccount")) == set(PROCESSES)


def drain_seconds(name: str, settings: ProcessSettings) -> float:
    """The longest that a process takes from SIGTERM to its end."""
    if isinstance(settings, GatewaySettings):
        return settings.drain_delay_seconds + gateway_main._STOP_SECONDS + trace_export._SEND_SECONDS
    http = payments_main._STOP_SECONDS if name == "payments" else 0
    # GrpcServer.stop waits for calls, then for what outlives them.
    return 2 * grpc_server._DRAIN_SECONDS + http + bus._FLUSH_SECONDS + trace_export._SEND_SECONDS


def test_nobody_is_killed_while_it_drains(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROCESSES:
        workload = cluster.workloads[name]
        before = workload.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = before + drain_seconds(name, settings_of(cluster, workload, monkeypatch))
        assert workload.pod["terminationGracePeriodSeconds"] > needed, name


def test_what_the_ingress_leads_to_outlives_its_hearing_of_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both doors stay open for a while after the kubelet has said that a pod goes."""
    gateway = settings_of(cluster, cluster.workloads["gateway"], monkeypatch)
    assert isinstance(gateway, GatewaySettings)
    assert gateway.drain_delay_seconds >= 5
    assert cluster.workloads["payments"].container["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5


def test_replicas_are_kept_apart_and_go_one_at_a_time(cluster: Cluster) -> None:
    for name in PROCESSES:
        workload, spec = cluster.workloads[name], cluster.workloads[name].manifest["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        assert spec["minReadySeconds"] > 0
        budget = cluster.of_kind("PodDisruptionBudget")[name]["spec"]
        assert budget["maxUnavailable"] == 1
        spread = workload.pod["topologySpreadConstraints"]
        assert {each["topologyKey"] for each in spread} == {
            *("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        }
        for selector in (budget["selector"], spec["selector"], *(each["labelSelector"] for each in spread)):
            chosen = [other.name for other in cluster.pods() if selects(selector, other.labels)]
            assert chosen == [name]


def test_production_has_two_of_everything(production: Cluster) -> None:
    for service in SERVICES:
        assert production.workloads[service].manifest["spec"]["replicas"] == 2
    scaler = production.of_kind("HorizontalPodAutoscaler")["gateway"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == "gateway"
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]
    # Else each `apply` would undo what the autoscaler did.
    assert "replicas" not in production.workloads["gateway"].manifest["spec"]


def test_each_process_has_a_certificate_in_its_name(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = cluster.of_kind("Certificate")
    authority = certificates.pop("aishop-authority")
    assert set(certificates) == set(PROCESSES) <= set(pki.PROCESSES)
    for name, certificate in certificates.items():
        spec, workload = certificate["spec"], cluster.workloads[name]
        assert spec["uris"] == [f"{CALLER_SCHEME}{name}"]
        assert spec["dnsNames"] == [name]
        assert set(spec["usages"]) == {"digital signature", "server auth", "client auth"}
        assert spec["privateKey"]["rotationPolicy"] == "Always"
        assert hours(spec["renewBefore"]) < hours(spec["duration"]) < hours(authority["spec"]["renewBefore"])
        [volume] = [each for each in workload.pod["volumes"] if each["name"] == "tls"]
        [mount] = [each for each in workload.container["volumeMounts"] if each["name"] == "tls"]
        assert volume["secret"] == {"secretName": spec["secretName"], "defaultMode": 0o440}
        # A file that is mounted by itself is never renewed.
        assert mount == {"name": "tls", "mountPath": "/tls", "readOnly": True}
        settings = settings_of(cluster, workload, monkeypatch)
        assert isinstance(settings, GrpcSettings)
        folder = Path(mount["mountPath"])
        assert settings.transport.files == TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


def hours(duration: str) -> int:
    return int(duration.removesuffix("h"))


def test_certificates_are_signed_by_an_authority_that_keeps_its_key(cluster: Cluster) -> None:
    issuers, certificates = cluster.of_kind("Issuer"), cluster.of_kind("Certificate")
    authority = certificates.pop("aishop-authority")["spec"]
    assert issuers["aishop"]["spec"] == {"ca": {"secretName": authority["secretName"]}}
    assert {each["spec"]["issuerRef"]["name"] for each in certificates.values()} == {"aishop"}
    assert issuers[authority["issuerRef"]["name"]]["spec"] == {"selfSigned": {}}
    assert authority["isCA"] is True
    assert authority["privateKey"]["rotationPolicy"] == "Never"
