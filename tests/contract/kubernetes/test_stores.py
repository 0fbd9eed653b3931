"""What overlays say to the operator of Postgres and the chart of NATS; and what lint and `secrets` say."""

import re
import sys
from itertools import product
from pathlib import Path

import pytest

from deploy.k8s import check, secrets
from deploy.k8s.manifests import FOLDER, OVERLAYS, STEPS
from deploy.local.parts import ROOT
from services.chassis.settings import ServiceSettings
from tests.contract.kubernetes.processes import SERVICES, settings_of
from tests.support.cluster import Cluster, nats_values


def test_streams_are_on_every_server_of_the_cluster(
    production: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = nats_values()["config"]
    assert config["cluster"] == {"enabled": True, "replicas": 3}
    assert config["jetstream"]["merge"] == {"sync_interval": "always"}
    for service in SERVICES:
        settings = settings_of(production, production.workloads[service], monkeypatch)
        assert isinstance(settings, ServiceSettings)
        assert settings.nats_stream_replicas == config["cluster"]["replicas"]


def test_a_cluster_of_nats_has_the_accounts_that_were_tested() -> None:
    values = nats_values()
    accounts = (ROOT / "deploy/nats/accounts.conf").read_text()
    assert values["config"]["merge"]["00$include"] == "accounts.conf"
    assert set(re.findall(r"\$(NATS_\w+)", accounts)) == set(values["container"]["env"])


def test_a_nats_that_cannot_write_is_started_again(dev: Cluster) -> None:
    """Only the full check says so: with js-enabled-only it answers "ok" for ever."""
    probe = nats_values()["container"]["merge"]["livenessProbe"]
    assert probe["httpGet"] == {"path": "/healthz", "port": "monitor"}
    probe = dev.workloads["nats"].container["livenessProbe"]
    assert probe["exec"]["command"][-1] == "http://127.0.0.1:8222/healthz"
    assert probe["periodSeconds"] * probe["failureThreshold"] <= 30


def test_a_commit_is_on_two_servers_of_three(production: Cluster) -> None:
    spec = production.of_kind("Cluster")["postgres"]["spec"]
    assert spec["instances"] == 3
    assert spec["postgresql"]["synchronous"] == {
        "method": "any",
        "number": 1,
        "dataDurability": "required",
        "failoverQuorum": True,
    }


def test_all_replicas_together_leave_connections_over(
    production: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a rollout adds one of each; the rest is for jobs, the operator and people."""
    postgres = production.of_kind("Cluster")["postgres"]["spec"]["postgresql"]
    most = int(postgres["parameters"]["max_connections"])
    needed = 0
    for service in SERVICES:
        workload = production.workloads[service]
        settings = settings_of(production, workload, monkeypatch)
        assert isinstance(settings, ServiceSettings)
        pool = settings.database_pool_size
        surge = workload.manifest["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        # Of services/chassis/db.py: customers, workers; and the relay's own.
        needed += (workload.manifest["spec"]["replicas"] + surge) * (pool + max(2, pool // 2) + 1)
    assert needed <= most * 0.8


def test_steps_and_overlays_are_those_that_are_there() -> None:
    folders = {path.parent for path in FOLDER.glob("overlays/*/*/kustomization.yaml")}
    named = {FOLDER / "overlays" / overlay / step for overlay, step in product(OVERLAYS, (*STEPS, "version"))}
    assert folders == named


def test_a_field_that_kubernetes_does_not_know_is_found(production: Cluster) -> None:
    deployment = production.workloads["wallet"].manifest
    assert list(check.errors_of(deployment)) == []
    misspelt = deployment | {"spec": deployment["spec"] | {"minReadySecond": 10}}
    found = list(check.errors_of(misspelt))
    assert len(found) == len(check._VERSIONS)
    assert all("Deployment wallet" in each and "minReadySecond" in each for each in found)


def test_secrets_are_printed_as_kubernetes_takes_them(cluster: Cluster) -> None:
    printed = secrets.manifests(cluster.secrets)["items"]
    assert {each["metadata"]["name"] for each in printed} == set(cluster.secrets)
    for each in printed:
        assert list(check.errors_of(each)) == []
        assert each["metadata"]["namespace"] in cluster.of_kind("Namespace")


def test_where_kubectl_is_missing_one_is_told_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert check.main() == 1
    assert "kubectl is missing: `make setup`" in capsys.readouterr().err
