"""`aishop mails`: mails that are not known to be sent, and what becomes of those in doubt or refused."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from deploy.local.operator.actions import decide, show_newest
from deploy.local.operator.client import JSON, gateway_of, segment
from deploy.local.operator.options import AsJson, Data, Limit, Order, Reason, Stack
from deploy.local.operator.screen import print_table, time_cell

_PATH = "/api/admin/mails"
_ORDERS = "/api/admin/orders"

app = typer.Typer(
    no_args_is_help=True,
    help="Mails that are not known to be sent: list them, decide about those in doubt or refused.",
)

Kind = Annotated[str, typer.Argument(metavar="KIND", help="receipt, shipped, refund:ID or returned:ID.")]
Status = Annotated[
    Literal["waiting", "handed", "in_doubt", "refused"] | None,
    typer.Option(
        "--status", help="in_doubt and refused wait for a decision; all that are not sent, when absent."
    ),
]


@app.command("list")
def list_mails(
    status: Status = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """List mails, those of the oldest orders first."""
    show_newest(_PATH, _print, limit=limit, status=status, as_json=as_json, data=data, stack=stack)


@app.command("send-again")
def send_again(
    order: Order,
    kind: Kind,
    reason: Reason,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Send a mail that is in doubt or refused once more: after a doubt the customer may have it twice."""
    _decide(order, kind, "send-again", reason, as_json=as_json, data=data, stack=stack)


@app.command()
def delivered(
    order: Order,
    kind: Kind,
    reason: Reason,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Say that the mail server did take a mail in doubt, or that a refused one is done with."""
    _decide(order, kind, "delivered", reason, as_json=as_json, data=data, stack=stack)


def _decide(
    order: str, kind: str, how: str, reason: str, *, as_json: bool, data: Path | None, stack: Path | None
) -> None:
    with gateway_of(data, stack) as gateway:
        path = f"{_ORDERS}/{gateway.order_id(order)}/mails/{segment(kind)}/{how}"
    decide(path, reason, _print, as_json=as_json, data=data, stack=stack)


def _print(mails: list[JSON]) -> None:
    print_table(
        ("order", "mail", "status", "tries", "last error", "handed", "since"),
        (
            (
                mail["orderId"],
                mail["kind"],
                mail["status"],
                mail["attempts"],
                mail["lastError"],
                time_cell(mail["handedAt"]),
                time_cell(mail["createdAt"]),
            )
            for mail in mails
        ),
    )
