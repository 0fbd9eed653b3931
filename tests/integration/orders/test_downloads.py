"""What a bought picture gives: grants, links, files, and how often; who is refused, and why."""

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from pydantic import SecretStr

from protos.orders.v1 import orders_pb2 as pb
from services.chassis.crypto import Keyring
from services.chassis.grpc_client import as_domain_error
from services.orders.links import Link, seal_link
from tests.integration.orders.shop import Shop
from tests.integration.wallet.client import KEY, refused

NOT_FOUND = grpc.StatusCode.NOT_FOUND
REJECTED = grpc.StatusCode.FAILED_PRECONDITION
ACTIVE = pb.DOWNLOAD_STATUS_ACTIVE


async def bought(shop: Shop, **product: Any) -> tuple[UUID, UUID, str]:
    """Who bought what, and the order."""
    product_id, user_id = await shop.product(**product), await shop.wallet.user(100)
    return user_id, product_id, (await shop.place(user_id, {product_id: 1})).id


async def counted(shop: Shop, order_id: str) -> tuple[int, int]:
    """Downloads left, and those written down."""
    [row] = await shop.sql(
        "SELECT downloads_left, (SELECT count(*) FROM downloads d WHERE d.grant_id = g.id) AS noted"
        " FROM download_grants g WHERE order_id = %s",
        order_id,
    )
    return row["downloads_left"], row["noted"]


async def set_grant(shop: Shop, order_id: str, change: str) -> None:
    await shop.sql(f"UPDATE download_grants SET {change} WHERE order_id = %s", order_id)


async def test_the_pivot_grants_a_download_for_each_picture_and_fulfils_the_order(shop: Shop) -> None:
    one, two, user_id = (
        await shop.product(),
        await shop.product(title="Ünder/..\\x"),
        await shop.wallet.user(200),
    )
    order = await shop.place(user_id, {one: 3, two: 1})
    assert order.fulfilled_at.seconds > 0
    row = await shop.row(order.id)
    assert (
        (row["version"], row["fulfilled_at"]) == (order.version, row["updated_at"]) == (2, row["updated_at"])
    )
    grants = await shop.downloads(user_id, order.id)
    assert [UUID(grant.product_id) for grant in grants] == sorted([one, two])
    for grant in grants:
        assert (grant.status, grant.downloads_left, grant.reissues_left) == (ACTIVE, 5, 3)
        assert grant.expires_at.seconds - order.fulfilled_at.seconds == 30 * 86_400
        assert 0 < grant.token_expires_at.seconds - order.fulfilled_at.seconds < 960


async def test_an_order_with_goods_is_fulfilled_by_its_shipment_and_gives_its_pictures_at_once(
    shop: Shop,
) -> None:
    picture, print_, user_id = (
        await shop.product(),
        await shop.product(type="physical"),
        await shop.wallet.user(200),
    )
    order = await shop.place(user_id, {picture: 1, print_: 1}, email="ada@example.com")
    assert not order.HasField("fulfilled_at")
    assert await shop.grants(order.id) == {picture: "active"}
    assert await shop.mails_sent(order.id) == {"receipt"}
    only_goods = await shop.place(await shop.wallet.user(200), {print_: 1}, email="ada@example.com")
    assert await shop.mails_sent(only_goods.id) == {"receipt"}
    assert await shop.grants(only_goods.id) == {}


async def test_the_file_arrives_whole_under_its_title(shop: Shop, assets: Path) -> None:
    content = os.urandom(300_001)
    (assets / "large.bin.png").write_bytes(content)
    user_id, _, order_id = await bought(shop, title='Wide "sea"/..\\\r\nX-Y: 1', asset_key="large.bin.png")
    head, received = await shop.download(user_id, await shop.token(user_id, order_id))
    assert received == content
    assert (head.size_bytes, head.content_type, head.url) == (len(content), "image/png", "")
    assert head.file_name == "Wide sea .. X-Y 1.png"
    assert await counted(shop, order_id) == (4, 1)


async def test_fifty_at_once_get_what_is_left_and_no_more(shop: Shop) -> None:
    user_id, _, order_id = await bought(shop)
    token = await shop.token(user_id, order_id)

    async def outcome() -> str:
        try:
            _, content = await shop.download(user_id, token)
        except grpc.aio.AioRpcError as error:
            return as_domain_error(error).reason
        return "file" if content else "nothing"

    outcomes = Counter(await asyncio.gather(*(outcome() for _ in range(50))))
    assert outcomes == {"file": 5, "DOWNLOADS_USED_UP": 45}
    assert await counted(shop, order_id) == (0, 5)
    assert await shop.token(user_id, order_id) == ""


async def test_a_request_that_is_sent_again_counts_once_even_when_it_took_the_last(shop: Shop) -> None:
    user_id, _, order_id = await bought(shop)
    await set_grant(shop, order_id, "downloads_left = 1")
    token, download_id = await shop.token(user_id, order_id), uuid4()
    both = await asyncio.gather(*(shop.download(user_id, token, download_id=download_id) for _ in range(2)))
    assert both[0] == both[1]
    assert await counted(shop, order_id) == (0, 1)
    await refused(shop.download(user_id, token), REJECTED, "DOWNLOADS_USED_UP")
    # The id of one download opens no other.
    other, _, others = await bought(shop)
    stolen = shop.download(other, await shop.token(other, others), download_id=download_id)
    await refused(stolen, NOT_FOUND, "DOWNLOAD_NOT_FOUND")
    assert await counted(shop, others) == (5, 0)


