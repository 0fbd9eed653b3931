"""ShipOrder of OrdersOperatorService: messages and arguments."""

import re

from protos.orders.v1 import orders_pb2 as pb
from services.chassis.errors import Invalid
from services.chassis.fields import as_text
from services.orders.commands.shipping import Shipment

_LONGEST_NAME = 100
_LONGEST_URL = 500
_WEB_ADDRESS = re.compile(r"https?://[^\s/\"<>]+(?:/[^\s\"<>]*)?")


def as_shipment(request: pb.ShipOrderRequest, *, actor: str, reason: str) -> Shipment:
    return Shipment(
        carrier=as_text(request.carrier, field="carrier", longest=_LONGEST_NAME),
        number=as_text(request.tracking_number, field="tracking_number", longest=_LONGEST_NAME),
        url=_web_address(request.tracking_url),
        actor=actor,
        reason=reason,
    )


def _web_address(url: str) -> str:
    """A customer clicks on it: it leads to the web and nowhere else. Empty: there is none."""
    text = as_text(url, field="tracking_url", longest=_LONGEST_URL, shortest=0)
    if text and not (_WEB_ADDRESS.fullmatch(text) and text.isprintable()):
        raise Invalid(
            "INVALID_FIELD", "tracking_url must begin with https:// or http://", field="tracking_url"
        )
    return text
