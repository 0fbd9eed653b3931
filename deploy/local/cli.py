"""The operator's command, `aishop`. Each command is one screen of code here and a module behind it.

A command loads what it needs when it is called: most of them are over before gRPC would be loaded.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.local import ports
from deploy.local.claim import StackError, clean_up, living_supervisor, recorded
from deploy.local.logfiles import log_tail, open_log
from deploy.local.operator import (
    adjust,
    dead_letters,
    debts,
    events,
    mails,
    quarantine,
    reconcile,
    refund,
    replay,
    sagas,
    stripe,
    timeline,
)
from deploy.local.operator.client import GatewayError
from deploy.local.stackfile import StackFile

if TYPE_CHECKING:
    from deploy.local.parts import RealStripe
    from deploy.local.supervisor import Options

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Run and operate AI Shop: a shop that sells digital images for points and by card.",
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


_POLL_SECONDS = 0.05
_STOP_SECONDS = 60.0

Data = Annotated[Path, typer.Option("--data", help="The stack's data folder.", file_okay=False)]
Stack = Annotated[
    Path | None, typer.Option("--stack", help="A stack.json instead of a data folder.", dir_okay=False)
]
Offset = Annotated[
    int,
    typer.Option("--port-offset", help="Added to every port.", min=0, max=ports.MAX_OFFSET),
]
_DATA = Path(".aishop")


def _origin(text: str) -> str:
    from gateway.origins import is_origin

    origin = text.rstrip("/")
    if not is_origin(origin):
        raise typer.BadParameter(f"{text!r} is no origin such as http://localhost:3000")
    return origin


Frontend = Annotated[
    str | None,
    typer.Option(
        "--frontend",
        metavar="URL",
        parser=_origin,
        help="Origin of a frontend of your own: it may ask from a browser, Stripe and mails lead to it.",
    ),
]


class Flow(StrEnum):
    """What `aishop bench` measures."""

    CHECKOUT = "checkout"
    WEBHOOKS = "webhooks"


@app.command()
def up(
    data: Data = _DATA,
    port_offset: Offset = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Return when everything is ready.")] = False,
    servers_only: Annotated[
        bool, typer.Option("--servers-only", help="Postgres, NATS and Valkey alone.")
    ] = False,
    frontend: Frontend = None,
    prepared: Annotated[bool, typer.Option("--prepared", hidden=True)] = False,
    for_parent: Annotated[bool, typer.Option("--for-parent", hidden=True)] = False,
) -> None:
    """Start the shop with everything it needs. Ctrl-C, or `aishop down`, stops it."""
    import asyncio

    from deploy.local.supervisor import Options, Supervisor

    supervisor = living_supervisor(data)
    if supervisor is not None:
        running = _stack_file(data)
        if running is None:
            raise StackError(f"supervisor pid {supervisor.pid} is starting or stopping the stack of {data}")
        out.print(f"already running: supervisor pid {supervisor.pid}, {running.gateway_url}")
        return
    options = Options(
        data=data,
        port_offset=port_offset,
        real_stripe=_real_stripe(),
        servers_only=servers_only,
        prepared=prepared,
        for_parent=for_parent,
        frontend=frontend,
    )
    if detach:
        _start_detached(options)
    else:
        asyncio.run(Supervisor(options, _report(data)).run())


@app.command()
def down(data: Data = _DATA) -> None:
    """Stop the shop of a data folder, detached or not."""
    supervisor = living_supervisor(data)
    if supervisor is not None:
        supervisor.end(how=signal.SIGTERM, grace_seconds=_STOP_SECONDS)
    ended = clean_up(data)
    if ended:
        out.print(f"ended what a killed supervisor had left: {', '.join(ended)}")
    out.print("stopped" if supervisor or ended else f"nothing runs in {data}")


@app.command()
def status(data: Data = _DATA, stack: Stack = None) -> None:
    """Show what runs, and where; exit 1 when nobody looks after it. With AISHOP_URL: does that one serve?"""
    url = os.environ.get("AISHOP_URL")
    if url and stack is None and data == _DATA:
        from deploy.local import elsewhere

        raise typer.Exit(elsewhere.status(url))
    folder = stack.parent if stack else data
    supervisor = living_supervisor(folder)
    file = _stack_file(stack or data)
    if supervisor is not None and file is None:
        out.print(f"supervisor pid {supervisor.pid} is starting or stopping")
        return
    file = file or StackFile.read(stack or data)
    processes = {"supervisor": supervisor} | recorded(folder)
    table = Table("part", "pid", "state", "address")
    for name, pid in file.pids.items():
        who = processes.get(name)
        if who is not None and who.is_alive():
            table.add_row(name, str(who.pid), "[green]runs[/]", _address(file, name))
        elif pid is not None or name in processes:
            table.add_row(name, "", "[red]down[/]", _address(file, name))
    out.print(table)
    if supervisor is None:
        err.print("[red]the supervisor is gone:[/] `aishop up` starts again, `aishop down` ends what it left")
        raise typer.Exit(1)


@app.command()
def token(
    user: Annotated[UUID, typer.Option("--user", help="The user's id.")],
    email: Annotated[str | None, typer.Option("--email", help="Receipts go there.")] = None,
    operator: Annotated[bool, typer.Option("--operator", help="May use /api/admin.")] = False,
    ttl_seconds: Annotated[int, typer.Option("--ttl-seconds", help="Valid so long.", min=1)] = 3600,
    data: Data = _DATA,
    stack: Stack = None,
) -> None:
    """Print a JWT for a customer, as Supabase would issue it."""
    from deploy.local import tokens

    secret = os.environ.get("AUTH_JWT_SECRET") or StackFile.read(stack or data).auth_jwt_secret
    out.print(
        tokens.mint(secret=secret, user_id=user, email=email, operator=operator, ttl_seconds=ttl_seconds),
        soft_wrap=True,
    )


@app.command()
def demo() -> None:
    """Buy points, spend them on an image, buy another by card; show every change in every database."""
    from deploy.local import demo as demonstration

    raise typer.Exit(demonstration.main())


@app.command()
def audit(
    data: Data = _DATA,
    stack: Stack = None,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON.")] = False,
    accept: Annotated[
        str, typer.Option("--accept", metavar="REASON", help="Accept what is found, for the audit log.")
    ] = "",
) -> None:
    """Check the invariants across the databases while the shop runs; exit 1 with what breaks them. Of a shop
    elsewhere: with WALLET_DATABASE_URL, ORDERS_DATABASE_URL and PAYMENTS_DATABASE_URL."""
    from deploy.local import audit as auditor
    from deploy.local import elsewhere

    is_local = stack is not None or data != _DATA
    urls = None if is_local else elsewhere.database_urls()
    urls = urls or StackFile.read(stack or data).database_urls
    raise typer.Exit(auditor.report(urls, as_json, accept=accept.strip()))


@app.command()
def bench(
    flow: Annotated[Flow, typer.Option("--flow", help="What is measured.")] = Flow.CHECKOUT,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers there.")] = None,
    orders: Annotated[int, typer.Option("--orders", help="How many checkouts.", min=100)] = 3000,
    events: Annotated[int, typer.Option("--events", help="Webhooks at full speed.", min=100)] = 2000,
    steady_events: Annotated[int, typer.Option("--steady-events", help="At 100 a second.", min=100)] = 1500,
    customers: Annotated[
        int, typer.Option("--customers", help="Customers, or connections, at once.", min=1, max=256)
    ] = 32,
) -> None:
    """checkout: orders per second and CPU per order over REST, beside pgbench writing the same rows.
    webhooks: from a signed delivery to points credited, at full speed and at 100 a second."""
    from bench import checkout, webhooks

    if flow is Flow.WEBHOOKS:
        raise typer.Exit(webhooks.main(events, steady_events, customers, json_file))
    raise typer.Exit(checkout.main(orders, customers, json_file))


# What operators do on any deployment, over REST.
app.command()(reconcile.reconcile)
app.add_typer(events.app, name="events")
app.command()(replay.replay)
app.add_typer(quarantine.app, name="quarantine")
app.command()(adjust.adjust)
app.command()(refund.refund)
app.add_typer(debts.app, name="refunds")
app.add_typer(sagas.app, name="sagas")
app.add_typer(mails.app, name="mails")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(stripe.app, name="stripe")
app.command()(timeline.timeline)


def _stack_file(path: Path) -> StackFile | None:
    """None when nothing is ready there; it goes away while we look when the stack stops."""
    try:
        return StackFile.read(path)
    except FileNotFoundError:
        return None


def _real_stripe() -> "RealStripe | None":
    """Stripe itself when its key is set. Without the webhook secret the shop runs, and refuses webhooks."""
    from deploy.local.parts import RealStripe

    key = os.environ.get("STRIPE_SECRET_KEY")
    if not key:
        return None
    secret = os.environ.get("STRIPE_WEBHOOK_SECRET")
    if not secret:
        err.print("[yellow]STRIPE_WEBHOOK_SECRET is not set:[/] webhooks are refused. Take it from")
        err.print("  stripe listen --forward-to 127.0.0.1:8081/api/webhooks/stripe --print-secret")
    return RealStripe(key, secret, os.environ.get("STRIPE_ACCOUNT_ID") or None)


def _start_detached(options: "Options") -> None:
    """The same command in a session of its own, with a log file and no pipe of ours."""
    from deploy.local.parts import ROOT, base_environment

    arguments = ["up", "--data", str(options.data.resolve()), "--port-offset", str(options.port_offset)]
    arguments += ["--servers-only"] * options.servers_only + ["--prepared"] * options.prepared
    arguments += ["--frontend", options.frontend] if options.frontend else []
    names = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_ACCOUNT_ID")
    stripe = {name: os.environ[name] for name in names if name in os.environ}
    with open_log(options.data, "supervisor") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "deploy.local.cli", *arguments],
            cwd=ROOT,
            env=base_environment() | stripe,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    while child.poll() is None:
        supervisor = living_supervisor(options.data)
        running = _stack_file(options.data)
        if supervisor is not None and supervisor.pid == child.pid and running is not None:
            out.print(f"ready: {running.gateway_url} (supervisor pid {child.pid})")
            return
        time.sleep(_POLL_SECONDS)
    raise StackError(f"the stack did not start:\n{log_tail(options.data, 'supervisor')}")


class _Running(Console):
    """Tells of a running stack, which runs on in silence where nobody reads: `aishop up | head`."""

    def on_broken_pipe(self) -> None:
        """Rich would end the process."""
        self.quiet = True
        # Python flushes what is left in its buffer when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(data: Path) -> Callable[[str], None]:
    began = time.monotonic()
    told = _Running(highlight=False)

    def report(event: str) -> None:
        try:
            told.print(f"[dim]{time.monotonic() - began:6.1f} s[/]  {event}")
            if event == "ready":
                _welcome(told, StackFile.read(data), data)
        except OSError:
            # A terminal that was closed.
            told.on_broken_pipe()

    return report


def _welcome(told: Console, file: StackFile, data: Path) -> None:
    told.print(f"\n  shop      {file.gateway_url}   (API: {file.gateway_url}/docs)")
    told.print(f"  stripe    {file.stripe_url}")
    told.print(f"  mailbox   {file.mailbox_url}")
    told.print("\n  a customer's token: aishop token --user $(python3 -c 'import uuid; print(uuid.uuid4())')")
    told.print(f"  Ctrl-C stops everything; the data stay in {data}\n")


def _address(file: StackFile, name: str) -> str:
    known = {
        "gateway": file.gateway_url,
        "stripe": file.stripe_url,
        "mailbox": file.mailbox_url,
        "nats": file.nats_url.rpartition("@")[2],
        "valkey": file.valkey_url.rpartition("@")[2],
        "postgres": file.database_urls["wallet"].rpartition("@")[2].partition("/")[0],
        **file.grpc,
    }
    return known.get(name, "")


def main() -> None:
    """Runs the command; what the user can mend is one clear message, not a traceback."""
    try:
        app()
    except (StackError, GatewayError, OSError, ValueError) as error:
        err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
