"""`aishop quarantine`: money that came and fits nothing, until an operator decides."""

from typing import Annotated, Literal
from uuid import UUID

import typer

from deploy.local.operator.actions import decide, show_newest
from deploy.local.operator.client import JSON
from deploy.local.operator.options import AsJson, Data, Limit, Reason, Stack
from deploy.local.operator.screen import print_table, time_cell

_PATH = "/api/admin/quarantine"

app = typer.Typer(no_args_is_help=True, help="Payments that fit nothing: list them, fulfil or refund one.")

PaymentId = Annotated[UUID, typer.Argument(metavar="ID")]
Status = Annotated[
    Literal["parked", "fulfilled", "refunding", "refunded"] | None,
    typer.Option("--status", help="parked: it waits for a decision."),
]


@app.command("list")
def list_quarantine(
    status: Status = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """List parked payments, the newest first."""
    show_newest(_PATH, _print, limit=limit, status=status, as_json=as_json, data=data, stack=stack)


@app.command()
def fulfil(
    payment: PaymentId, reason: Reason, as_json: AsJson = False, data: Data = None, stack: Stack = None
) -> None:
    """Give what was bought after all."""
    decide(_way(payment, "fulfil"), reason, _print, as_json=as_json, data=data, stack=stack)


@app.command()
def refund(
    payment: PaymentId, reason: Reason, as_json: AsJson = False, data: Data = None, stack: Stack = None
) -> None:
    """Give the money back."""
    decide(_way(payment, "refund"), reason, _print, as_json=as_json, data=data, stack=stack)


def _way(payment: UUID, how: str) -> str:
    return f"{_PATH}/{payment}/{how}"


def _print(found: list[JSON]) -> None:
    print_table(
        ("id", "status", "why parked", "amount", "payment", "user", "would give", "since", "resolved by"),
        (
            (
                parked["id"],
                parked["status"],
                parked["reason"],
                _amount(parked),
                parked["paymentIntentId"] or parked["invoiceId"] or parked["sessionId"],
                parked["userId"],
                _worth(parked),
                time_cell(parked["createdAt"]),
                parked["resolvedBy"],
            )
            for parked in found
        ),
    )


def _amount(parked: JSON) -> str:
    return f"{parked['amountCents']} {parked['currency']} (minor units)" if parked["currency"] else ""


def _worth(parked: JSON) -> str:
    if parked["orderId"]:
        return f"order {parked['orderId']}"
    return f"{parked['points']} points" if parked["points"] else ""
