"""The audit finds what breaks an invariant, says which, and finds nothing while the shop is busy."""

import asyncio
import getpass
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from uuid import uuid4

import grpc
import httpx
import psycopg
import pytest
from pydantic import SecretStr

from deploy.local import audit
from deploy.local.audit.facts import EDGES
from deploy.local.ephemeral import RunningStack, wait_until
from deploy.local.parts import ROOT
from deploy.local.quiet import is_quiet
from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from protos.payments.v1 import payments_pb2, payments_pb2_grpc
from services.chassis.db import Database
from services.chassis.invariants import Books, Invariant
from services.orders.invariants import INVARIANTS as OF_ORDERS
from services.payments.invariants import INVARIANTS as OF_PAYMENTS
from services.wallet.invariants import INVARIANTS as OF_WALLET
from tests.e2e.rest_client import Customer, pay, sign_in, until
from tests.support.metrics import value
from tests.support.servers import Servers


@pytest.fixture(scope="module")
def stack(fresh_stack: Callable[[], AbstractContextManager[RunningStack]]) -> Iterator[RunningStack]:
    """A shop of its own: its books are falsified, one line at a time."""
    with fresh_stack() as running:
        yield running


@pytest.fixture(scope="module")
async def traded(stack: RunningStack) -> AsyncIterator[Customer]:
    """One who bought points, an image with points, and an image by card; and failed once."""
    async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as customer:
        await customer.top_up()
        image = (await customer.read("/api/products"))["items"][0]
        items = [{"productId": image["id"], "quantity": 1}]
        assert (await customer.buy("points", items=items)).status_code == 201
        assert (await customer.buy("points", items=[items[0] | {"quantity": 900}])).status_code == 402
        placed = (await customer.buy("stripe", items=items)).json()
        await pay(placed["url"])
        await until(lambda: customer.order(placed["orderId"]), lambda order: order["status"] == "completed")
        wait_until(lambda: is_quiet(stack.file.database_urls), seconds=30, what="quiet")
        yield customer


@pytest.fixture(scope="module")
async def paid(stack: RunningStack, traded: Customer) -> None:
    """Every kind of payment: whole, part of it back, disputed, parked, of an order, of a subscription."""
    await traded.top_up()
    await traded.top_up()
    url, headers = stack.file.stripe_url, {"Authorization": f"Bearer {stack.file.stripe_secret_key}"}
    with psycopg.connect(stack.file.database_urls["payments"]) as connection:
        rows = connection.execute("SELECT payment_intent_id FROM payments WHERE points > 0 ORDER BY id")
        intents = [intent for (intent,) in rows.fetchall()]
    ours = {"user_id": str(traded.user_id), "points_amount": "5", "checkout_id": str(uuid4())}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=15) as bank:
        back = await bank.post("/v1/refunds", data={"payment_intent": intents[0], "amount": "100"})
        disputed = await bank.post("/_control/disputes", json={"payment_intent": intents[1]})
        stray = await bank.post("/_control/payments", json={"amount": 500, "metadata": ours})
        assert all(answer.is_success for answer in (back, disputed, stray))
    async with grpc.aio.insecure_channel(stack.file.grpc["payments"]) as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        request = payments_pb2.CreateSubscriptionCheckoutRequest(
            user_id=str(traded.user_id), idempotency_key="monthly", plan_id="monthly"
        )
        await pay((await stub.CreateSubscriptionCheckout(request)).checkout.url)
    wait_until(lambda: _are_settled(stack), seconds=30, what="every payment settled")


def _are_settled(stack: RunningStack) -> bool:
    query = """
        SELECT (SELECT count(*) FROM refunds) = 1 AND (SELECT count(*) FROM disputes) = 1
            AND (SELECT count(*) FROM quarantine) = 1 AND (SELECT count(*) FROM invoices) = 1"""
    with psycopg.connect(stack.file.database_urls["payments"]) as connection:
        row = connection.execute(query).fetchone()
    return row == (True,) and is_quiet(stack.file.database_urls)


