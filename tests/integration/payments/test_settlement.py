"""One path for whatever Stripe says, whoever brings the news: races and orders, on the real database."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from prometheus_client import REGISTRY

from protos.events.v1 import events_pb2
from services.chassis import idempotency
from services.chassis.db import Database
from services.chassis.errors import DomainError
from services.chassis.ids import uuid7
from services.payments import queries, rules
from services.payments.commands import checkouts, refunds
from services.payments.commands.checkouts import Sale
from services.payments.commands.payments import Terms, fulfil
from services.payments.commands.refunds import Wanted
from services.payments.commands.settlement import settle
from services.payments.findings import (
    DisputesFound,
    Finding,
    IntentFound,
    InvoiceFound,
    Outcome,
    RefundsFound,
    SessionFound,
    Settlement,
    SubscriptionFound,
)
from services.payments.rules import Checkout, Paid
from services.payments.stripe_objects import (
    Dispute,
    Incomplete,
    Intent,
    Invoice,
    Item,
    Metadata,
    Movement,
    Refund,
    Session,
    Subscription,
)
from tests.integration.payments.conftest import PaymentsProcess

PAID_CENTS, POINTS = 3999, 550
_RACES = [200, pytest.param(2000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Books:
    """The database, written by the service's own code and read past its walls."""

    database: Database
    superuser_url: str

    async def settle(self, finding: Finding) -> Outcome:
        async with self.database.worker() as connection:
            return await settle(connection, finding)

    async def rows(self, query: str, *parameters: object) -> list[Any]:
        async with await psycopg.AsyncConnection.connect(self.superuser_url) as connection:
            return await (await connection.execute(query.encode(), parameters)).fetchall()

    async def facts(self, subject: str, event: Callable[[], Any]) -> list[Any]:
        rows = await self.rows("SELECT payload FROM outbox WHERE subject = %s ORDER BY id", subject)
        facts = [event() for _ in rows]
        for fact, (payload,) in zip(facts, rows, strict=True):
            fact.ParseFromString(payload)
        return facts

    async def pay(self, terms: Terms) -> str:
        """A payment that was fulfilled; its intent."""
        intent = f"pi_{uuid4().hex}"
        async with self.database.worker() as connection:
            await fulfil(connection, Paid(intent, PAID_CENTS, "usd", {}), terms)
        return intent

    async def refuse_refund(self, intent: str, amount_cents: int, reason: str) -> None:
        wanted = Wanted(refund_id=uuid7(), amount_cents=amount_cents, reason="torn")
        with pytest.raises(DomainError) as refused:
            async with self.database.worker() as connection:
                await refunds.begin_refund(connection, payment_intent_id=intent, wanted=wanted)
        assert refused.value.reason == reason

    async def plan_checkout(self, user_id: UUID | None = None) -> Checkout:
        """Of the monthly plan: 300 points for 19.99."""
        async with self.database.worker() as connection:
            plan = await queries.find_plan(connection, "monthly")
            assert plan is not None
            request = idempotency.Request(
                user_id or uuid4(), "POST /api/subscriptions", str(uuid4()), b"hash"
            )
            checkout = await checkouts.begin_sale(
                connection,
                request=request,
                checkout_id=uuid7(),
                sale=Sale.of_plan(plan),
                sealed_request=b"sealed",
            )
        assert checkout is not None
        return checkout

    async def order_checkout(self) -> Checkout:
        async with self.database.worker() as connection:
            checkout = await checkouts.begin_order_checkout(
                connection,
                checkout_id=uuid7(),
                user_id=uuid4(),
                order_id=uuid4(),
                amount_cents=PAID_CENTS,
                currency="usd",
                sealed_request=b"sealed",
            )
        assert checkout is not None
        return checkout


@pytest.fixture
def books(process: PaymentsProcess, database: Database) -> Books:
    return Books(database, process.admin_url)


def paid_session(checkout: Checkout) -> SessionFound:
    session = Session(
        id=f"cs_{checkout.id}",
        mode="payment",
        status="complete",
        payment_status="paid",
        amount_total=checkout.amount_cents,
        currency=checkout.currency,
        url=None,
        payment_intent_id=f"pi_{checkout.id}",
        subscription_id=None,
        client_reference_id=str(checkout.id),
        metadata=rules.metadata_of(checkout),
    )
    return SessionFound(session)


def refunds_of(intent: str, *amounts: int, at: int, **metadata: str) -> RefundsFound:
    """Refunds as they are listed `at` seconds after the beginning."""
    listed = [
        Refund(f"re_{intent}_{number}", intent, amount, "usd", "succeeded", None, metadata, _BEGAN)
        for number, amount in enumerate(amounts)
    ]
    return RefundsFound(intent, listed, _BEGAN + timedelta(seconds=at))


