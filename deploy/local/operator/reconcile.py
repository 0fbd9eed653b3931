"""`aishop reconcile`: compares the shop with Stripe, and shows how far it is and what differed."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from deploy.local.operator.client import JSON, Gateway, GatewayError, gateway_of
from deploy.local.operator.options import AsJson, Data, Since, Stack
from deploy.local.operator.screen import err, out, print_json, print_table, time_cell

_RUNS = "/api/admin/reconciliations"
_POLL_SECONDS = 0.2
_GOES_ON = "it goes on in the background, and `aishop reconcile` follows it again"
# As shells count: 128 + SIGINT.
_INTERRUPTED = 130

Wait = Annotated[int, typer.Option("--wait", metavar="SECONDS", help="Follow the run so long.", min=1)]


def reconcile(
    since: Since = None,
    wait: Wait = 600,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Compare with Stripe and make up for lost webhooks; print what differed. From 24 hours ago on."""
    with gateway_of(data, stack) as gateway:
        run = gateway.post(_RUNS, {"since": since})
        try:
            run = _followed(_states(gateway, run, deadline=time.monotonic() + wait), silent=as_json)
        except GatewayError as error:
            raise GatewayError(f"{error} (the run is {run['id']}: {_GOES_ON})") from error
        except KeyboardInterrupt:
            err.print(f"the run is {run['id']}: {_GOES_ON}")
            raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        print_json(run)
    else:
        _print(run)


def _states(gateway: Gateway, run: JSON, *, deadline: float) -> Iterator[JSON]:
    """The run as it goes; the last one is done."""
    yield run
    while run["status"] != "done":
        if time.monotonic() > deadline:
            raise GatewayError(f"not done in time, {_progress(run)}")
        time.sleep(_POLL_SECONDS)
        run = gateway.get(f"{_RUNS}/{run['id']}")
        yield run


def _followed(states: Iterator[JSON], *, silent: bool) -> JSON:
    if silent:
        *_, last = states
        return last
    return _with_bar(states) if out.is_terminal else _with_lines(states)


def _with_bar(states: Iterator[JSON]) -> JSON:
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task("", total=100)
        for run in states:
            progress.update(task, completed=run["percent"], description=_progress(run))
    return run


def _with_lines(states: Iterator[JSON]) -> JSON:
    told = ""
    for run in states:
        line = f"{run['percent']:3} %  {_progress(run)}"
        if line != told:
            out.print(line)
        told = line
    return run


def _progress(run: JSON) -> str:
    counts = f"{run['eventsSeen']} events seen, {run['eventsMissing']} missing"
    return f"{counts}; the last try stopped: {run['error']}" if run["error"] else counts


def _print(run: JSON) -> None:
    if run["drift"]:
        print_table(("drift", "count"), ((drift["kind"], drift["count"]) for drift in run["drift"]))
    else:
        out.print("no drift")
    took = datetime.fromisoformat(run["finishedAt"]) - datetime.fromisoformat(run["startedAt"])
    out.print(f"events   {run['eventsSeen']} seen, {run['eventsMissing']} missing")
    out.print(f"objects  {run['objectsSeen']} seen, {run['objectsChanged']} changed")
    out.print(f"took     {took.total_seconds():.1f} s, for everything since {time_cell(run['since'])}")