@pytest.fixture(scope="module")
async def given_back(stack: RunningStack, paid: None, traded: Customer) -> None:
    """A piece of a points order and of a card order came back to their shelf; both buyers have downloads. An
    operator found two more."""
    image = (await traded.read("/api/products"))["items"][0]
    items = [{"productId": image["id"], "quantity": 2}]
    by_points = (await traded.buy("points", items=items)).json()["orderId"]
    by_card = (await traded.buy("stripe", items=items)).json()
    page = await until(lambda: traded.order(by_card["orderId"]), lambda order: order["url"] is not None)
    await pay(page["url"])
    piece = [orders_pb2.CartLine(product_id=image["id"], quantity=1)]
    async with grpc.aio.insecure_channel(stack.file.grpc["orders"]) as channel:
        stub = orders_pb2_grpc.OrdersOperatorServiceStub(channel)
        for order_id in (by_points, by_card["orderId"]):
            await until(lambda: traded.order(order_id), lambda order: order["status"] == "completed")  # noqa: B023
            await stub.RefundOrder(
                orders_pb2.RefundOrderRequest(
                    order_id=order_id,
                    refund_id=str(uuid4()),
                    items=piece,
                    return_stock=True,
                    actor="operator",
                    reason="torn",
                )
            )
        await orders_pb2_grpc.CatalogOperatorServiceStub(channel).MoveStock(
            orders_pb2.MoveStockRequest(
                movement_id=str(uuid4()),
                product_id=image["id"],
                delta=2,
                reason=orders_pb2.STOCK_REASON_RECEIVED,
                actor="operator",
                note="found",
            )
        )
    query = "SELECT count(*) FROM refunds WHERE status = 'succeeded'"
    told = "SELECT count(*) FROM orders WHERE refunded_cents > 0"

    def is_settled() -> bool:
        with psycopg.connect(stack.file.database_urls["orders"]) as connection:
            counts = [connection.execute(each.encode()).fetchone() for each in (query, told)]
        return counts == [(2,), (1,)] and is_quiet(stack.file.database_urls)

    wait_until(is_settled, seconds=30, what="both refunds settled")


def look_after(stack: RunningStack, *changes: tuple[str, str]) -> set[audit.Finding]:
    """What one look finds once rows were changed behind the triggers' backs; nothing of it is committed."""
    with audit.snapshots(stack.file.database_urls) as databases:
        for connection in databases.connections.values():
            connection.read_only = False
        try:
            for database, change in changes:
                connection = databases.connections[database]
                connection.execute("SET LOCAL session_replication_role = replica")
                done = connection.execute(change.encode())
                assert done.rowcount > 0, "the falsification must hit a row"
            return {finding for check in audit.CHECKS for finding in check(databases)}
        finally:
            for connection in databases.connections.values():
                connection.rollback()


@contextmanager
def falsified(stack: RunningStack) -> Iterator[None]:
    """For everyone to see, and taken back: wallet's grants are one point too high."""
    with psycopg.connect(stack.file.database_urls["wallet"], autocommit=True) as connection:
        connection.execute("UPDATE grants SET net_points = net_points + 1")
        try:
            yield
        finally:
            connection.execute("UPDATE grants SET net_points = net_points - 1")


async def test_honest_books_are_in_order(stack: RunningStack, traded: Customer) -> None:
    assert audit.audit(stack.file) == []
    assert audit.main(stack.file, as_json=True) == 0


