"""What the documents and the comments name is there."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.parts import ROOT
from gateway.settings import GatewaySettings
from services.chassis.settings import (
    MigrationSettings,
    ProcessSettings,
    RekeySettings,
    RepublishSettings,
    SeedSettings,
)
from services.orders.settings import OrdersSeedSettings, OrdersSettings
from services.payments.settings import Settings as PaymentsSettings
from services.wallet.settings import WalletSettings

KINDS: tuple[type[ProcessSettings], ...] = (
    *(GatewaySettings, WalletSettings, OrdersSettings, PaymentsSettings),
    *(MigrationSettings, RekeySettings, RepublishSettings, SeedSettings, OrdersSeedSettings),
)
# A path from the root, or the name of a module beside the one that names it.
PATH = re.compile(
    r"\b(?:services|gateway|deploy|tests|bench|docs|protos)/[\w./-]*\w\.(?:py|md|yml|yaml|proto|json)\b"
)
NAME = re.compile(r"(?<![\w./*-])(?:[a-z_]+/)?[a-z_]+\.py\b")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_is_documented(kind: type[ProcessSettings]) -> None:
    text = (ROOT / "docs/operate.md").read_text()
    assert [name for name in kind.model_fields if f"`{name.upper()}`" not in text] == []


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout: an installed tree names nothing")
    return listed.stdout.splitlines()


def paths_in(file: str) -> Iterator[str]:
    if Path(file).suffix in (".py", ".md", ".proto") and not file.endswith(("_pb2.py", "_pb2_grpc.py")):
        yield from PATH.findall((ROOT / file).read_text())


def names_in(file: str) -> Iterator[str]:
    if file.startswith(("services/", "gateway/", "deploy/")) and file.endswith(".py"):
        yield from (name for name in NAME.findall((ROOT / file).read_text()) if not name.startswith("_pb2"))


def is_near(name: str, file: str, files: list[str]) -> bool:
    """In the same service, or in the chassis; the chassis speaks of every service's files."""
    top = "gateway" if file.startswith("gateway/") else "/".join(file.split("/")[:2])
    places = ("services/",) if top == "services/chassis" else (f"{top}/", "services/chassis/")
    return any(f"/{each}".endswith(f"/{name}") and each.startswith(places) for each in files)


def test_every_file_that_a_document_or_a_comment_names_is_there() -> None:
    files = tracked()
    missing = [(file, name) for file in files for name in paths_in(file) if not (ROOT / name).exists()]
    missing += [(file, name) for file in files for name in names_in(file) if not is_near(name, file, files)]
    assert sorted(set(missing)) == []
