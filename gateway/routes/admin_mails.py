"""Mails that are not known to be sent, and the operator's word about those in doubt or refused."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from gateway.backends import ORDERS_SECONDS
from gateway.openapi import BODY, PAGED, operator_problems
from gateway.routes.admin_payments import Because
from gateway.routing import OperatorRoute, backends_of, customer_of
from gateway.schemas import ApiModel, Cursor, Limit, MailKind, OrderId, as_time
from protos.orders.v1 import orders_pb2
from services.chassis.grpc_client import call

router = APIRouter(route_class=OperatorRoute, tags=["operators"])


class Mail(ApiModel):
    """`in_doubt`: the mail server may have taken it, but its answer was not heard, so that it is not sent
    again by itself; `handed` is such a mail in its first two minutes. `refused`: the mail server will never
    take it, `lastError` tells its answer. Its Message-ID begins with the order's
    id, a dot and the kind (a dot for its colon): by it the mail server's log can be searched."""

    order_id: str
    kind: str
    user_id: str
    status: Literal["waiting", "handed", "in_doubt", "refused", "sent"]
    attempts: int
    last_error: str | None
    created_at: datetime
    handed_at: datetime | None
    sent_at: datetime | None


class MailPage(ApiModel):
    items: list[Mail]
    next_cursor: str | None


@router.get(
    "/api/admin/mails",
    operation_id="listMails",
    responses=operator_problems(*PAGED, "invalid_request"),
)
async def list_mails(
    request: Request,
    status: Annotated[
        Literal["waiting", "handed", "in_doubt", "refused"] | None,
        Query(description="All that are not sent, when absent."),
    ] = None,
    limit: Limit = 20,
    cursor: Cursor = "",
) -> MailPage:
    """Mails that are not known to be sent, those of the oldest orders first."""
    answer = await call(
        backends_of(request).orders_operator.ListMails,
        orders_pb2.ListMailsRequest(status=status or "", limit=limit, cursor=cursor),
        timeout_seconds=ORDERS_SECONDS,
    )
    return MailPage(items=[_as_mail(mail) for mail in answer.items], next_cursor=answer.next_cursor or None)


@router.post(
    "/api/admin/orders/{orderId}/mails/{mail}/send-again",
    operation_id="sendMailAgain",
    responses=operator_problems(*BODY, "order_not_found", "mail_not_found", "mail_not_in_doubt"),
)
async def send_mail_again(request: Request, order_id: OrderId, mail: MailKind, body: Because) -> Mail:
    """Sends a mail that is in doubt or refused once more, under the same Message-ID: after a doubt the
    customer may have it twice."""
    return await _resolve(request, order_id, mail, orders_pb2.MAIL_RESOLUTION_SEND_AGAIN, body)


@router.post(
    "/api/admin/orders/{orderId}/mails/{mail}/delivered",
    operation_id="confirmMailDelivered",
    responses=operator_problems(*BODY, "order_not_found", "mail_not_found", "mail_not_in_doubt"),
)
async def confirm_mail_delivered(request: Request, order_id: OrderId, mail: MailKind, body: Because) -> Mail:
    """Says that the mail server did take a mail in doubt, or that a refused one is done with."""
    return await _resolve(request, order_id, mail, orders_pb2.MAIL_RESOLUTION_DELIVERED, body)


async def _resolve(
    request: Request, order_id: str, kind: str, resolution: orders_pb2.MailResolution.ValueType, body: Because
) -> Mail:
    answer = await call(
        backends_of(request).orders_operator.ResolveMail,
        orders_pb2.ResolveMailRequest(
            order_id=order_id,
            kind=kind,
            resolution=resolution,
            actor=customer_of(request).user_id,
            reason=body.reason,
        ),
        timeout_seconds=ORDERS_SECONDS,
    )
    return _as_mail(answer.mail)


def _as_mail(mail: orders_pb2.Mail) -> Mail:
    # orders tells the status as text: pydantic checks that it is one that this document names.
    told: dict[str, Any] = {"status": mail.status}
    return Mail(
        order_id=mail.order_id,
        kind=mail.kind,
        user_id=mail.user_id,
        attempts=mail.attempts,
        last_error=mail.last_error or None,
        created_at=as_time(mail.created_at),
        handed_at=as_time(mail.handed_at) if mail.HasField("handed_at") else None,
        sent_at=as_time(mail.sent_at) if mail.HasField("sent_at") else None,
        **told,
    )