@pytest.mark.parametrize(
    ("database", "change", "invariant"),
    [
        ("wallet", "UPDATE profiles SET points = points + 1", "I1"),
        ("wallet", "UPDATE points_transactions SET amount = amount + 1 WHERE type = 'purchase'", "I1"),
        ("wallet", "UPDATE points_transactions SET description = 'a gift'", "I1"),
        ("wallet", "DELETE FROM points_transactions WHERE seq = 2", "I1"),
        ("wallet", "UPDATE grants SET net_points = net_points + 1", "I1"),
        ("wallet", "UPDATE profiles SET points_held = 1", "I2"),
        ("wallet", "UPDATE holds SET status = 'held' WHERE status = 'captured'", "I3"),
        ("wallet", "UPDATE holds SET points = points + 1 WHERE status = 'captured'", "I3"),
        ("wallet", "DELETE FROM holds WHERE status = 'captured'", "I5"),
        ("orders", "UPDATE orders SET total_points = total_points + 1 WHERE total_points > 0", "I5"),
        ("orders", "UPDATE order_items SET price_cents = price_cents + 1", "I5"),
        (
            "orders",
            "UPDATE orders SET status = 'failed', failure_reason = 'x' WHERE status = 'completed'",
            "I5",
        ),
        ("orders", "DELETE FROM orders WHERE payment_method = 'points' AND status = 'completed'", "I5"),
        ("payments", "DELETE FROM payments", "I5"),
        ("payments", "UPDATE payments SET amount_cents = 1", "I5"),
        ("orders", "UPDATE product_inventory SET stock_quantity = stock_quantity + 1", "I9"),
        ("orders", "DELETE FROM stock_movements WHERE reason = 'sold'", "I9"),
        ("orders", "UPDATE product_inventory SET reserved_quantity = 1 WHERE stock_quantity > 0", "I9"),
        ("orders", "UPDATE stock_reservations SET status = 'held' WHERE status = 'taken'", "I9"),
        ("orders", "UPDATE stock_reservations SET quantity = quantity + 1 WHERE status = 'taken'", "I9"),
    ],
)
async def test_falsified_books_are_seen(
    stack: RunningStack, traded: Customer, database: str, change: str, invariant: str
) -> None:
    assert invariant in {finding.invariant for finding in look_after(stack, (database, change))}


_TOLD = "subject = 'payments.points.grant_changed'"