def disputed(intent: str, status: str, *, at: int) -> DisputesFound:
    dispute = Dispute(f"du_{intent}", intent, PAID_CENTS, "usd", status, "fraudulent", _BEGAN)
    return DisputesFound(intent, [dispute], _BEGAN + timedelta(seconds=at))


@pytest.mark.parametrize("races", _RACES)
async def test_the_webhook_and_the_answer_race_to_one_payment(books: Books, races: int) -> None:
    async def together(checkout: Checkout) -> list[Settlement]:
        outcomes = await asyncio.gather(*(books.settle(paid_session(checkout)) for _ in range(2)))
        return sorted((outcome.settlement for outcome in outcomes), key=lambda each: each.value)

    raced = [await books.order_checkout() for _ in range(races)]
    for checkout in raced:
        assert await together(checkout) == [Settlement.APPLIED, Settlement.OLD_NEWS]
    facts = await books.facts("payments.checkout.changed", events_pb2.OrderCheckoutChanged)
    ours = {str(checkout.id) for checkout in raced}
    assert sorted(fact.checkout_id for fact in facts if fact.checkout_id in ours) == sorted(ours)


def story(intent: str, ends: str) -> Sequence[Finding]:
    """Two refunds, and a dispute that opens and ends, each as it was seen when it happened."""
    return (
        refunds_of(intent, 1000, at=1),
        disputed(intent, "needs_response", at=2),
        refunds_of(intent, 1000, 500, at=3),
        disputed(intent, ends, at=4),
    )


async def in_every_order(books: Books, ends: str, pay: Callable[[], Awaitable[str]]) -> list[str]:
    """Pays, and settles the story twice over, once for each order; the intents."""
    intents = []
    for order in permutations(range(4)):
        intents.append(await pay())
        found = story(intents[-1], ends)
        for index in (*order, *order):
            await books.settle(found[index])
    return intents


@pytest.mark.parametrize(
    ("ends", "kept_cents"),
    [("won", 0), ("lost", PAID_CENTS)],
)
async def test_points_are_reversed_once_whatever_was_heard_first(
    books: Books, ends: str, kept_cents: int
) -> None:
    async def pay() -> str:
        return await books.pay(Terms(uuid4(), POINTS, str(uuid4()), version=1))

    intents = await in_every_order(books, ends, pay)
    net = POINTS - POINTS * min(PAID_CENTS, 1500 + kept_cents) // PAID_CENTS
    facts = await books.facts("payments.points.grant_changed", events_pb2.PointsGrantChanged)
    for intent in intents:
        told = [fact for fact in facts if fact.payment_intent_id == intent]
        assert told[-1].net_points == net
        versions = [fact.version for fact in told]
        assert versions == sorted(set(versions))


@pytest.mark.parametrize(
    ("ends", "kept_cents", "contest"),
    [("won", 0, events_pb2.DISPUTE_STATE_WON), ("lost", PAID_CENTS, events_pb2.DISPUTE_STATE_LOST)],
)
async def test_an_order_hears_the_same_end_whatever_was_heard_first(
    books: Books, ends: str, kept_cents: int, contest: Any
) -> None:
    orders: dict[str, UUID] = {}

    async def pay() -> str:
        order_id = uuid4()
        intent = await books.pay(Terms(uuid4(), 0, None, version=1, order_id=order_id))
        orders[intent] = order_id
        return intent

    await in_every_order(books, ends, pay)
    facts = await books.facts("payments.payment.changed", events_pb2.PaymentChanged)
    for order_id in orders.values():
        last = [fact for fact in facts if fact.order_id == str(order_id)][-1]
        assert (last.refunded_cents, last.disputed_cents, last.dispute) == (1500, kept_cents, contest)
        assert last.HasField("lost_cents")
        assert last.lost_cents == kept_cents


