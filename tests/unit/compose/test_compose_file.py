"""docker-compose.yml against the code: settings, ports, logins, secrets, images, what a container may."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from deploy.compose import environment
from deploy.local import ports
from deploy.local.audit.settings import AuditSettings
from deploy.local.mailbox.settings import MailboxSettings
from deploy.local.parts import ROOT
from deploy.local.stripe_sandbox.settings import SandboxSettings
from deploy.pki import PROCESSES
from deploy.postgres.roles import HBA_KEEPS_OUT, role
from deploy.postgres.settings import BootstrapSettings
from gateway.settings import GatewaySettings
from services.chassis.settings import GrpcSettings, MigrationSettings, SeedSettings
from services.chassis.transport import TlsFiles
from services.orders.settings import OrdersSeedSettings, OrdersSettings
from services.payments.settings import Settings as PaymentsSettings
from services.wallet.settings import WalletSettings

FILE = ROOT / "docker-compose.yml"
SETTINGS: dict[str, type[BaseSettings]] = {
    "bootstrap": BootstrapSettings,
    "migrate-wallet": MigrationSettings,
    "migrate-orders": MigrationSettings,
    "migrate-payments": MigrationSettings,
    "seed-orders": OrdersSeedSettings,
    "seed-payments": SeedSettings,
    "wallet": WalletSettings,
    "orders": OrdersSettings,
    "payments": PaymentsSettings,
    "gateway": GatewaySettings,
    "stripe": SandboxSettings,
    "mailbox": MailboxSettings,
    "audit": AuditSettings,
}
# Not ours: what their own images read.
FOREIGN = {"postgres", "nats", "valkey", "prometheus", "grafana", "jaeger"}
IMAGES = {
    *("postgres:18-bookworm", "nats:2-alpine", "valkey/valkey:9-bookworm"),
    *("prom/prometheus:v3.5.0", "grafana/grafana:12.2.0", "jaegertracing/jaeger:2.10.0"),
}
LONG_RUNNING = {"wallet", "orders", "payments", "gateway", "stripe", "mailbox"}
# Written down empty, for whoever needs them.
OPTIONAL = {
    *("ALLOW_PROMOTION_CODES", "AUTH_ISSUER", "AUTH_JWKS_URL", "CORS_ORIGINS"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "TRUSTED_PROXIES"),
}
# Of no .env that was written before they came: it stays as it is when the shop is upgraded.
NEWER = {"SHOP_ID"}
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<word>[^}]*))?\}")
# What a customer or Stripe connects to, all on 127.0.0.1, by service.
PUBLISHED = {"gateway": "gateway", "payments": "webhooks", "stripe": "stripe", "mailbox": "mailbox"}


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return environment.variables()


@pytest.fixture(scope="module")
def services(written: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The services with every variable filled in as compose does."""
    filled = VARIABLE.sub(lambda found: _value(found, written), FILE.read_text())
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(filled)["services"]
    return loaded


def _value(found: re.Match[str], written: Mapping[str, str]) -> str:
    default = found["word"] if found["how"] == ":-" else ""
    return written.get(found["name"]) or default


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    return dict(service.get("environment", {}))


def settings_of(service: dict[str, Any], kind: type[BaseSettings], patch: pytest.MonkeyPatch) -> BaseSettings:
    for name in os.environ:
        patch.delenv(name)
    for name, value in environment_of(service).items():
        patch.setenv(name, value)
    return kind()


def test_every_service_is_known_to_this_test(services: dict[str, dict[str, Any]]) -> None:
    # pki takes no settings at all.
    assert set(services) == {*SETTINGS, *FOREIGN, "pki"}
    assert "environment" not in services["pki"]


