"""`aishop sagas`: what drives orders: what waits, why, and what to do about it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from deploy.local.operator.actions import decide, show_newest
from deploy.local.operator.client import JSON, gateway_of, segment
from deploy.local.operator.options import AsJson, Data, Limit, Order, Reason, Stack
from deploy.local.operator.screen import out, print_json, print_table, time_cell

_PATH = "/api/admin/sagas"
_ORDERS = "/api/admin/orders"

app = typer.Typer(
    no_args_is_help=True, help="Sagas: list those that wait, show an order's, retry or compensate one."
)

Name = Annotated[str, typer.Argument(metavar="SAGA", help="Its name without the version.")]
Status = Annotated[
    Literal["running", "undoing", "done", "undone", "stuck"] | None,
    typer.Option("--status", help="Those that have not ended, when absent."),
]


@app.command("list")
def list_sagas(
    status: Status = None,
    saga: Annotated[str | None, typer.Option("--saga", help="A name, with or without version.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """List runs, those of the oldest orders first."""
    show_newest(_PATH, _print, limit=limit, status=status, saga=saga, as_json=as_json, data=data, stack=stack)


@app.command()
def show(order: Order, as_json: AsJson = False, data: Data = None, stack: Stack = None) -> None:
    """Show an order with its runs and refunds."""
    with gateway_of(data, stack) as gateway:
        found = gateway.get(f"{_ORDERS}/{gateway.order_id(order)}")
    if as_json:
        print_json(found)
        return
    shown = found["order"]
    out.print(f"order {shown['id']} of user {found['userId']}: {shown['status']}")
    _print(found["sagas"])
    if found["refunds"]:
        print_refunds(found["refunds"])


@app.command()
def retry(
    order: Order,
    saga: Name,
    reason: Reason,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Try a run again now; a stuck one goes on where it stood."""
    _decide(order, saga, "retry", reason, as_json=as_json, data=data, stack=stack)


@app.command()
def compensate(
    order: Order,
    saga: Name,
    reason: Reason,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Turn a run around that has not passed its pivot: the order ends, what it did is given back."""
    _decide(order, saga, "compensate", reason, as_json=as_json, data=data, stack=stack)


def _decide(
    order: str, saga: str, how: str, reason: str, *, as_json: bool, data: Path | None, stack: Path | None
) -> None:
    with gateway_of(data, stack) as gateway:
        path = f"{_ORDERS}/{gateway.order_id(order)}/sagas/{segment(saga)}/{how}"
    decide(path, reason, _print, as_json=as_json, data=data, stack=stack)


def _print(runs: list[JSON]) -> None:
    print_table(
        ("order", "saga", "status", "step", "tries", "last error", "undone for", "next try", "since"),
        (
            (
                run["orderId"],
                run["saga"],
                f"{run['status']}, driven now" if run["leased"] else run["status"],
                run["step"],
                run["attempts"],
                run["lastError"],
                run["undoReason"],
                time_cell(run["nextAttemptAt"]),
                time_cell(run["createdAt"]),
            )
            for run in runs
        ),
    )


def print_refunds(refunds: list[JSON]) -> None:
    print_table(
        ("refund", "status", "cents", "points", "pieces", "by", "reason", "failed for", "since"),
        (
            (
                refund["id"],
                refund["status"],
                refund["amountCents"] or None,
                refund["amountPoints"] or None,
                ", ".join(f"{item['quantity']} x {item['productId']}" for item in refund["items"]),
                refund["actor"],
                refund["reason"],
                refund["failureReason"],
                time_cell(refund["createdAt"]),
            )
            for refund in refunds
        ),
    )