@pytest.mark.parametrize("ends", ["lost", "won"])
async def test_what_a_bank_kept_is_told_apart_from_what_it_holds(books: Books, ends: str) -> None:
    """4.99 of 39.99 is disputed and lost, 2.00 of it come back; a second dispute is open; lost, then won."""
    intent = await books.pay(Terms(uuid4(), 0, None, version=1, order_id=uuid4()))
    moved = [Movement(-499, "usd"), Movement(200, "usd")]
    lost = Dispute(f"du_{intent}", intent, 499, "usd", "lost", "fraudulent", _BEGAN, None, moved)
    still_open = replace(lost, id=f"du_{intent}_2", amount=1000, status="needs_response", movements=[])
    await books.settle(DisputesFound(intent, [lost, still_open], _BEGAN))
    amounts = "SELECT disputed_cents, lost_cents, dispute FROM payments WHERE payment_intent_id = %s"
    assert await books.rows(amounts, intent) == [(1299, 299, "open")]
    await books.refuse_refund(intent, 2701, "PAYMENT_DISPUTED")
    await books.refuse_refund(intent, 3701, "REFUND_EXCEEDS_PAYMENT")
    ended = [replace(lost, status="won") if ends == "won" else lost, replace(still_open, status="won")]
    await books.settle(DisputesFound(intent, ended, _BEGAN + timedelta(seconds=1)))
    kept = 299 if ends == "lost" else 0
    assert await books.rows(amounts, intent) == [(kept, kept, ends)]
    async with books.database.worker() as connection:
        wanted = Wanted(refund_id=uuid7(), amount_cents=PAID_CENTS - kept, reason="torn")
        await refunds.begin_refund(connection, payment_intent_id=intent, wanted=wanted)
    facts = await books.facts("payments.payment.changed", events_pb2.PaymentChanged)
    [payment] = await books.rows("SELECT id FROM payments WHERE payment_intent_id = %s", intent)
    told = [(fact.disputed_cents, fact.lost_cents) for fact in facts if fact.payment_id == str(payment[0])]
    assert told == [(1299, 299), (kept, kept)]


async def test_two_refunds_at_stripe_under_one_id_of_ours_are_both_kept(books: Books) -> None:
    """As when it forgot a key: the books must show what has really left."""
    intent = await books.pay(Terms(uuid4(), 0, None, version=1, order_id=uuid4()))
    wanted = Wanted(refund_id=uuid7(), amount_cents=1000, reason="torn")
    async with books.database.worker() as connection:
        await refunds.begin_refund(connection, payment_intent_id=intent, wanted=wanted)
    await books.settle(refunds_of(intent, 1000, 1000, at=1, refund_id=str(wanted.refund_id)))
    kept = await books.rows(
        "SELECT is_ours, status FROM refunds WHERE payment_intent_id = %s ORDER BY is_ours", intent
    )
    assert kept == [(False, "succeeded"), (True, "succeeded")]
    [(back,)] = await books.rows("SELECT refunded_cents FROM payments WHERE payment_intent_id = %s", intent)
    assert back == 2000


def basket(metadata: Metadata) -> SubscriptionFound:
    """A subscription of two things at once, which this shop never sells."""
    items = [Item("month", _BEGAN), Item("year", _BEGAN)]
    name = f"sub_{uuid4().hex}"
    return SubscriptionFound(
        Subscription(name, "cus_1", "active", False, items, None, metadata, _BEGAN), _BEGAN
    )


def paid_by_hand(metadata: Metadata, *, minutes: int = 0) -> InvoiceFound:
    """An invoice that somebody marked as paid: Stripe knows no payment of it."""
    invoice = Invoice(
        id=f"in_{uuid4().hex}",
        status="paid",
        billing_reason="subscription_cycle",
        subtotal=PAID_CENTS,
        total=PAID_CENTS,
        amount_paid=PAID_CENTS,
        amount_paid_off_stripe=0,
        currency="usd",
        subscription_id=f"sub_{uuid4().hex}",
        subscription_metadata=metadata,
        created=_BEGAN,
        paid_at=_BEGAN,
    )
    return InvoiceFound(invoice, [], _BEGAN + timedelta(minutes=minutes))


async def test_what_another_program_sells_is_not_read_closely(books: Books) -> None:
    """In an account that is shared, what we could not handle is none of our business."""
    for found in (basket({"basket": "7"}), paid_by_hand({"basket": "7"})):
        assert (await books.settle(found)).settlement is Settlement.NOT_OURS


SOLD = Item("month", _BEGAN, 1999, "usd")


def subscription_of(checkout: Checkout, *, at: int, **change: Any) -> SubscriptionFound:
    """As it was sold, but for what is changed, as it was seen `at` seconds after the beginning."""
    theirs = Subscription(
        f"sub_{checkout.id}", "cus_1", "active", False, [SOLD], None, rules.metadata_of(checkout), _BEGAN
    )
    return SubscriptionFound(replace(theirs, **change), _BEGAN + timedelta(seconds=at))


