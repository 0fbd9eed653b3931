"""`aishop timeline`: everything that happened to a user or an order: why was I charged?"""

from typing import Annotated
from uuid import UUID

import typer

from deploy.local.operator.client import JSON, gateway_of
from deploy.local.operator.options import AsJson, Data, OrderOption, Stack
from deploy.local.operator.screen import err, print_json, print_table, time_cell

_PATH = "/api/admin/timeline"


def timeline(
    user: Annotated[UUID | None, typer.Option("--user", help="The customer's id.")] = None,
    order: OrderOption = None,
    limit: Annotated[int, typer.Option("--limit", help="The newest so many.", min=1, max=500)] = 200,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Show what happened in every service, the oldest first, with trace ids. Exit 1 when a service could not
    be asked."""
    if (user is None) == (order is None):
        raise typer.BadParameter("give either --user or --order")
    with gateway_of(data, stack) as gateway:
        found = gateway.get(
            _PATH, userId=user and str(user), orderId=order and gateway.order_id(order), limit=limit
        )
    if as_json:
        print_json(found)
    else:
        _print(found["entries"])
    if found["unavailable"]:
        err.print(f"not asked, since away: {', '.join(found['unavailable'])}")
        raise typer.Exit(1)


def _print(entries: list[JSON]) -> None:
    print_table(
        ("when", "service", "what", "said", "order", "trace"),
        (
            (
                time_cell(entry["at"]),
                entry["service"],
                entry["kind"],
                entry["summary"],
                entry["orderId"],
                entry["traceId"],
            )
            for entry in entries
        ),
    )