@pytest.mark.parametrize(
    ("database", "change", "what"),
    [
        *(
            ("payments", change, "a paid checkout has not exactly its payment")
            for change in (
                "DELETE FROM payments WHERE order_id IS NOT NULL",
                "UPDATE payments SET points = points + 1 WHERE checkout_id IS NOT NULL AND points > 0",
                "UPDATE payments SET user_id = uuidv7() WHERE order_id IS NOT NULL",
                "UPDATE payments SET standing = 'quarantined' WHERE order_id IS NOT NULL",
            )
        ),
        *(
            ("payments", change, "a paid invoice has not exactly its payments")
            for change in (
                "DELETE FROM payments WHERE invoice_id IS NOT NULL",
                "UPDATE invoices SET amount_paid_cents = amount_paid_cents + 1",
            )
        ),
        (
            "payments",
            "UPDATE checkouts SET status = 'open', payment_intent_id = NULL WHERE order_id IS NOT NULL",
            "a payment was fulfilled as nothing that was paid",
        ),
        *(
            ("payments", change, "a payment and its place in the quarantine do not match")
            for change in (
                "DELETE FROM quarantine",
                "DELETE FROM payments WHERE standing = 'quarantined'",
                "UPDATE quarantine SET status = 'fulfilled', resolved_at = now()",
                "UPDATE payments SET standing = 'fulfilled', grant_source = 'x' WHERE amount_cents = 500",
            )
        ),
        (
            "payments",
            "UPDATE quarantine SET status = 'refunded', resolved_at = now()",
            "what was settled in the quarantine is still due",
        ),
        *(
            ("payments", change, "a paid invoice has not exactly its payments")
            for change in (
                "UPDATE invoices SET amount_paid_cents = amount_paid_cents - 1",
                "UPDATE payments SET amount_cents = amount_cents - 1 WHERE invoice_id IS NOT NULL",
                "UPDATE invoices SET user_id = uuidv7()",
            )
        ),
        ("payments", "UPDATE invoices SET points = points + 1", "wallet was not told of a net of 301 points"),
        (
            "payments",
            "UPDATE payments SET order_id = uuidv7() WHERE order_id IS NOT NULL",
            "a paid checkout has not exactly its payment",
        ),
        (
            "orders",
            "DELETE FROM orders WHERE payment_method = 'stripe'",
            "an order was paid that is not there",
        ),
        (
            "payments",
            "UPDATE payments SET order_id = uuidv7() WHERE order_id IS NOT NULL",
            "an order was paid that is not there",
        ),
        (
            "orders",
            "UPDATE orders SET user_id = uuidv7() WHERE payment_method = 'stripe'",
            "an order was paid by another customer",
        ),
        *(
            ("payments", change, "what was refunded or asked back is not the sum of the refunds")
            for change in (
                "DELETE FROM refunds",
                "UPDATE refunds SET status = 'failed'",
                "UPDATE refunds SET is_ours = true",
                "UPDATE payments SET refunded_cents = 1 WHERE order_id IS NOT NULL",
                "UPDATE payments SET requested_cents = 1 WHERE order_id IS NOT NULL",
            )
        ),
        *(
            ("payments", change, "a payment is not disputed as its disputes are")
            for change in (
                "DELETE FROM disputes",
                "UPDATE disputes SET status = 'won'",
                "UPDATE disputes SET share_cents = 1",
                "UPDATE payments SET lost_cents = 1 WHERE dispute = 'open'",
                "UPDATE payments SET dispute = 'lost' WHERE dispute = 'open'",
            )
        ),
        (
            "payments",
            "UPDATE idempotency_keys SET user_id = uuidv7()",
            "a key stands for no checkout of its user",
        ),
        ("payments", "DELETE FROM checkouts WHERE points > 0", "a key stands for no checkout of its user"),
        (
            "payments",
            "INSERT INTO idempotency_keys SELECT user_id, route, key || '2', request_hash, resource_id"
            " FROM idempotency_keys",
            "two keys stand for one checkout",
        ),
        ("payments", f"DELETE FROM outbox WHERE {_TOLD}", "wallet was not told of a net of 0 points"),
        (
            "payments",
            "UPDATE payments SET refunded_cents = 0 WHERE refunded_cents > 0",
            "wallet was not told of a net of 100 points",
        ),
        (
            "payments",
            "UPDATE payments SET standing = 'quarantined', grant_source = NULL WHERE points > 0",
            "a payment in quarantine has given points",
        ),
        (
            "payments",
            f"DELETE FROM outbox WHERE {_TOLD}",
            "wallet knows of points that payments never told of",
        ),
        (
            "wallet",
            "UPDATE grants SET version = version + 1",
            "wallet knows of points that payments never told of",
        ),
        ("wallet", "UPDATE grants SET net_points = 7", "wallet knows of other points than it was told"),
        ("wallet", "UPDATE grants SET user_id = uuidv7()", "wallet knows of other points than it was told"),
        (
            "wallet",
            "UPDATE grants SET version = version - 1 WHERE version > 1",
            "points that were told of have not arrived",
        ),
        ("wallet", "DELETE FROM grants", "points that were told of have not arrived"),
        (
            "orders",
            "UPDATE orders SET refunded_cents = 1 WHERE payment_method = 'stripe' AND status = 'completed'",
            "an order gave back more than went back of its payment",
        ),
    ],
)
async def test_falsified_payments_are_named(
    stack: RunningStack, paid: None, database: str, change: str, what: str
) -> None:
    assert what in {finding.what for finding in look_after(stack, (database, change))}


async def test_an_order_that_was_paid_long_ago_and_gives_nothing_is_named(
    stack: RunningStack, paid: None
) -> None:
    """As after orders was restored from an older dump."""
    changes = [
        ("payments", "UPDATE payments SET created_at = created_at - interval '1 day'"),
        ("orders", "UPDATE orders SET status = 'pending' WHERE payment_method = 'stripe'"),
    ]
    found = look_after(stack, *changes)
    assert "an order was paid and gives nothing" in {finding.what for finding in found}