@pytest.mark.parametrize(
    "items",
    [
        [SOLD, SOLD],
        [],
        [replace(SOLD, interval="week")],
        [replace(SOLD, interval_count=3)],
        [replace(SOLD, unit_amount=2999)],
        [replace(SOLD, unit_amount=None)],
        [replace(SOLD, quantity=2)],
        [replace(SOLD, currency="eur")],
    ],
)
async def test_a_subscription_that_the_dashboard_changed_is_known_and_shown_as_such(
    books: Books, items: list[Item]
) -> None:
    query = "SELECT status, changed_outside, interval, price_cents FROM subscriptions WHERE id = %s"
    told_before, told_first = await books.plan_checkout(), await books.plan_checkout()
    await books.settle(subscription_of(told_before, at=0))
    assert await books.rows(query, told_before.id) == [("active", False, "month", 1999)]
    for checkout in (told_before, told_first):
        await books.settle(subscription_of(checkout, at=1, items=items))
        assert await books.rows(query, checkout.id) == [("active", True, "month", 1999)]
        # What comes later is applied.
        await books.settle(subscription_of(checkout, at=2, items=items, status="past_due"))
        await books.settle(subscription_of(checkout, at=3, items=items, status="canceled", ended_at=_BEGAN))
        assert await books.rows(query, checkout.id) == [("canceled", True, "month", 1999)]


async def test_a_subscription_that_ends_at_a_time_is_shown_as_ending(books: Books) -> None:
    """As the customer portal and flexible billing say it."""
    query = "SELECT cancel_at_period_end, cancel_at FROM subscriptions WHERE id = %s"
    checkout = await books.plan_checkout()
    ends = _BEGAN + timedelta(days=90)
    outcome = await books.settle(subscription_of(checkout, at=0))
    outcome = await books.settle(subscription_of(checkout, at=1, cancel_at=ends))
    assert await books.rows(query, checkout.id) == [(True, ends)]
    assert outcome.effects[0].change == "active -> active and ends by itself"
    await books.settle(subscription_of(checkout, at=2))
    assert await books.rows(query, checkout.id) == [(False, None)]


async def test_a_paid_invoice_without_payments_is_asked_for_again_and_then_parked(books: Books) -> None:
    """Its payments may be listed a moment later; what is not listed by then was paid elsewhere."""
    checkout = await books.plan_checkout()
    found = paid_by_hand(rules.metadata_of(checkout))
    with pytest.raises(Incomplete):
        await books.settle(found)
    for outcome in (Settlement.QUARANTINED, Settlement.OLD_NEWS):
        later = replace(found, observed_at=_BEGAN + timedelta(minutes=11))
        assert (await books.settle(later)).settlement is outcome
    parked = "SELECT amount_cents, payment_id FROM quarantine WHERE invoice_id = %s"
    assert await books.rows(parked, found.invoice.id) == [(PAID_CENTS, None)]


@pytest.mark.parametrize("kind", ["refunds", "disputes"])
@pytest.mark.parametrize("keeps", [0, 1])
async def test_a_listing_that_lacks_what_is_known_is_no_evidence(books: Books, kind: str, keeps: int) -> None:
    """Cut short by one, or empty: nothing of it is applied, and what it has is not believed either."""
    intent = await books.pay(Terms(uuid4(), POINTS, str(uuid4()), version=1))
    whole: dict[str, Any] = {
        "refunds": refunds_of(intent, 1000, 500, at=1),
        "disputes": DisputesFound(
            intent,
            [
                Dispute(f"du_{intent}_{number}", intent, 500, "usd", "lost", "fraudulent", _BEGAN)
                for number in range(2)
            ],
            _BEGAN + timedelta(seconds=1),
        ),
    }
    found = whole[kind]
    await books.settle(found)
    amounts = "SELECT refunded_cents, disputed_cents, version FROM payments WHERE payment_intent_id = %s"
    before = await books.rows(amounts, intent)
    new = replace(getattr(found, kind)[0], id=f"new_{intent}")
    cut = {kind: [*getattr(found, kind)[:keeps], new]}
    counted = refused_snapshots(kind)
    listings: list[dict[str, Any]] = [cut, {kind: []}]
    for listing in listings:
        with pytest.raises(Incomplete):
            await books.settle(replace(found, **listing, observed_at=_BEGAN + timedelta(seconds=2)))
    assert await books.rows(amounts, intent) == before
    assert refused_snapshots(kind) == counted + 2


def refused_snapshots(kind: str) -> float:
    found = REGISTRY.get_sample_value("aishop_payments_snapshots_refused_total", {"kind": kind})
    assert found is not None
    return found


async def test_an_intent_that_brought_no_money_leaves_nothing_however_often_it_is_told(books: Books) -> None:
    """Without an amount it has no payment, and a replay would park it once more."""
    checkout = await books.order_checkout()
    intent = Intent(f"pi_{checkout.id}", 0, "usd", rules.metadata_of(checkout))
    for _ in range(2):
        assert (await books.settle(IntentFound(intent))).settlement is Settlement.OLD_NEWS
    assert await books.rows("SELECT 1 FROM quarantine WHERE payment_intent_id = %s", intent.id) == []
