"""`aishop refunds`: what customers are owed since a refund came back, and how it is paid."""

from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from deploy.local.operator.actions import show_newest
from deploy.local.operator.adjust import Key
from deploy.local.operator.client import JSON, GatewayError, gateway_of
from deploy.local.operator.options import AsJson, Data, Limit, Order, Reason, Stack
from deploy.local.operator.screen import out, print_json, print_table, time_cell

_PATH = "/api/admin/refunds/owed"

app = typer.Typer(
    no_args_is_help=True,
    help="Money that customers are owed since a refund came back: list it, settle it, write it off."
    " (Another refund pays it, too: aishop refund.)",
)

Cents = Annotated[int, typer.Option("--cents", help="How much of what is owed.", min=1)]


@app.command()
def owed(limit: Limit = 20, as_json: AsJson = False, data: Data = None, stack: Stack = None) -> None:
    """List orders of which a customer is owed money, the oldest first."""
    show_newest(_PATH, _print, limit=limit, as_json=as_json, data=data, stack=stack)


@app.command()
def settle(
    order: Order,
    cents: Cents,
    reference: Annotated[str, typer.Option("--reference", help="How to find it: of a bank transfer, say.")],
    reason: Reason,
    key: Key = None,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Say that it was given to the customer outside of Stripe."""
    body = {"amountCents": cents, "reference": reference, "reason": reason}
    _decide(order, "settle", body, key, as_json=as_json, data=data, stack=stack)


@app.command("write-off")
def write_off(
    order: Order,
    cents: Cents,
    reason: Reason,
    key: Key = None,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Say that it is not given after all."""
    body = {"amountCents": cents, "reason": reason}
    _decide(order, "write-off", body, key, as_json=as_json, data=data, stack=stack)


def _decide(
    order: str,
    how: str,
    body: JSON,
    key: str | None,
    *,
    as_json: bool,
    data: Path | None,
    stack: Path | None,
) -> None:
    key = key or str(uuid4())
    with gateway_of(data, stack) as gateway:
        path = f"/api/admin/orders/{gateway.order_id(order)}/owed/{how}"
        try:
            decided = gateway.post(path, body, key=key)
        except GatewayError as error:
            if error.outcome_unknown:
                raise GatewayError(f"{error}; repeat with --key {key}, and it happens once") from error
            raise
    if as_json:
        print_json(decided)
    else:
        out.print(
            f"order {decided['id']} is {decided['status']}; {decided['owedCents']} cents are still owed"
        )


def _print(debts: list[JSON]) -> None:
    print_table(
        ("order", "customer", "owed", "promised", "currency", "since"),
        (
            (
                debt["orderId"],
                debt["userId"],
                debt["owedCents"],
                debt["promisedCents"],
                debt["currency"],
                time_cell(debt["changedAt"]),
            )
            for debt in debts
        ),
    )