_LINE = "what a line says was refunded is not the sum of its refunds"
_STANDING = "an order is refunded although something is left of it, or the other way round"


@pytest.mark.parametrize(
    ("database", "change", "what"),
    [
        ("orders", "UPDATE order_items SET refunded_quantity = 2 WHERE refunded_quantity = 1", _LINE),
        ("orders", "DELETE FROM refund_items", _LINE),
        (
            "orders",
            "UPDATE refund_items SET points = points + 1 WHERE points > 0",
            "a refund is not the sum of its lines",
        ),
        (
            "orders",
            "UPDATE orders SET refunded_points = 1 WHERE refunded_points > 1",
            "the points that went back of an order are not the sum of its refunds",
        ),
        ("orders", "UPDATE orders SET status = 'refunded' WHERE status = 'completed'", _STANDING),
        ("orders", "UPDATE orders SET refunded_cents = total_cents WHERE refunded_cents > 0", _STANDING),
        *(
            ("orders", f"UPDATE stock_movements SET {change}", "a movement of stock is not the audited one")
            for change in (
                "delta = delta + 1 WHERE reason = 'received' AND note = 'found'",
                "reason = 'corrected' WHERE note = 'found'",
                "actor = 'nobody' WHERE note = 'found'",
            )
        ),
        (
            "orders",
            "UPDATE stock_movements SET delta = delta - 1 WHERE reason = 'sold'",
            "what was sold is not what was reserved and taken",
        ),
        *(
            ("orders", change, "stock came back that no refund returned")
            for change in (
                "UPDATE refunds SET return_stock = false",
                "UPDATE stock_movements SET delta = delta + 1 WHERE reason = 'returned'",
                "UPDATE stock_movements SET refund_id = uuidv7() WHERE reason = 'returned'",
            )
        ),
        (
            "orders",
            "UPDATE stock_reservations SET status = 'held', due_at = now() - interval '1 s'",
            "stock is reserved past its time and nobody asks",
        ),
        (
            "orders",
            "DELETE FROM stock_movements WHERE reason = 'returned'",
            "pieces that a refund returns are not on their shelf, or were put there twice",
        ),
        (
            "orders",
            "UPDATE download_grants SET status = 'revoked'",
            "a download is open that order or line no longer give, or shut that they do",
        ),
        (
            "wallet",
            "DELETE FROM points_transactions WHERE type = 'refund'",
            "a refund of points is not in the ledger",
        ),
        (
            "wallet",
            "UPDATE points_transactions SET amount = amount + 1 WHERE type = 'refund'",
            "a refund of points is of another amount or order",
        ),
        (
            "orders",
            "UPDATE refunds SET status = 'failed', failure_reason = 'x' WHERE amount_points > 0",
            "a refund that failed gave points back",
        ),
        ("orders", "DELETE FROM refunds", "points went back that no order knows of"),
        ("payments", "DELETE FROM refunds", "a refund of money is not the one at Stripe"),
        (
            "orders",
            "UPDATE orders SET payment_version = payment_version + 1 WHERE payment_version > 0",
            "an order was told of a payment that is not so",
        ),
        (
            "orders",
            "UPDATE orders SET dispute = 'won' WHERE payment_version > 0",
            "an order and its payment tell of other refunds",
        ),
    ],
)
async def test_falsified_refunds_are_named(
    stack: RunningStack, given_back: None, database: str, change: str, what: str
) -> None:
    assert what in {finding.what for finding in look_after(stack, (database, change))}


