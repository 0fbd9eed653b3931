"""A new encryption key takes the place of an old one."""

import json
import subprocess
import sys
from typing import Any
from uuid import uuid4

import pytest
from nats.js import JetStreamContext

from tests.integration.wallet.client import KEY, Wallet, WalletProcess, connected

OLD = f"test:{KEY}"
NEW = "new:bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldyE"


def rekey(process: WalletProcess, keys: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what is told of the e-mails."""
    done = subprocess.run(
        [sys.executable, "-m", "services.wallet", "rekey", *arguments],
        env=process.environment(DATA_ENCRYPTION_KEYS=keys),
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = done.stderr.splitlines()
    return done.returncode, json.loads(line)


@pytest.fixture(autouse=True)
async def nobody_else_has_an_email(wallet: Wallet) -> None:
    """Other tests leave some that open nowhere."""
    await wallet.sql("UPDATE profiles SET email = NULL, email_hmac = NULL")


async def test_what_an_old_key_sealed_opens_with_the_new_one_alone(
    process: WalletProcess, wallet: Wallet, jetstream: JetStreamContext
) -> None:
    users = {uuid4(): f"{uuid4()}@example.com" for _ in range(3)}
    for user, email in users.items():
        await wallet.profile(user, email=email)
    try:
        code, told = rekey(process, f"{NEW},{OLD}", "--check")
        assert (code, told["sealed_again"], told["lost"]) == (1, 0, [])
        assert told["old"] >= len(users)
        code, told = rekey(process, f"{NEW},{OLD}")
        assert (code, told["sealed_again"], told["lost"]) == (0, told["old"], [])
        assert rekey(process, NEW, "--check")[0] == 0, "the old key can be thrown away"
        with process.running(DATA_ENCRYPTION_KEYS=NEW) as (_, address):
            later = await connected(process, address, jetstream)
            assert {user: (await later.profile(user)).email for user in users} == users
    finally:
        assert rekey(process, f"{OLD},{NEW}")[0] == 0
    assert {user: (await wallet.profile(user)).email for user in users} == users


async def test_a_value_that_no_key_opens_is_named_and_left_as_it_is(
    process: WalletProcess, wallet: Wallet
) -> None:
    user, moved_to = await wallet.user(), await wallet.user()
    for each in (user, moved_to):
        await wallet.profile(each, email=f"{each}@example.com")
    query = "SELECT email FROM profiles WHERE id = %s"
    ((sealed,),) = [row.values() for row in await wallet.sql(query, user)]
    await wallet.sql("UPDATE profiles SET email = %s WHERE id = %s", sealed, moved_to)
    try:
        code, told = rekey(process, f"{NEW},{OLD}")
        assert (code, told["lost"]) == (1, [str(moved_to)])
        assert [row["email"] for row in await wallet.sql(query, moved_to)] == [sealed]
    finally:
        rekey(process, f"{OLD},{NEW}")
        await wallet.sql("UPDATE profiles SET email = NULL, email_hmac = NULL WHERE id = %s", moved_to)