async def test_whoever_is_not_the_owner_hears_that_there_is_nothing(shop: Shop) -> None:
    user_id, product_id, order_id = await bought(shop)
    other = uuid4()
    token = await shop.token(user_id, order_id)
    await refused(shop.download(other, token), NOT_FOUND, "DOWNLOAD_NOT_FOUND")
    await refused(shop.downloads(other, order_id), NOT_FOUND, "ORDER_NOT_FOUND")
    await refused(shop.reissue(other, order_id, product_id), NOT_FOUND, "DOWNLOAD_NOT_FOUND")
    for wrong in (
        "",
        token[:-1],
        token + "A",
        token[:-2] + ("AA" if token[-2:] != "AA" else "BB"),
        "x" * 5000,
    ):
        await refused(shop.download(user_id, wrong), NOT_FOUND, "DOWNLOAD_NOT_FOUND")
    assert await counted(shop, order_id) == (5, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("status = 'revoked'", "DOWNLOAD_REVOKED"),
        ("status = 'suspended'", "DOWNLOAD_SUSPENDED"),
        ("expires_at = now()", "DOWNLOAD_EXPIRED"),
        ("generation = 2", "DOWNLOAD_EXPIRED"),
        ("downloads_left = 0", "DOWNLOADS_USED_UP"),
        ("status = 'revoked', downloads_left = 0, expires_at = now()", "DOWNLOAD_REVOKED"),
    ],
)
async def test_a_link_gives_nothing_once_its_grant_does_not(shop: Shop, change: str, reason: str) -> None:
    user_id, _, order_id = await bought(shop)
    token = await shop.token(user_id, order_id)
    await set_grant(shop, order_id, change)
    before = await counted(shop, order_id)
    await refused(shop.download(user_id, token), REJECTED, reason)
    assert await counted(shop, order_id) == before
    if "generation" not in change:
        assert await shop.token(user_id, order_id) == ""


async def test_a_refund_revokes_the_link_that_was_given_out(shop: Shop) -> None:
    user_id, product_id, order_id = await bought(shop)
    token = await shop.token(user_id, order_id)
    await shop.refund(order_id)
    await refused(shop.download(user_id, token), REJECTED, "DOWNLOAD_REVOKED")
    await refused(shop.reissue(user_id, order_id, product_id), REJECTED, "DOWNLOAD_REVOKED")


@pytest.mark.parametrize(("dispute", "status"), [("open", "suspended"), ("won", "active")])
async def test_a_grant_is_born_as_the_dispute_of_its_payment_says(
    shop: Shop, dispute: str, status: str
) -> None:
    """A trigger stands in for a dispute that is heard of before the payment."""
    product_id, user_id = await shop.product(), await shop.wallet.user(100)
    await shop.sql(
        "CREATE OR REPLACE FUNCTION disputed() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN NEW.dispute = '{dispute}'; RETURN NEW; END $$"
    )
    await shop.sql(
        "CREATE OR REPLACE TRIGGER disputed BEFORE INSERT ON orders FOR EACH ROW"
        f" WHEN (NEW.user_id = '{user_id}') EXECUTE FUNCTION disputed()"
    )
    try:
        order = await shop.place(user_id, {product_id: 1})
    finally:
        await shop.sql("DROP TRIGGER disputed ON orders")
    assert await shop.grants(order.id) == {product_id: status}


async def test_a_reissue_gives_count_and_time_again_voids_older_links_and_is_bounded(shop: Shop) -> None:
    user_id, product_id, order_id = await bought(shop)
    old = await shop.token(user_id, order_id)
    await set_grant(shop, order_id, "downloads_left = 0, expires_at = now()")
    key = str(uuid4())
    first = await shop.reissue(user_id, order_id, product_id, key=key)
    again = await shop.reissue(user_id, order_id, product_id, key=key)
    assert (
        (first.downloads_left, first.reissues_left) == (again.downloads_left, again.reissues_left) == (5, 2)
    )
    await refused(shop.download(user_id, old), REJECTED, "DOWNLOAD_EXPIRED")
    assert (await shop.download(user_id, again.token))[1]
    several = await asyncio.gather(
        *(shop.reissue(user_id, order_id, product_id) for _ in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(each, BaseException) for each in several) == 2
    await refused(shop.reissue(user_id, order_id, product_id), REJECTED, "REISSUES_USED_UP")
    await refused(shop.reissue(user_id, order_id, uuid4()), NOT_FOUND, "DOWNLOAD_NOT_FOUND")


async def test_a_file_that_cannot_be_read_is_unavailable_and_nothing_is_counted(shop: Shop) -> None:
    user_id, _, order_id = await bought(shop, asset_key="samples/nobody.png")
    token = await shop.token(user_id, order_id)
    await refused(shop.download(user_id, token), grpc.StatusCode.UNAVAILABLE, "FILE_UNAVAILABLE")
    assert await counted(shop, order_id) == (5, 0)


async def test_a_link_ends_when_it_says(shop: Shop) -> None:
    user_id, _, order_id = await bought(shop)
    [row] = await shop.sql("SELECT id FROM download_grants WHERE order_id = %s", order_id)
    keyring = Keyring(SecretStr(f"test:{KEY}"))
    for seconds, is_good in ((60, True), (-1, False)):
        link = Link(row["id"], 1, user_id, datetime.now(UTC) + timedelta(seconds=seconds))
        download = shop.download(user_id, seal_link(keyring, link))
        if is_good:
            assert (await download)[1]
        else:
            await refused(download, REJECTED, "DOWNLOAD_EXPIRED")
