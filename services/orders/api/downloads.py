"""The downloads of OrdersService: messages and arguments."""

from collections.abc import AsyncGenerator

from protos.orders.v1 import orders_pb2 as pb
from services.chassis import idempotency
from services.chassis.fields import as_uuid
from services.orders.downloading import REISSUE_ROUTE, Downloads, Offered
from services.orders.queries.downloads import ACTIVE, REVOKED, SUSPENDED

_STATUSES = {
    ACTIVE: pb.DOWNLOAD_STATUS_ACTIVE,
    SUSPENDED: pb.DOWNLOAD_STATUS_SUSPENDED,
    REVOKED: pb.DOWNLOAD_STATUS_REVOKED,
}


async def list_downloads(downloads: Downloads, request: pb.ListDownloadsRequest) -> pb.ListDownloadsResponse:
    offered = await downloads.offered(
        user_id=as_uuid(request.user_id, field="user_id"),
        order_id=as_uuid(request.order_id, field="order_id"),
    )
    return pb.ListDownloadsResponse(items=[_as_grant(each) for each in offered])


async def reissue_download(
    downloads: Downloads, request: pb.ReissueDownloadRequest
) -> pb.ReissueDownloadResponse:
    renewed = await downloads.reissue(
        idempotency.Request(
            user_id=as_uuid(request.user_id, field="user_id"),
            route=REISSUE_ROUTE,
            key=idempotency.check_key(request.idempotency_key),
            request_hash=idempotency.hash_of(request, given=b""),
        ),
        order_id=as_uuid(request.order_id, field="order_id"),
        product_id=as_uuid(request.product_id, field="product_id"),
    )
    return pb.ReissueDownloadResponse(download=_as_grant(renewed))


async def download(
    downloads: Downloads, request: pb.DownloadRequest
) -> AsyncGenerator[pb.DownloadResponse, None]:
    async with downloads.deliver(
        user_id=as_uuid(request.user_id, field="user_id"),
        token=request.token,
        download_id=as_uuid(request.download_id, field="download_id"),
    ) as delivery:
        asset = delivery.asset
        yield pb.DownloadResponse(
            head=pb.DownloadResponse.Head(
                file_name=delivery.file_name,
                content_type=asset.content_type,
                size_bytes=asset.size_bytes,
                url=asset.url,
            )
        )
        async for chunk in asset.chunks:
            yield pb.DownloadResponse(chunk=chunk)


def _as_grant(offered: Offered) -> pb.DownloadGrant:
    grant = offered.grant
    message = pb.DownloadGrant(
        product_id=str(grant.product_id),
        title=grant.title,
        status=_STATUSES[grant.status],
        downloads_left=grant.downloads_left,
        reissues_left=grant.reissues_left,
        token=offered.token,
    )
    message.expires_at.FromDatetime(grant.expires_at)
    if offered.token_ends_at is not None:
        message.token_expires_at.FromDatetime(offered.token_ends_at)
    return message
