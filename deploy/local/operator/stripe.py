"""`aishop stripe`: which account of Stripe the shop works on.

Without the gateway: payments does not start on another account than the shop's, and so nobody answers. The
command writes to its database, like `migrate` and `rekey`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from deploy.local.operator.client import operator_id
from deploy.local.operator.options import Data, Reason, Stack
from deploy.local.parts import ROOT, base_environment
from deploy.local.stackfile import StackFile

app = typer.Typer(no_args_is_help=True, help="The account of Stripe that the shop works on.")

Live = Annotated[bool, typer.Option("--live", help="The live mode of the account; else its test mode.")]
_DATA = Path(".aishop")
_URL = "DATABASE_WORKER_URL"


@app.command("adopt-account")
def adopt_account(
    account: Annotated[str, typer.Argument(metavar="ACCT_ID")],
    reason: Reason,
    live: Live = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Make another account of Stripe the shop's: payments starts with its key from then on. Objects of the
    one before are nothing to it: open pages end when their time is over, without anybody knowing whether they
    were paid; subscriptions in live mode go on billing there until they are ended there."""
    if not account.startswith("acct_"):
        raise typer.BadParameter("an account's id begins with acct_")
    with _database(data, stack) as url:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "services.payments", "adopt-account"),
                *(account, "live" if live else "test", str(operator_id(os.getuid())), reason),
            ],
            cwd=ROOT,
            env=base_environment() | {_URL: url},
            check=False,
        )
    raise typer.Exit(done.returncode)


@contextmanager
def _database(data: Path | None, stack: Path | None) -> Iterator[str]:
    """payments' database: of the environment, of the stack that runs, or of one that is started for it."""
    if given := os.environ.get(_URL):
        yield given
        return
    folder = data or _DATA
    try:
        yield StackFile.read(stack or folder).database_urls["payments"]
    except FileNotFoundError:
        if stack is not None or not (folder / "secrets.json").exists():
            raise
        with _servers_of(folder) as file:
            yield file.database_urls["payments"]


@contextmanager
def _servers_of(folder: Path) -> Iterator[StackFile]:
    """The servers of a stack that is down: it does not come up while payments refuses its key."""
    command = [sys.executable, "-m", "deploy.local.cli"]
    where = ["--data", str(folder.resolve())]
    subprocess.run(
        [*command, "up", "--detach", "--servers-only", *where], cwd=ROOT, env=base_environment(), check=True
    )
    try:
        yield StackFile.read(folder)
    finally:
        subprocess.run([*command, "down", *where], cwd=ROOT, env=base_environment(), check=True)
