"""What a bought picture gives over REST, and to whom; shipments by operators."""

import asyncio
import re
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import JSON, Customer, until
from tests.e2e.test_rest_orders import line, product_of


async def bought(customer: Customer, product_id: str | None = None) -> str:
    await customer.top_up()
    item = {"productId": product_id, "quantity": 1} if product_id else line(await product_of(customer))
    answer = await customer.buy("points", items=[item])
    assert answer.json()["status"] == "completed"
    return str(answer.json()["orderId"])


async def only_download(customer: Customer, order_id: str) -> JSON:
    page = await customer.read(f"/api/orders/{order_id}/downloads")
    assert page["nextCursor"] is None
    [download] = page["items"]
    return dict(download)


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_the_buyer_gets_the_picture_and_nobody_else(
    customer: Customer, other: Customer, visitor: httpx.AsyncClient
) -> None:
    order_id = await bought(customer)
    assert (await customer.order(order_id))["fulfilledAt"] is not None
    download = await only_download(customer, order_id)
    assert (download["status"], download["downloadsLeft"], download["reissuesLeft"]) == ("active", 5, 3)
    file = await customer.http.get(download["url"])
    assert (file.status_code, file.headers["Content-Type"]) == (200, "image/png")
    assert file.content.startswith(b"\x89PNG")
    assert int(file.headers["Content-Length"]) == len(file.content)
    assert file.headers["Content-Disposition"].startswith(f'attachment; filename="{download["title"]}.png"')
    assert file.headers["Cache-Control"] == "private, no-store"
    assert file.headers["X-Content-Type-Options"] == "nosniff"
    assert problem(await visitor.get(download["url"])) == (401, "missing_token")
    assert problem(await other.http.get(download["url"])) == (404, "download_not_found")
    assert problem(await other.http.get(f"/api/orders/{order_id}/downloads")) == (404, "order_not_found")
    assert problem(await customer.http.get(download["url"][:-1])) == (404, "download_not_found")
    assert (await only_download(customer, order_id))["downloadsLeft"] == 4


