"""Our processes in an overlay, with their settings as their environment gives them."""

import os
import re

import pytest
from pydantic import SecretStr

from deploy.local.mailbox.settings import MailboxSettings
from deploy.local.parts import ROOT
from deploy.local.stripe_sandbox.settings import SandboxSettings
from deploy.postgres.settings import BootstrapSettings
from gateway.settings import GatewaySettings
from services.chassis.settings import MigrationSettings, ProcessSettings, SeedSettings
from services.orders.settings import OrdersSeedSettings, OrdersSettings
from services.payments.settings import Settings as PaymentsSettings
from services.wallet.settings import WalletSettings
from tests.support.cluster import Cluster, Workload

SETTINGS: dict[str, type[ProcessSettings]] = {
    "wallet": WalletSettings,
    "orders": OrdersSettings,
    "payments": PaymentsSettings,
    "gateway": GatewaySettings,
    "bootstrap": BootstrapSettings,
    "migrate-wallet": MigrationSettings,
    "migrate-orders": MigrationSettings,
    "migrate-payments": MigrationSettings,
    "seed-orders": OrdersSeedSettings,
    "seed-payments": SeedSettings,
    "stripe": SandboxSettings,
    "mailbox": MailboxSettings,
}
SERVICES = ("wallet", "orders", "payments")
PROCESSES = (*SERVICES, "gateway")
SANDBOX = ("stripe", "mailbox")
ONLY_IN_DEV = {"seed-orders", "seed-payments", *SANDBOX}


def ours(cluster: Cluster) -> dict[str, Workload]:
    return {name: each for name, each in cluster.workloads.items() if name in SETTINGS}


def settings_of(cluster: Cluster, workload: Workload, patch: pytest.MonkeyPatch) -> ProcessSettings:
    with patch.context() as inner:
        for name in os.environ:
            inner.delenv(name)
        for name, value in cluster.environment_of(workload).items():
            inner.setenv(name, value)
        return SETTINGS[workload.name]()


def values(settings: ProcessSettings) -> dict[str, str]:
    plain = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in plain.items()
        if isinstance(value, str | SecretStr)
    }


def port_of(listen: str) -> int:
    return int(listen.rpartition(":")[2])


def dockerfile_says(instruction: str) -> str:
    found = re.findall(rf"^{instruction}.*$", (ROOT / "deploy/images/Dockerfile").read_text(), re.MULTILINE)
    return str(found[-1])
