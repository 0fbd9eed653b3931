"""Environment, secrets, ports and names of deploy/k8s against the settings that processes read."""

import pytest

from tests.contract.kubernetes.processes import (
    ONLY_IN_DEV,
    PROCESSES,
    SETTINGS,
    ours,
    port_of,
    settings_of,
    values,
)
from tests.support.cluster import Cluster, nats_values, walk

# Not ours: what their own images read.
FOREIGN = {"dev": {"postgres", "nats", "valkey"}, "production": {"valkey"}}


def test_every_workload_is_known_to_this_test(cluster: Cluster) -> None:
    ours_here = SETTINGS.keys() - (ONLY_IN_DEV if cluster.overlay == "production" else set())
    assert set(cluster.workloads) == ours_here | FOREIGN[cluster.overlay]


def test_each_variable_is_a_setting_and_no_setting_is_missing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, workload in ours(cluster).items():
        named = {each["name"] for each in workload.container["env"]}
        assert named <= {field.upper() for field in SETTINGS[name].model_fields}, name
        settings_of(cluster, workload, monkeypatch)


def test_whatever_can_be_scraped_or_counted_together_is_told_so(cluster: Cluster) -> None:
    for name in PROCESSES:
        given = cluster.environment_of(cluster.workloads[name])
        wanted = {"METRICS_LISTEN", "VALKEY_URL"} & {field.upper() for field in SETTINGS[name].model_fields}
        assert wanted <= given.keys(), name


def test_each_secret_is_drawn_and_each_drawn_is_used(cluster: Cluster) -> None:
    """What is missing is a KeyError of `environment_of`."""
    references = [each["secretKeyRef"] for each in walk(cluster.manifests) if "secretKeyRef" in each]
    if cluster.overlay == "production":
        references += [each["secretKeyRef"] for each in walk(nats_values()) if "secretKeyRef" in each]
        name = cluster.of_kind("Cluster")["postgres"]["spec"]["superuserSecret"]["name"]
        references += [{"name": name, "key": key} for key in ("username", "password")]
    used = {(each["name"], each["key"]) for each in references}
    drawn = {(name, key) for name, data in cluster.secrets.items() for key in data}
    # Who comes in by the password alone need not know the name, `postgres`.
    assert drawn - used <= {("postgres-superuser", "username")}
    optional = {(each["name"], each["key"]) for each in references if each.get("optional")}
    assert used - drawn <= optional


def test_each_service_knows_its_own_secrets_only(cluster: Cluster) -> None:
    for name, workload in ours(cluster).items():
        secrets = {each["name"] for each in walk(workload.manifest) if set(each) >= {"name", "key"}}
        service = name.rpartition("-")[2]
        allowed = {service, f"{service}-owner"} if name.startswith("migrate-") else {service}
        allowed |= {"postgres-admin", "postgres-roles"} if name == "bootstrap" else set()
        # The sandbox signs as Stripe does.
        allowed |= {"payments"} if name == "stripe" else set()
        assert secrets - set(cluster.of_kind("ConfigMap")) <= allowed, name


def test_each_line_of_the_shops_file_is_used(cluster: Cluster) -> None:
    [data] = [each["data"] for name, each in cluster.of_kind("ConfigMap").items() if name.startswith("shop-")]
    used = {each["configMapKeyRef"]["key"] for each in walk(cluster.manifests) if "configMapKeyRef" in each}
    assert data.keys() - {"SHOP_HOST"} == used


def test_a_file_of_the_version_before_is_enough(cluster: Cluster) -> None:
    references = [each["configMapKeyRef"] for each in walk(cluster.manifests) if "configMapKeyRef" in each]
    newer = {"SHOP_ID", "ALLOW_PROMOTION_CODES"}
    assert {each["key"] for each in references if each.get("optional")} == newer


def test_ports_are_those_that_the_settings_listen_at(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, workload in ours(cluster).items():
        listens = {
            field: value
            for field, value in values(settings_of(cluster, workload, monkeypatch)).items()
            if field.endswith("listen") and value
        }
        assert sorted(workload.ports.values()) == sorted(map(port_of, listens.values())), name
        assert all(value.startswith("0.0.0.0:") for value in listens.values()), name


def test_services_lead_to_ports_that_pods_have(cluster: Cluster) -> None:
    for name, service in cluster.of_kind("Service").items():
        for port in service["spec"]["ports"]:
            behind = cluster.behind(name, port["port"])
            assert [target for _, target in behind] == [port["port"]], name


def test_a_grpc_service_has_a_name_for_all_its_replicas(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [
        value
        for name in PROCESSES
        for field, value in values(settings_of(cluster, cluster.workloads[name], monkeypatch)).items()
        if field.endswith("_target")
    ]
    assert len(targets) == 5
    for target in targets:
        host, port = target.removeprefix("dns:///").split(":")
        assert target.startswith("dns:///")
        assert cluster.of_kind("Service")[host]["spec"]["clusterIP"] == "None"
        assert cluster.behind(host, int(port)) == [(host, int(port))]


def test_the_shop_has_one_host(production: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = production.of_kind("Ingress")["shop"]["spec"]
    [rule], [tls] = spec["rules"], spec["tls"]
    settings = settings_of(production, production.workloads["gateway"], monkeypatch)
    assert [rule["host"]] == tls["hosts"]
    assert values(settings)["shop_url"] == f"https://{rule['host']}"


def test_the_pictures_are_where_the_shop_looks(dev: Cluster) -> None:
    seed, orders = dev.workloads["seed-orders"], dev.workloads["orders"]
    store = {dev.environment_of(each)["ASSET_STORE_URL"] for each in (seed, orders)}
    assert store == {"file:///data"}
    for workload, is_read_only in ((seed, None), (orders, True)):
        [mount] = [each for each in workload.container["volumeMounts"] if each["name"] == "assets"]
        assert (mount["mountPath"], mount.get("readOnly")) == ("/data", is_read_only)
    claims = {each["claimName"] for each in walk(dev.manifests) if "claimName" in each}
    assert claims == set(dev.of_kind("PersistentVolumeClaim"))
