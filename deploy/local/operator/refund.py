"""`aishop refund`: gives an order's points or money back, once, with a reason."""

from typing import Annotated
from uuid import UUID, uuid4

import typer

from deploy.local.operator.adjust import Key
from deploy.local.operator.client import JSON, GatewayError, gateway_of
from deploy.local.operator.options import AsJson, Data, Order, Reason, Stack
from deploy.local.operator.sagas import print_refunds
from deploy.local.operator.screen import print_json


def _item(text: str) -> JSON:
    product, _, quantity = text.partition("=")
    try:
        return {"productId": str(UUID(product)), "quantity": int(quantity or "1")}
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not PRODUCT=N") from error


def refund(
    order: Order,
    reason: Reason,
    item: Annotated[
        list[str] | None,
        typer.Option("--item", metavar="PRODUCT=N", help="These pieces; all that is left, when absent."),
    ] = None,
    return_stock: Annotated[bool, typer.Option("--return-stock", help="The pieces came back.")] = False,
    key: Key = None,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Give back what an order cost, or some of its pieces; carried out in the background."""
    key = key or str(uuid4())
    wanted: JSON = {"returnStock": return_stock, "reason": reason}
    if item:
        wanted["items"] = [_item(text) for text in item]
    with gateway_of(data, stack) as gateway:
        try:
            asked = gateway.post(f"/api/admin/orders/{gateway.order_id(order)}/refunds", wanted, key=key)
        except GatewayError as error:
            if error.outcome_unknown:
                raise GatewayError(f"{error}; repeat with --key {key}, and it happens once") from error
            raise
    if as_json:
        print_json(asked)
    else:
        print_refunds([asked])