async def test_twenty_at_once_get_five_and_a_reissue_gives_five_more(customer: Customer) -> None:
    order_id = await bought(customer)
    download = await only_download(customer, order_id)
    answers = await asyncio.gather(*(customer.http.get(download["url"]) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [403] * 15
    assert {answer.json()["code"] for answer in answers if answer.status_code == 403} == {"downloads_used_up"}
    empty = await only_download(customer, order_id)
    assert (empty["downloadsLeft"], empty["url"], empty["urlExpiresAt"]) == (0, None, None)
    path = f"/api/orders/{order_id}/downloads/{download['productId']}/reissue"
    key = {"Idempotency-Key": str(uuid4())}
    renewed = [await customer.http.post(path, headers=key) for _ in range(2)]
    assert [(answer.json()["downloadsLeft"], answer.json()["reissuesLeft"]) for answer in renewed] == [
        (5, 2)
    ] * 2
    assert problem(await customer.http.get(download["url"])) == (410, "download_expired")
    assert (await customer.http.get(renewed[1].json()["url"])).status_code == 200
    for _ in range(2):
        assert (await customer.http.post(path)).status_code == 200
    assert problem(await customer.http.post(path)) == (409, "reissues_used_up")
    nothing = f"/api/orders/{order_id}/downloads/{uuid4()}/reissue"
    assert problem(await customer.http.post(nothing)) == (404, "download_not_found")


async def test_a_grant_that_was_taken_away_says_so(stack: RunningStack, customer: Customer) -> None:
    order_id = await bought(customer)
    url = (await only_download(customer, order_id))["url"]
    for status, code in (("suspended", "download_suspended"), ("revoked", "download_revoked")):
        _sql(stack, "UPDATE download_grants SET status = %s WHERE order_id = %s", status, order_id)
        assert (await only_download(customer, order_id))["url"] is None
        assert problem(await customer.http.get(url)) == (403, code)
    # As the audit demands of an order that nothing was taken from.
    _sql(stack, "UPDATE download_grants SET status = 'active' WHERE order_id = %s", order_id)


async def test_a_client_that_goes_away_ends_the_file_and_frees_its_place(
    stack: RunningStack, customer: Customer
) -> None:
    product_id = _product(stack, "large.bin", type="digital")
    (stack.data / "assets" / "large.bin").write_bytes(bytes(64 << 20))
    order_id = await bought(customer, product_id)
    url = (await only_download(customer, order_id))["url"]
    for _ in range(3):
        async with customer.http.stream("GET", url) as answer:
            assert answer.status_code == 200
            await anext(answer.aiter_bytes(1024))
    deadline = time.monotonic() + 20
    while _readers(stack, "large.bin"):
        assert time.monotonic() < deadline, "orders still reads the file"
        await asyncio.sleep(0.05)
    assert (await only_download(customer, order_id))["downloadsLeft"] == 2


async def test_goods_are_shipped_by_an_operator_and_the_customer_is_told(
    stack: RunningStack, customer: Customer, operator: Customer
) -> None:
    order_id = await bought(customer, _product(stack, "none", type="physical"))
    assert (await customer.order(order_id))["fulfilledAt"] is None
    assert (await customer.read(f"/api/orders/{order_id}/downloads"))["items"] == []
    path = f"/api/admin/orders/{order_id}/shipment"
    body = {"carrier": "Post", "trackingNumber": "P-1", "trackingUrl": "https://post.test/P-1", "reason": "x"}
    assert problem(await customer.http.post(path, json=body)) == (403, "operator_only")
    bad = await operator.http.post(path, json=body | {"trackingUrl": "https://x y"})
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (422, "trackingUrl")
    shipped = [await operator.http.post(path, json=body) for _ in range(2)]
    assert shipped[0].json() == shipped[1].json()
    assert shipped[0].json()["trackingInfo"]["number"] == "P-1"
    assert (await customer.order(order_id))["fulfilledAt"] is not None
    told = (await operator.read(f"/api/admin/timeline?orderId={order_id}"))["entries"]
    traces = {entry["kind"]: entry["traceId"] for entry in told}
    assert traces["order.shipped"] == traces["mail.shipped"] == shipped[0].headers["X-Trace-Id"]
    other = await operator.http.post(path, json=body | {"trackingNumber": "P-2"})
    assert problem(other) == (409, "nothing_to_ship")

    async def mails() -> JSON:
        async with httpx.AsyncClient(trust_env=False) as http:
            query = {"to": f"{customer.user_id}@example.com"}
            return dict((await http.get(f"{stack.file.mailbox_url}/api/messages", params=query)).json())

    found = await until(mails, lambda page: len(page["items"]) == 2)
    assert {mail["messageId"].split(".")[1].partition("@")[0] for mail in found["items"]} == {
        "receipt",
        "shipped",
    }
    assert all("P-1" in mail["html"] for mail in found["items"] if "shipped" in mail["messageId"])
    [receipt] = [mail["html"] for mail in found["items"] if "receipt" in mail["messageId"]]
    [link] = re.findall(r'href="(\S+)"', receipt)
    page = await customer.http.get(link)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


def _sql(stack: RunningStack, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def _product(stack: RunningStack, asset_key: str, *, type: str) -> str:
    """Not on sale in the catalogue's first pages: inserted by hand, unlimited."""
    [(product_id,)] = _sql(
        stack,
        "WITH made AS (INSERT INTO products (title, type, price_cents, price_points, currency, asset_key)"
        " VALUES ('A test', %s, 900, 90, 'usd', %s) RETURNING id)"
        " INSERT INTO product_inventory (product_id) SELECT id FROM made RETURNING product_id",
        type,
        asset_key,
    )
    assert isinstance(product_id, UUID)
    return str(product_id)


def _readers(stack: RunningStack, name: str) -> int:
    """How often orders has a file open."""
    count = 0
    for link in Path(f"/proc/{stack.file.pids['orders']}/fd").iterdir():
        try:
            count += link.readlink().name == name
        except OSError:
            continue
    return count
