"""`aishop mails`: mails that are not known to be sent, and what becomes of those in doubt."""

from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import typer

from deploy.local.operator.client import JSON, gateway_of, segment
from deploy.local.operator.options import AsJson, Data, Limit, Reason, Stack
from deploy.local.operator.screen import print_json, print_table, time_cell

_PATH = "/api/admin/mails"
_ORDERS = "/api/admin/orders"

app = typer.Typer(
    no_args_is_help=True,
    help="Mails that are not known to be sent: list them, decide about those in doubt.",
)

OrderId = Annotated[UUID, typer.Argument(metavar="ORDER")]
Kind = Annotated[str, typer.Argument(metavar="KIND", help="receipt, downloads, shipped or refund:ID.")]
Status = Annotated[
    Literal["waiting", "handed", "in_doubt"] | None,
    typer.Option("--status", help="in_doubt: it waits for a decision; all that are not sent, when absent."),
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
    with gateway_of(data, stack) as gateway:
        found = gateway.newest(_PATH, limit=limit, status=status)
    if as_json:
        print_json(found)
    else:
        _print(found)


@app.command("send-again")
def send_again(
    order: OrderId,
    kind: Kind,
    reason: Reason,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Send a mail in doubt once more: the customer may have it twice."""
    _resolve(order, kind, "send-again", reason, as_json=as_json, data=data, stack=stack)


@app.command()
def delivered(
    order: OrderId,
    kind: Kind,
    reason: Reason,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Say that the mail server did take a mail in doubt."""
    _resolve(order, kind, "delivered", reason, as_json=as_json, data=data, stack=stack)


def _resolve(
    order: UUID, kind: str, how: str, reason: str, *, as_json: bool, data: Path | None, stack: Path | None
) -> None:
    with gateway_of(data, stack) as gateway:
        mail = gateway.post(f"{_ORDERS}/{order}/mails/{segment(kind)}/{how}", {"reason": reason})
    if as_json:
        print_json(mail)
    else:
        _print([mail])


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