_LATE = "UPDATE payments SET created_at = now() - interval '11 minutes'"
_SENT = "UPDATE outbox SET sent_at = now() - interval '3 minutes'"


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        (
            "an order was paid that is not there",
            [("orders", "DELETE FROM orders WHERE payment_method = 'stripe'")],
        ),
        (
            "an order was paid that is not there",
            [("payments", "UPDATE payments SET order_id = uuidv7() WHERE order_id IS NOT NULL")],
        ),
        (
            "an order was paid by another customer",
            [("payments", "UPDATE payments SET user_id = uuidv7() WHERE order_id IS NOT NULL")],
        ),
        (
            "an order was completed by another payment",
            [("payments", "UPDATE payments SET payment_intent_id = 'pi_x' || id WHERE order_id IS NOT NULL")],
        ),
        (
            "an order was paid and gives nothing",
            [
                ("payments", _LATE),
                (
                    "orders",
                    "UPDATE orders SET status = 'failed', failure_reason = 'x'"
                    " WHERE payment_method = 'stripe' AND status = 'completed'",
                ),
            ],
        ),
        (
            "a checkout is for no order",
            [("payments", "UPDATE checkouts SET order_id = uuidv7() WHERE order_id IS NOT NULL")],
        ),
        (
            "a hold is for no order",
            [
                (
                    "wallet",
                    "UPDATE holds SET status = 'held', order_id = uuidv7(), refunded_points = 0,"
                    " due_at = now() - interval '6 min' WHERE status = 'captured'",
                )
            ],
        ),
        (
            "wallet was told of points that nobody paid",
            [("payments", "DELETE FROM payments WHERE points > 0 AND standing = 'fulfilled'")],
        ),
        ("points were posted for a grant that there is not", [("wallet", "DELETE FROM grants")]),
        (
            "money went back that no order knows of",
            [("orders", "DELETE FROM refunds WHERE amount_cents > 0")],
        ),
        ("a fact has not arrived", [("wallet", "DELETE FROM inbox"), ("payments", _SENT)]),
        *(
            (
                "a fact has not arrived",
                [("orders", f"DELETE FROM inbox WHERE consumer = '{durable}'"), ("payments", _SENT)],
            )
            for durable in ("orders__checkout", "orders__payment", "orders__refund")
        ),
        ("a fact was heard that nobody told", [("payments", "DELETE FROM outbox")]),
        (
            "a lost stream is not filled yet",
            [("payments", "UPDATE relay SET refill_after = uuidv7(), refill_until = uuidv7()")],
        ),
    ],
)
async def test_what_one_database_has_and_another_lacks_is_named(
    stack: RunningStack, given_back: None, what: str, changes: list[tuple[str, str]]
) -> None:
    """Both ways over each edge: one of them alone is blind for what the other database has lost."""
    found = look_after(stack, *changes)
    assert what in {finding.what for finding in found}


def test_every_fact_that_somebody_listens_to_is_an_edge() -> None:
    permissions = (ROOT / "deploy/nats/accounts.conf").read_text()
    listened = set(re.findall(r"CONSUMER\.CREATE\.[A-Z]+\.(\w+)\.([\w.]+)", permissions))
    edges = {(edge.durable, edge.subject) for edge in EDGES}
    assert listened == edges | {("orders__product", "orders.product.changed")}


def test_no_login_of_ours_may_delete_what_a_lost_stream_is_filled_from(stack: RunningStack) -> None:
    """The stream keeps 30 days, outbox and inbox are kept for ever: else a lost stream would be filled with
    less than it held, or facts would take effect twice."""
    may = """
        SELECT count(*) FROM unnest(ARRAY['outbox', 'inbox']) AS t, unnest(ARRAY['app', 'worker']) AS l,
            unnest(ARRAY['DELETE', 'TRUNCATE']) AS how
        WHERE has_table_privilege(%s || '_' || l, t, how)"""
    for service, url in stack.file.database_urls.items():
        with psycopg.connect(url) as connection:
            assert connection.execute(may, (service,)).fetchall() == [(0,)], service