@pytest.mark.parametrize("name", SETTINGS)
def test_each_variable_is_a_setting_and_no_setting_is_missing(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind = SETTINGS[name]
    known = {field.upper() for field in kind.model_fields}
    assert set(environment_of(services[name])) <= known
    settings_of(services[name], kind, monkeypatch)


@pytest.mark.parametrize("name", ["wallet", "orders", "payments", "gateway"])
def test_the_four_processes_speak_tls_with_their_own_certificates(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = settings_of(services[name], SETTINGS[name], monkeypatch)
    assert isinstance(settings, GrpcSettings)
    tls = Path("/tls")
    assert settings.transport.files == TlsFiles(tls / "tls.crt", tls / "tls.key", tls / "ca.crt")
    assert [each for each in services[name]["volumes"] if "/tls" in each] == [f"pki-{name}:/tls:ro"]
    issued = {volume.partition(":")[0] for volume in services["pki"]["volumes"]}
    assert issued == {f"pki-{process}" for process in (*PROCESSES, "authority")}


def test_targets_are_where_the_services_listen(services: dict[str, dict[str, Any]]) -> None:
    listening = {
        f"dns:///{name}:{environment_of(services[name])['GRPC_LISTEN'].rpartition(':')[2]}"
        for name in ("wallet", "orders", "payments")
    }
    assert listening == {f"dns:///{name}:{ports.DEFAULTS[name]}" for name in ("wallet", "orders", "payments")}
    targets = [
        (variable, value)
        for service in services.values()
        for variable, value in environment_of(service).items()
        if variable.endswith("_TARGET")
    ]
    assert len(targets) == 5
    for variable, value in targets:
        assert value in listening
        assert value.startswith(f"dns:///{variable.removesuffix('_TARGET').lower()}:")


def test_webhooks_and_the_sandbox_meet(services: dict[str, dict[str, Any]], written: dict[str, str]) -> None:
    listen = environment_of(services["payments"])["WEBHOOK_LISTEN"]
    url = f"http://payments:{listen.rpartition(':')[2]}/api/webhooks/stripe"
    assert environment_of(services["stripe"])["SANDBOX_WEBHOOK_URL"] == url
    port = environment_of(services["stripe"])["SANDBOX_LISTEN"].rpartition(":")[2]
    assert written["STRIPE_API_BASE"] == f"http://stripe:{port}"
    smtp = environment_of(services["mailbox"])["MAILBOX_SMTP_LISTEN"].rpartition(":")[2]
    assert written["SMTP_URL"] == f"smtp://mailbox:{smtp}"


@pytest.mark.parametrize("name", ["wallet", "orders", "payments"])
def test_a_service_has_its_own_logins_and_no_others(
    services: dict[str, dict[str, Any]], written: dict[str, str], name: str
) -> None:
    of = environment_of(services[name])
    for login, variable in {"app": "DATABASE_APP_URL", "worker": "DATABASE_WORKER_URL"}.items():
        password = written[f"{role(name, login).upper()}_PASSWORD"]
        assert of[variable] == f"postgresql://{role(name, login)}:{password}@postgres:5432/{name}"
    assert of["NATS_URL"] == f"nats://{name}:{written[f'NATS_{name.upper()}_PASSWORD']}@nats:4222"
    owner = environment_of(services[f"migrate-{name}"])["DATABASE_OWNER_URL"]
    assert owner.startswith(f"postgresql://{name}_owner:")
    others = {"wallet", "orders", "payments"} - {name}
    strange = [value for other in others for key, value in written.items() if key.startswith(other.upper())]
    assert not [value for value in of.values() if any(secret in value for secret in strange)]
    assert written["POSTGRES_PASSWORD"] not in str(of)


def test_valkey_is_where_the_gateway_counts(
    services: dict[str, dict[str, Any]], written: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey = f"valkey://:{written['VALKEY_PASSWORD']}@valkey:6379"
    assert environment_of(services["gateway"])["VALKEY_URL"] == valkey
    assert services["gateway"]["depends_on"]["valkey"] == {"condition": "service_healthy"}
    # Nobody is believed about addresses until somebody says so.
    for name in ("gateway", "payments"):
        settings = settings_of(services[name], SETTINGS[name], monkeypatch)
        assert settings.model_dump()["trusted_proxies"] == (), name


def test_valkey_and_the_pictures_are_where_orders_looks(
    services: dict[str, dict[str, Any]], written: dict[str, str]
) -> None:
    orders, seed = services["orders"], services["seed-orders"]
    valkey = f"valkey://:{written['VALKEY_PASSWORD']}@valkey:6379"
    assert environment_of(orders)["VALKEY_URL"] == valkey
    assert environment_of(services["valkey"]) == {"VALKEY_PASSWORD": written["VALKEY_PASSWORD"]}
    store = environment_of(orders)["ASSET_STORE_URL"]
    assert store == environment_of(seed)["ASSET_STORE_URL"] == "file:///data"
    assert "assets:/data:ro" in orders["volumes"]
    assert seed["volumes"] == ["assets:/data"]


def test_no_secret_has_a_default_and_each_variable_is_written(written: dict[str, str]) -> None:
    ways: dict[str | None, set[str]] = {":-": set(), ":?": set(), None: set()}
    for each in VARIABLE.finditer(FILE.read_text()):
        ways[each["how"]].add(each["name"])
    assert ways[":-"] == {
        *("GATEWAY_PORT", "WEBHOOK_PORT", "STRIPE_PORT", "MAILBOX_PORT", "GRAFANA_PORT"),
        *("JAEGER_PORT", "OTEL_TRACES_SAMPLER_ARG"),
        *("AISHOP_VERSION", "AISHOP_REVISION"),
        *NEWER,
        *OPTIONAL,
    }
    # Empty on purpose where Stripe itself is used, or where an identity provider publishes its keys.
    assert ways[None] == {"STRIPE_API_BASE", "AUTH_JWT_SECRET"}
    named = {"COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME", "AISHOP_VERSION"}
    assert ways[":?"] | ways[None] | named | NEWER | OPTIONAL == set(written)


def test_two_shops_share_no_secret(written: dict[str, str]) -> None:
    other = environment.variables()
    choices = {"COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME", "AISHOP_VERSION"}
    choices |= {"SHOP_URL", "STRIPE_API_BASE", "SMTP_URL", "MAIL_FROM", *OPTIONAL}
    assert {name for name in written if written[name] == other[name]} == choices
    drawn = [value for name, value in written.items() if name not in choices]
    assert len(set(drawn)) == len(drawn)
    assert not [value for value in drawn if len(value) < 30]
    # NATS takes a password that begins with a digit for a number.
    assert all(value[0].isalpha() for name, value in written.items() if name.endswith("_PASSWORD"))


def test_env_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    environment.write(path)
    before = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        environment.write(path)
    assert path.read_text() == before


def test_images_are_the_named_ones(services: dict[str, dict[str, Any]]) -> None:
    built = {
        name: service["build"]["args"]["SERVICE"] for name, service in services.items() if "build" in service
    }
    assert {services[name]["image"] for name in FOREIGN} == IMAGES
    assert {name: services[name]["image"] for name in built} == {
        name: f"aishop/{target}:dev" for name, target in built.items()
    }
    dockerfile = (ROOT / "deploy/images/Dockerfile").read_text()
    bases = {line.split()[1] for line in dockerfile.splitlines() if line.startswith("FROM ")}
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    assert bases - stages == {"python:3.13-slim-bookworm", "${SERVICE}"}
    assert set(built.values()) <= stages
    assert set(re.findall(r"^# syntax|<<", dockerfile, re.MULTILINE)) == set()


def test_containers_may_do_nothing_that_they_need_not(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert service["mem_limit"], name
        assert service["cpus"], name
        is_job = name not in {*LONG_RUNNING, *FOREIGN}
        assert service["restart"] == ("no" if is_job else "unless-stopped"), name
    assert [name for name, service in services.items() if "cap_add" in service] == ["postgres"]


def test_only_what_customers_and_stripe_reach_is_published(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published.pop("grafana") == ["127.0.0.1:3000:3000"]
    assert published.pop("jaeger") == ["127.0.0.1:16686:16686"]
    assert published == {
        name: [f"127.0.0.1:{ports.DEFAULTS[port]}:{ports.DEFAULTS[port]}"] for name, port in PUBLISHED.items()
    }
    for name in published:
        listens = [value for key, value in environment_of(services[name]).items() if key.endswith("LISTEN")]
        assert f"0.0.0.0:{ports.DEFAULTS[PUBLISHED[name]]}" in listens, name


def test_networks_allow_the_edges_of_the_design_and_no_others(services: dict[str, dict[str, Any]]) -> None:
    def sharing(name: str) -> set[str]:
        mine = set(services[name].get("networks", ()))
        return {other for other, service in services.items() if mine & set(service.get("networks", ()))} - {
            name
        }

    assert "postgres" not in sharing("gateway")
    assert "nats" not in sharing("gateway")
    assert sharing("valkey") == {"orders", "gateway"}
    assert sharing("postgres") & {"stripe", "mailbox", "grafana", "prometheus", "jaeger"} == set()
    assert "wallet" not in sharing("stripe")
    internal = yaml.safe_load(FILE.read_text())["networks"]
    assert {name for name, network in internal.items() if not network.get("internal")} == {"edge"}
    assert {name for name, service in services.items() if "edge" in service.get("networks", ())} == {
        *("gateway", "payments", "orders", "stripe", "mailbox", "grafana", "jaeger")
    }


def test_everything_starts_after_what_it_needs(services: dict[str, dict[str, Any]]) -> None:
    def waits_for(name: str) -> Iterator[tuple[str, str]]:
        for other, how in dict(services[name].get("depends_on", {})).items():
            yield other, how["condition"]
            yield from waits_for(other)

    for name in ("wallet", "orders", "payments"):
        needed = dict(waits_for(name))
        assert needed["postgres"] == needed["nats"] == "service_healthy"
        for job in ("pki", "bootstrap", f"migrate-{name}"):
            assert needed[job] == "service_completed_successfully"
    assert {"wallet", "orders", "payments", "seed-orders", "seed-payments"} <= dict(
        waits_for("gateway")
    ).keys()
    # Whoever has Stripe has no sandbox: nobody may wait for it.
    sandbox = {name for name, service in services.items() if service.get("profiles") == ["sandbox"]}
    assert sandbox == {"stripe", "mailbox"}
    for name in services:
        if name != "grafana":
            assert not sandbox & dict(waits_for(name)).keys(), name


def test_what_is_mounted_from_here_is_here(services: dict[str, dict[str, Any]]) -> None:
    mounted = {
        volume.partition(":")[0]: volume.split(":")[1]
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    }
    assert set(mounted) == {
        "./deploy/nats",
        "./deploy/postgres/pg_hba.conf",
        "./deploy/observability",
        *(f"./deploy/observability/grafana/{folder}" for folder in ("provisioning", "dashboards")),
    }
    assert all((ROOT / place).exists() for place in mounted)
    assert services["nats"]["command"] == ["-c", "/etc/nats/nats.conf"]
    # It ends a NATS that only a new start helps, which the restart policy gives it.
    assert services["nats"]["healthcheck"]["test"] == ["CMD", "sh", "/etc/nats/health.sh"]
    assert services["nats"]["restart"] == "unless-stopped"
    texts = [(ROOT / "deploy/nats" / name).read_text() for name in ("nats.conf", "accounts.conf")]
    assert set(re.findall(r"\$(NATS_\w+)", "".join(texts))) == set(environment_of(services["nats"]))


def test_prometheus_and_grafana_find_what_they_read(services: dict[str, dict[str, Any]]) -> None:
    folder = ROOT / "deploy/observability"
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job.get("dns_sd_configs") for job in config["scrape_configs"]}
    del jobs["prometheus"]
    for name, [of_dns] in jobs.items():
        port = environment_of(services[name])["METRICS_LISTEN"].rpartition(":")[2]
        assert (of_dns["names"], of_dns["type"], str(of_dns["port"])) == ([name], "A", port)
        assert int(port) == ports.DEFAULTS[f"{name} metrics"]
    assert set(jobs) == {"gateway", "wallet", "orders", "payments"}
    assert "--config.file=/etc/prometheus/prometheus.yml" in services["prometheus"]["command"]
    assert "./deploy/observability:/etc/prometheus:ro" in services["prometheus"]["volumes"]

    provisioning = folder / "grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert set(services["grafana"]["networks"]) & set(services["prometheus"]["networks"])
    [provider] = yaml.safe_load((provisioning / "dashboards/aishop.yml").read_text())["providers"]
    dashboards = "./deploy/observability/grafana/dashboards"
    assert f"{dashboards}:{provider['options']['path']}:ro" in services["grafana"]["volumes"]


def test_nothing_but_what_runs_gets_into_an_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert ignored[1] == "*"
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = re.findall(
        r"^COPY (?!--from)(\S+)", (ROOT / "deploy/images/Dockerfile").read_text(), re.MULTILINE
    )
    assert {path.split("/")[0] for path in copied} == allowed
    assert not json.dumps(sorted(allowed)).count(".env")


def test_the_shops_logins_are_kept_out_of_the_common_databases() -> None:
    postgres = yaml.safe_load(FILE.read_text())["services"]["postgres"]
    [mount] = [volume for volume in postgres["volumes"] if volume.endswith(".conf:ro")]
    source, target, _ = mount.split(":")
    assert f"hba_file={target}" in postgres["command"]
    lines = [line for line in (ROOT / source).read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == HBA_KEEPS_OUT
    cluster = ROOT / "deploy/k8s/overlays/production/foundation/postgres.yaml"
    assert yaml.safe_load(cluster.read_text())["spec"]["postgresql"]["pg_hba"] == [HBA_KEEPS_OUT]
