"""Whoever changes an encryption key can see that every stored value opens, in every service."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from deploy.local.ephemeral import RunningStack
from deploy.local.parts import ROOT
from deploy.local.secret_store import load_or_draw
from deploy.postgres.roles import role
from tests.e2e.rest_client import Customer

NEW = "new:bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldyE"


@pytest.mark.parametrize(
    ("service", "columns"),
    [
        ("wallet", {"profiles.email"}),
        ("orders", {"orders.email"}),
        ("payments", {"checkouts.request", "stripe_events.payload"}),
    ],
)
async def test_every_sealed_value_opens_where_it_stands(
    stack: RunningStack, customer: Customer, service: str, columns: set[str]
) -> None:
    await customer.top_up()
    product = (await customer.read("/api/products"))["items"][0]
    bought = await customer.buy("points", items=[{"productId": product["id"], "quantity": 1}])
    assert bought.status_code == 201, bought.text

    secrets, login = load_or_draw(stack.data), role(service, "worker")
    address = stack.file.database_urls[service].rpartition("@")[2]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", f"services.{service}", "rekey", "--check"],
        env={
            "PATH": os.environ["PATH"],
            "DATABASE_WORKER_URL": f"postgresql://{login}:{secrets.role_passwords[login]}@{address}",
            "DATA_ENCRYPTION_KEYS": f"{NEW},{secrets.data_encryption_keys}",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    told = {line["column"]: line for line in map(json.loads, done.stderr.splitlines())}
    assert set(told) == columns
    for line in told.values():
        assert line["old"] > 0, line
        assert (line["sealed_again"], line["lost"]) == (0, [])
    assert done.returncode == 1, "all of it still needs the old key"
