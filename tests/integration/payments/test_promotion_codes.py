"""Pages that take promotion codes: what was sold is given for what was paid, and only as Stripe counts it."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

import pytest

from deploy.local.audit.across import CardOrders
from deploy.local.audit.grants import PaidPoints
from deploy.local.audit.snapshot import Finding, Snapshots
from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from services.payments.invariants import INVARIANTS
from tests.integration.payments.conftest import Payments, PaymentsProcess, payments_running
from tests.integration.payments.sandbox import sandbox_of

PRICE_CENTS, POINTS = 3999, 550
HALF_CENTS = 2000
ORDER_CENTS = 1500


@pytest.fixture(scope="module")
async def with_codes(process: PaymentsProcess, sandbox: tuple[Any, str]) -> AsyncIterator[Payments]:
    stripe, webhooks = sandbox
    more = {"WEBHOOK_LISTEN": webhooks, "ALLOW_PROMOTION_CODES": "true"}
    async with payments_running(process, stripe, **more) as payments:
        yield payments


@pytest.fixture
async def payments(with_codes: Payments) -> AsyncIterator[Payments]:
    """After each test the invariants hold of what it left."""
    [before] = await with_codes.sql("SELECT uuidv7() AS id")
    yield with_codes
    await sandbox_of(with_codes).quiet()
    for invariant in INVARIANTS:
        rows = await with_codes.sql(invariant.query)
        new = [row for row in rows if str(row.get("checkout") or "") > str(before["id"])]
        assert new == [], invariant.what


async def _pay(payments: Payments, checkout: pb.Checkout, code: str) -> None:
    http = sandbox_of(payments).http
    assert (await http.post(checkout.url, data={"action": code})).status_code == 303
    await sandbox_of(payments).pay(checkout.url)


async def _grants(payments: Payments, checkout: pb.Checkout) -> list[Any]:
    return await payments.facts("payments.points.grant_changed", events_pb2.PointsGrantChanged, checkout.id)


async def _paid_facts(payments: Payments, checkout: pb.Checkout) -> list[Any]:
    subject = "payments.checkout.changed"
    return await payments.facts(subject, events_pb2.OrderCheckoutChanged, checkout.id)


async def _money(payments: Payments, checkout: pb.Checkout) -> list[tuple[int, str]]:
    rows = await payments.sql(
        "SELECT amount_cents, standing FROM payments WHERE checkout_id = %s", checkout.id
    )
    return [(row["amount_cents"], row["standing"]) for row in rows]


class _Books:
    """payments' database as the audit reads it, and what the others would say."""

    def __init__(
        self, rows: dict[str, list[dict[str, Any]]], others: dict[str, list[dict[str, Any]]]
    ) -> None:
        self._rows, self._others = rows, others

    def rows(self, database: str, query: str) -> list[dict[str, Any]]:
        return self._rows[query] if database == "payments" else self._others.get(database, [])


async def _audited(
    payments: Payments, check: PaidPoints | CardOrders, **others: list[dict[str, Any]]
) -> list[Finding]:
    class Asked(Exception):
        pass

    rows: dict[str, list[dict[str, Any]]] = {}

    class Asking(_Books):
        def rows(self, database: str, query: str) -> list[dict[str, Any]]:
            if database == "payments" and query not in rows:
                raise Asked(query)
            return super().rows(database, query)

    while True:
        found: Iterable[Finding] = check(cast(Snapshots, Asking(rows, others)))
        try:
            return list(found)
        except Asked as asked:
            query = str(asked)
            rows[query] = await payments.sql(query)


