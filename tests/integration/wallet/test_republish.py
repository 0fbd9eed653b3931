"""The command that publishes again what wallet's outbox holds."""

import subprocess
import sys
from uuid import uuid4

import pytest

from protos.events.v1 import events_pb2
from tests.integration.wallet.client import Wallet, WalletProcess


def republish(process: WalletProcess, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "services.wallet", "republish", *arguments],
        env=process.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


async def test_what_was_sent_since_a_time_is_sent_again(process: WalletProcess, wallet: Wallet) -> None:
    event = events_pb2.HoldOverdue(hold_id=str(uuid4()), order_id=str(uuid4()), user_id=str(uuid4()))
    emit = "INSERT INTO outbox (subject, payload) VALUES ('wallet.hold.overdue', %s) RETURNING id, created_at"
    [fact] = await wallet.sql(emit, event.SerializeToString())
    [sent] = await wallet.until(
        "SELECT sent_at FROM outbox WHERE id = %s AND sent_at IS NOT NULL", fact["id"]
    )
    done = republish(process, "--since", str(fact["created_at"]))
    assert done.returncode == 0, done.stderr
    assert "republish.done" in done.stderr
    await wallet.until("SELECT 1 FROM outbox WHERE id = %s AND sent_at > %s", fact["id"], sent["sent_at"])


@pytest.mark.parametrize("arguments", [[], ["--since", "yesterday"], ["--since", "2026-11-25T01:00:00"]])
def test_a_time_that_may_be_another_one_is_refused(process: WalletProcess, arguments: list[str]) -> None:
    done = republish(process, *arguments)
    assert done.returncode == 2
    assert "--since" in done.stderr
