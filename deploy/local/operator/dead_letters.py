"""`aishop dead-letters`: messages that could not be handled, and what becomes of each."""

from typing import Annotated, Literal
from uuid import UUID

import typer

from deploy.local.operator.actions import decide, show_newest
from deploy.local.operator.client import JSON
from deploy.local.operator.options import AsJson, Data, Limit, Reason, Stack
from deploy.local.operator.screen import print_table, time_cell

_PATH = "/api/admin/dead-letters"

app = typer.Typer(
    no_args_is_help=True,
    help="Messages that could not be handled: list them, have one handled after all, drop one.",
)

Service = Annotated[
    Literal["orders", "wallet"], typer.Argument(metavar="SERVICE", help="orders or wallet, as listed.")
]
LetterId = Annotated[UUID, typer.Argument(metavar="ID")]


@app.command("list")
def list_dead_letters(
    limit: Limit = 20, as_json: AsJson = False, data: Data = None, stack: Stack = None
) -> None:
    """List those about which nothing is decided, the newest first."""
    show_newest(_PATH, _print, limit=limit, as_json=as_json, data=data, stack=stack)


@app.command()
def redeliver(
    service: Service,
    letter: LetterId,
    reason: Reason,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Have a message handled after all, once what was wrong is mended."""
    way = f"{_PATH}/{service}/{letter}/redeliver"
    decide(way, reason, _print, as_json=as_json, data=data, stack=stack)


@app.command()
def drop(
    service: Service,
    letter: LetterId,
    reason: Reason,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Say that a message will never be handled."""
    decide(f"{_PATH}/{service}/{letter}/drop", reason, _print, as_json=as_json, data=data, stack=stack)


def _print(found: list[JSON]) -> None:
    print_table(
        ("service", "id", "consumer", "subject", "message", "error", "since", "decision"),
        (
            (
                letter["service"],
                letter["id"],
                letter["consumer"],
                letter["subject"],
                letter["messageId"],
                letter["error"],
                time_cell(letter["createdAt"]),
                letter["decision"],
            )
            for letter in found
        ),
    )