async def test_points_at_half_the_price_are_given_in_full_and_go_back_by_what_was_paid(
    payments: Payments,
) -> None:
    checkout = await payments.points_checkout()
    await _pay(payments, checkout, "half_off")
    row = await payments.until_status(checkout.id, "paid")
    assert (row["amount_cents"], row["discount_cents"]) == (PRICE_CENTS, PRICE_CENTS - HALF_CENTS)
    assert await _money(payments, checkout) == [(HALF_CENTS, "fulfilled")]
    assert [grant.net_points for grant in await _grants(payments, checkout)] == [POINTS]
    told = await payments.get(checkout.id)
    assert (told.amount_cents, told.discount_cents) == (HALF_CENTS, PRICE_CENTS - HALF_CENTS)
    intent = row["payment_intent_id"]
    await sandbox_of(payments).post("refunds", payment_intent=intent, amount=str(HALF_CENTS // 2))
    await payments.until(
        "SELECT 1 FROM payments WHERE payment_intent_id = %s AND refunded_cents = %s", intent, HALF_CENTS // 2
    )
    assert [grant.net_points for grant in await _grants(payments, checkout)] == [POINTS, POINTS // 2]


async def test_points_that_a_code_paid_for_are_granted_without_a_payment(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    await _pay(payments, checkout, "free")
    row = await payments.until_status(checkout.id, "paid")
    assert (row["discount_cents"], row["payment_intent_id"]) == (PRICE_CENTS, None)
    stripe = sandbox_of(payments)
    [completed] = await stripe.events("checkout.session.completed", about=checkout.session_id)
    await stripe.deliver(completed["id"], copies=3)
    [grant] = await _grants(payments, checkout)
    assert (grant.net_points, grant.payment_intent_id) == (POINTS, "")
    assert await _money(payments, checkout) == []
    assert not await payments.sql("SELECT 1 FROM quarantine WHERE checkout_id = %s", checkout.id)
    found = await _audited(payments, PaidPoints())
    assert [each for each in found if checkout.id in each.where] == []


@pytest.mark.parametrize(("code", "paid_cents"), [("half_off", ORDER_CENTS // 2), ("free", 0)])
async def test_orders_hears_what_was_paid_and_what_was_taken_off(
    payments: Payments, code: str, paid_cents: int
) -> None:
    checkout = await payments.order_checkout()
    await _pay(payments, checkout, code)
    row = await payments.until_status(checkout.id, "paid")
    [fact] = await _paid_facts(payments, checkout)
    assert fact.state == events_pb2.ORDER_CHECKOUT_STATE_PAID
    assert (fact.amount_cents, fact.discount_cents) == (paid_cents, ORDER_CENTS - paid_cents)
    assert fact.payment_intent_id == (row["payment_intent_id"] or "")
    assert await _money(payments, checkout) == ([(paid_cents, "fulfilled")] if paid_cents else [])
    order = {
        "id": row["order_id"],
        "status": "completed",
        "paid_cents": paid_cents,
        "currency": "usd",
        "stripe_payment_intent_id": row["payment_intent_id"],
        "refunded_cents": 0,
    }
    assert await _audited(payments, CardOrders(), orders=[order]) == []
    wrong = [order | {"paid_cents": ORDER_CENTS}]
    assert len(await _audited(payments, CardOrders(), orders=wrong)) == 1


async def test_an_intent_that_is_heard_of_first_is_judged_by_its_session(payments: Payments) -> None:
    """It bears another amount than the price, and tells of no discount."""
    checkout = await payments.points_checkout()
    stripe = sandbox_of(payments)
    await stripe.control("webhooks", mode="hold")
    await _pay(payments, checkout, "half_off")
    intent = await stripe.intent_of(checkout.session_id)
    [succeeded] = await stripe.events("payment_intent.succeeded", about=intent)
    await stripe.deliver(succeeded["id"])
    await payments.until_status(checkout.id, "paid")
    assert await _money(payments, checkout) == [(HALF_CENTS, "fulfilled")]


async def test_the_page_of_a_subscription_takes_no_codes(payments: Payments) -> None:
    request = pb.CreateSubscriptionCheckoutRequest(
        user_id=str(payments.user_id), idempotency_key="codes", plan_id="monthly"
    )
    checkout = (await payments.stub.CreateSubscriptionCheckout(request)).checkout
    answer = await sandbox_of(payments).http.post(checkout.url, data={"action": "free"})
    assert answer.status_code == 400
    assert (await payments.row(checkout.id))["promotion_codes"] is False


async def test_a_discount_is_of_a_paid_page_that_takes_codes(payments: Payments) -> None:
    """What the code promises, the database holds."""
    checkout = await payments.points_checkout()
    for change in (
        "discount_cents = 1",
        "status = 'paid'",
        "status = 'paid', discount_cents = amount_cents + 1",
    ):
        with pytest.raises(Exception, match=r"paid_has_a_payment|discount_by_promotion_codes"):
            await payments.change(checkout.id, change)
