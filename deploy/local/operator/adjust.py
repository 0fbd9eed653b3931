"""`aishop adjust`: gives or takes a customer's points, once, with a reason."""

from typing import Annotated
from uuid import UUID, uuid4

import typer

from deploy.local.operator.client import JSON, GatewayError, gateway_of
from deploy.local.operator.options import AsJson, Data, Reason, Stack
from deploy.local.operator.screen import out, print_json
from services.chassis.errors import Invalid
from services.chassis.idempotency_key import check_key

_PATH = "/api/admin/points/adjustments"


def _key(text: str) -> str:
    try:
        return check_key(text)
    except Invalid as error:
        raise typer.BadParameter(str(error)) from error


Key = Annotated[
    str | None,
    typer.Option(
        "--key", parser=_key, metavar="KEY", help="The Idempotency-Key: under one key it happens once."
    ),
]


def adjust(
    user: Annotated[UUID, typer.Option("--user", help="The customer's id.")],
    points: Annotated[int, typer.Option("--points", help="To give; negative to take.")],
    reason: Reason,
    key: Key = None,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Give or take points."""
    key = key or str(uuid4())
    with gateway_of(data, stack) as gateway:
        try:
            done = gateway.post(_PATH, {"userId": str(user), "points": points, "reason": reason}, key=key)
        except GatewayError as error:
            if error.outcome_unknown:
                raise GatewayError(f"{error}; repeat with --key {key}, and it happens once") from error
            raise
    if as_json:
        print_json(done)
    else:
        _print(done)


def _print(done: JSON) -> None:
    transaction, profile = done["transaction"], done["profile"]
    out.print(f"{transaction['amount']:+} points: transaction {transaction['id']}, seq {transaction['seq']}")
    out.print(
        f"now {profile['points']} points, {profile['pointsAvailable']} of them free,"
        f" {profile['pointsDebt']} owed"
    )
