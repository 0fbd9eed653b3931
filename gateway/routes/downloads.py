"""The files of bought images: links for their owner, and the files themselves."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import uuid4

from fastapi import APIRouter, Path, Request, Response
from starlette.responses import RedirectResponse, StreamingResponse
from starlette.types import Message, Send

from gateway import idempotency
from gateway.backends import ORDERS_SECONDS
from gateway.lanes import DOWNLOADS_PATH
from gateway.load_shedding import DOWNLOAD_SECONDS
from gateway.openapi import KEYED, customer_problems
from gateway.routing import CustomerRoute, backends_of, customer_of
from gateway.schemas import ApiModel, OrderId, ProductId, as_time
from protos.orders.v1 import orders_pb2
from services.chassis.errors import OutcomeUnknown
from services.chassis.grpc_client import call, stream

router = APIRouter(route_class=CustomerRoute, tags=["downloads"])

DownloadStatus = Literal["active", "suspended", "revoked"]
STATUSES: dict[int, DownloadStatus] = {
    orders_pb2.DOWNLOAD_STATUS_ACTIVE: "active",
    orders_pb2.DOWNLOAD_STATUS_SUSPENDED: "suspended",
    orders_pb2.DOWNLOAD_STATUS_REVOKED: "revoked",
}
Token = Annotated[str, Path(description="The end of a download's `url`.")]

# A client that takes nothing for so long has gone, whatever its connection says; on the whole it takes as
# much as the setting demands.
_GRACE_SECONDS = 20.0
_PRIVATE = {"Cache-Control": "private, no-store"}
# A name as every client can read it; the whole one follows in UTF-8.
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._-]+")
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file, as an attachment.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    303: {"description": "Where the store gives the file out itself, for a moment."},
}


class Download(ApiModel):
    """`url` is a link of this customer alone, until `urlExpiresAt`; absent when nothing can be downloaded."""

    product_id: str
    title: str
    status: DownloadStatus
    downloads_left: int
    reissues_left: int
    expires_at: datetime
    url: str | None
    url_expires_at: datetime | None


class DownloadPage(ApiModel):
    items: list[Download]
    next_cursor: None = None


@router.get(
    "/api/orders/{orderId}/downloads",
    operation_id="listDownloads",
    responses=customer_problems("order_not_found"),
)
async def list_downloads(request: Request, order_id: OrderId) -> DownloadPage:
    """What the order gives to download, each with a fresh link."""
    answer = await call(
        backends_of(request).orders.ListDownloads,
        orders_pb2.ListDownloadsRequest(user_id=customer_of(request).user_id, order_id=order_id),
        timeout_seconds=ORDERS_SECONDS,
    )
    return DownloadPage(items=[_as_download(grant) for grant in answer.items])


@router.post(
    "/api/orders/{orderId}/downloads/{productId}/reissue",
    operation_id="reissueDownload",
    openapi_extra={"parameters": [idempotency.PARAMETER]},
    responses=customer_problems(
        *KEYED,
        "order_not_found",
        "product_not_found",
        "download_not_found",
        "download_revoked",
        "download_suspended",
        "reissues_used_up",
    ),
)
async def reissue_download(
    request: Request, response: Response, order_id: OrderId, product_id: ProductId
) -> Download:
    """A new count and a new time; links that were given out before are void."""
    key = idempotency.key_of(request)
    answer = await call(
        backends_of(request).orders.ReissueDownload,
        orders_pb2.ReissueDownloadRequest(
            user_id=customer_of(request).user_id,
            order_id=order_id,
            product_id=product_id,
            idempotency_key=key,
        ),
        timeout_seconds=ORDERS_SECONDS,
    )
    response.headers[idempotency.HEADER] = key
    return _as_download(answer.download)


@router.get(
    DOWNLOADS_PATH + "{token}",
    operation_id="download",
    response_class=Response,
    responses=_FILE
    | customer_problems(
        "download_not_found",
        "download_revoked",
        "download_suspended",
        "download_expired",
        "downloads_used_up",
        "file_unavailable",
    ),
)
async def download(request: Request, token: Token) -> Response:
    """The file; it counts, however much of it arrives."""
    messages = stream(
        backends_of(request).orders.Download,
        orders_pb2.DownloadRequest(
            user_id=customer_of(request).user_id, token=token, download_id=str(uuid4())
        ),
        timeout_seconds=DOWNLOAD_SECONDS,
    )
    try:
        first = await asyncio.wait_for(anext(messages), ORDERS_SECONDS)
    except TimeoutError as error:
        raise OutcomeUnknown("NO_ANSWER", "orders did not answer in time") from error
    head: orders_pb2.DownloadResponse.Head = first.head
    if head.url:
        await messages.aclose()
        return RedirectResponse(head.url, 303, _PRIVATE)
    return _File(
        head, messages, min_bytes_per_second=request.app.state.settings.min_download_bytes_per_second
    )


class _File(StreamingResponse):
    """The chunks as they come. Whoever goes away, or takes them too slowly on the whole, ends the stream
    behind it too."""

    def __init__(
        self,
        head: orders_pb2.DownloadResponse.Head,
        messages: AsyncGenerator[Any, None],
        *,
        min_bytes_per_second: int,
    ) -> None:
        headers = {
            **_PRIVATE,
            "Content-Length": str(head.size_bytes),
            "Content-Disposition": disposition(head.file_name),
        }
        super().__init__(_chunks(messages), headers=headers, media_type=head.content_type)
        self._messages = messages
        self._seconds_per_byte = 1 / min_bytes_per_second

    async def stream_response(self, send: Send) -> None:
        seconds_left = _GRACE_SECONDS

        async def send_in_time(message: Message) -> None:
            # Only the time that its reader takes: for ours nobody is to blame.
            nonlocal seconds_left
            began = time.monotonic()
            async with asyncio.timeout(seconds_left):
                await send(message)
            earned = len(message.get("body", b"")) * self._seconds_per_byte
            # What came fast is no leave to stand still for long.
            seconds_left = min(seconds_left - (time.monotonic() - began) + earned, _GRACE_SECONDS)

        async with aclosing(self._messages):
            await super().stream_response(send_in_time)


async def _chunks(messages: AsyncGenerator[Any, None]) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message.chunk


def disposition(file_name: str) -> str:
    """RFC 6266: an attachment, named plainly for old clients and in full for the others."""
    plain = _NOT_PLAIN.sub("_", file_name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"


def _as_download(grant: orders_pb2.DownloadGrant) -> Download:
    return Download(
        product_id=grant.product_id,
        title=grant.title,
        status=STATUSES[grant.status],
        downloads_left=grant.downloads_left,
        reissues_left=grant.reissues_left,
        expires_at=as_time(grant.expires_at),
        url=DOWNLOADS_PATH + grant.token if grant.token else None,
        url_expires_at=as_time(grant.token_expires_at) if grant.token else None,
    )