async def test_a_grant_on_its_way_is_no_finding(stack: RunningStack, paid: None) -> None:
    """Told and not heard: nobody can tell a message on its way from one that is lost, until it is late."""
    unheard = [("wallet", "DELETE FROM inbox"), ("wallet", "DELETE FROM grants")]
    # Its points are in the ledger, which cannot be told apart from a grant that was lost.
    ledger = "points were posted for a grant that there is not"
    assert {finding.what for finding in look_after(stack, *unheard)} == {ledger}
    late = look_after(
        stack, *unheard, ("payments", "UPDATE outbox SET sent_at = now() - interval '3 minutes'")
    )
    assert {finding.what for finding in late} == {
        *(ledger, "points that were told of have not arrived", "a fact has not arrived"),
    }


async def test_findings_are_printed_and_counted(
    stack: RunningStack, traded: Customer, capsys: pytest.CaptureFixture[str]
) -> None:
    with falsified(stack):
        assert audit.main(stack.file, as_json=True) == 1
    assert '"what": "wallet knows of other points than it was told"' in capsys.readouterr().out
    assert audit.audit(stack.file) == []


async def test_an_accepted_difference_is_named_and_hides_no_other(
    stack: RunningStack, traded: Customer, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after one database was restored alone: what was decided is no longer red, and the next fault is."""
    urls = stack.file.database_urls
    with falsified(stack):
        known = audit.audit(stack.file, second_look_seconds=0)
        assert known
        reason = "wallet is of yesterday: settled by adjustments"
        assert await asyncio.to_thread(audit.report, urls, False, accept=reason) == 0
        capsys.readouterr()
        assert audit.report(urls, as_json=False) == 0
        told = capsys.readouterr().out
        assert told.count("settled by adjustments") == len(known)
        assert f"accepted (cli:{getpass.getuser()}: wallet is of yesterday" in told
        with psycopg.connect(urls["wallet"], autocommit=True) as connection:
            # The same row, and one point more.
            connection.execute("UPDATE grants SET net_points = net_points + 1")
            grown = audit.audit(stack.file, second_look_seconds=0)
            connection.execute("UPDATE grants SET net_points = net_points - 1")
        assert {finding.where for finding in grown} == {finding.where for finding in known}
        assert not set(grown) & set(known)
    assert audit.audit(stack.file) == []


async def look_as(stack: RunningStack, service: str, invariants: Sequence[Invariant]) -> float:
    """How many rows a service would say that break its invariants, seen with its own login."""
    url = SecretStr(Servers(stack).url(service, "worker"))
    database = Database(app_url=url, worker_url=url, pool_size=1, name="test")
    await Books(invariants, is_ours=lambda: True, second_look_seconds=0).take(database)
    await database.dispose()
    return sum(
        value("aishop_invariant_violations", invariant=number)
        for number in {each.number for each in invariants}
    )


async def test_each_service_looks_after_its_own_books(stack: RunningStack, given_back: None) -> None:
    for service, invariants in {"wallet": OF_WALLET, "orders": OF_ORDERS, "payments": OF_PAYMENTS}.items():
        assert await look_as(stack, service, invariants) == 0, service
    with falsified(stack):
        assert await look_as(stack, "wallet", OF_WALLET) > 0
    assert await look_as(stack, "wallet", OF_WALLET) == 0


async def test_a_busy_shop_breaks_nothing(stack: RunningStack, traded: Customer) -> None:
    image = (await traded.read("/api/products"))["items"][0]
    items = [{"productId": image["id"], "quantity": 1}]
    busy = True

    async def shopper() -> None:
        async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as customer:
            await customer.top_up("premium")
            while busy:
                await customer.buy("points", items=items)

    shoppers = [asyncio.create_task(shopper()) for _ in range(3)]
    looks = [await asyncio.to_thread(audit.audit, stack.file) for _ in range(10)]
    busy = False
    await asyncio.gather(*shoppers)
    assert looks == [[]] * 10
