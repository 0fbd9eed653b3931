"""`aishop quarantine`: money that came and fits nothing, until an operator decides."""

from typing import Annotated, Literal
from uuid import UUID

import typer

from deploy.local.operator.actions import decide, show_newest
from deploy.local.operator.client import JSON
from deploy.local.operator.options import AsJson, Data, Limit, Reason, Stack
from deploy.local.operator.screen import print_table, time_cell

_PATH = "/api/admin/quarantine"

app = typer.Typer(no_args_is_help=True, help="Payments that fit nothing: list them, decide one.")

PaymentId = Annotated[UUID, typer.Argument(metavar="ID")]
Status = Annotated[
    Literal["parked", "fulfilled", "refunding", "refunded", "settled_outside", "written_off"] | None,
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
    payment: PaymentId,
    reason: Reason,
    points: Annotated[
        int | None, typer.Option("--points", help="What an invoice gives: nothing else says it.", min=1)
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="How it was paid, where Stripe does not say.")
    ] = None,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Give what was bought after all."""
    stated = {"points": points, "reference": reference}
    decide(_way(payment, "fulfil"), reason, _print, as_json=as_json, data=data, stack=stack, **stated)


@app.command()
def refund(
    payment: PaymentId, reason: Reason, as_json: AsJson = False, data: Data = None, stack: Stack = None
) -> None:
    """Give back what is due and still at Stripe."""
    decide(_way(payment, "refund"), reason, _print, as_json=as_json, data=data, stack=stack)


@app.command("settle-outside")
def settle_outside(
    payment: PaymentId,
    amount_cents: Annotated[int, typer.Option("--amount-cents", help="In minor units.", min=1)],
    reference: Annotated[str, typer.Option("--reference", help="The number of a transfer, say.")],
    reason: Reason,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """The customer got so much in another way; what is left stays parked."""
    how = {"amountCents": amount_cents, "reference": reference}
    way = _way(payment, "settle-outside")
    decide(way, reason, _print, as_json=as_json, data=data, stack=stack, **how)


@app.command("write-off")
def write_off(
    payment: PaymentId, reason: Reason, as_json: AsJson = False, data: Data = None, stack: Stack = None
) -> None:
    """The shop keeps what the customer is still due."""
    decide(_way(payment, "write-off"), reason, _print, as_json=as_json, data=data, stack=stack)


def _way(payment: UUID, how: str) -> str:
    return f"{_PATH}/{payment}/{how}"


def _print(found: list[JSON]) -> None:
    print_table(
        (
            "id",
            "status",
            "why parked",
            "amount",
            "due",
            "payment",
            "user",
            "would give",
            "since",
            "resolved by",
        ),
        (
            (
                parked["id"],
                parked["status"],
                parked["reason"],
                _amount(parked),
                str(parked["dueCents"]),
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
