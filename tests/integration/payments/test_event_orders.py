"""Whatever order the events of a purchase come in, however often, and whatever Stripe had come to when each
was looked at: one end.

Stripe goes on only as far as the next event needs, so that a look sees what is still true at that moment; a
worker that has looked stands still while others look and settle, and some settle at once. Copies come under
the same id and under another one (two endpoints of one account).
"""

import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import PaymentsProcess, free_port
from tests.integration.payments.in_process import Desk, Settling, create_database, desk_on
from tests.integration.payments.sandbox import Sandbox, sandbox_running, until_healthy
from tests.integration.payments.stripe_double import Fields
from tests.support.proofs import SEED
from tests.support.servers import Servers

# The official client hands bytes to httpx as `data=`, which httpx deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

PRICE, POINTS = 3999, 550
PLAN_PRICE, PLAN_POINTS = 1999, 300
PART = 1000
WON, LOST = "won", "lost"
# How many deliveries later what a look has found is settled.
_PATIENCE = (0, 1, 2, 4, 8)
# As often as the storm duplicates them.
_COPIES = 0.3

Act = Callable[["Story"], Awaitable[object]]


@dataclass(frozen=True)
class Fate:
    """How what was still open ends at Stripe."""

    refund: str
    dispute: str

    @property
    def refunded(self) -> int:
        return PART if self.refund == "succeeded" else 0

    @property
    def disputed(self) -> int:
        return PRICE if self.dispute == LOST else 0


FATES = [Fate(refund, dispute) for refund in ("succeeded", "failed") for dispute in (WON, LOST)]


@dataclass
class Story:
    """One purchase: what happens to it at Stripe, act by act, and the events that tell of it."""

    desk: Desk
    fate: Fate
    checkout: pb.Checkout
    acts: list[tuple[Act, tuple[str, ...]]]
    told: dict[str, Fields] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    async def event(self, event_type: str) -> Fields:
        """The event; Stripe goes on until there is one."""
        while event_type not in self.told:
            act, types = self.acts.pop(0)
            await act(self)
            newest = (await self.desk.sandbox.get("events", limit=20))["data"]
            for wanted in types:
                self.told[wanted] = next(event for event in newest if event["type"] == wanted)
        return self.told[event_type]


async def pay(story: Story) -> None:
    stripe = story.desk.sandbox
    await stripe.pay(story.checkout.url)
    session = await stripe.get(f"checkout/sessions/{story.checkout.session_id}")
    story.ids["subscription"] = session["subscription"]
    story.ids["intent"] = session["payment_intent"] or await _intent_of_invoice(stripe, session["invoice"])


async def _intent_of_invoice(stripe: Sandbox, invoice_id: str) -> str:
    [link] = (await stripe.get("invoice_payments", invoice=invoice_id))["data"]
    return str(link["payment"]["payment_intent"])


async def refund_part(story: Story) -> None:
    stripe = story.desk.sandbox
    await stripe.control("refunds", status="pending")
    refund = await stripe.post("refunds", payment_intent=story.ids["intent"], amount=PART)
    story.ids["refund"] = refund["id"]


async def end_refund(story: Story) -> None:
    await story.desk.sandbox.control(f"refunds/{story.ids['refund']}", status=story.fate.refund)


async def dispute(story: Story) -> None:
    begun = await story.desk.sandbox.control("disputes", payment_intent=story.ids["intent"])
    story.ids["dispute"] = begun["id"]


async def close_dispute(story: Story) -> None:
    await story.desk.sandbox.control(f"disputes/{story.ids['dispute']}", status=story.fate.dispute)


async def end_with_period(story: Story) -> None:
    await story.desk.sandbox.post(f"subscriptions/{story.ids['subscription']}", cancel_at_period_end="true")


@dataclass(frozen=True)
class Kind:
    """A kind of purchase: how it begins, what happens to it, and how it must end."""

    sell: Callable[[Desk, UUID], Awaitable[pb.Checkout]]
    acts: tuple[tuple[Act, tuple[str, ...]], ...]
    end: Callable[[Fate], dict[str, Any]]

    @property
    def events(self) -> list[str]:
        return [event_type for _, types in self.acts for event_type in types]


_MONEY_BACK: tuple[tuple[Act, tuple[str, ...]], ...] = (
    (pay, ("payment_intent.succeeded", "checkout.session.completed")),
    (refund_part, ("charge.refunded",)),
    (dispute, ("charge.dispute.created",)),
    (end_refund, ("refund.updated",)),
    (close_dispute, ("charge.dispute.closed",)),
)
_SUBSCRIPTION: tuple[tuple[Act, tuple[str, ...]], ...] = (
    (
        pay,
        (
            "customer.subscription.created",
            "invoice.paid",
            "invoice.payment_succeeded",
            "checkout.session.completed",
        ),
    ),
    (refund_part, ("charge.refunded",)),
    (end_with_period, ("customer.subscription.updated",)),
)
_CONTESTS = {WON: events_pb2.DISPUTE_STATE_WON, LOST: events_pb2.DISPUTE_STATE_LOST}


def _paid(fate: Fate) -> dict[str, Any]:
    return {
        "checkout": ["paid"],
        "payment": [("fulfilled", fate.refunded, fate.disputed, fate.dispute)],
        "refunds": [(PART, fate.refund)],
        "disputes": [(PRICE, fate.dispute)],
        "subscription": [],
        "invoices": 0,
    }


def _points_end(fate: Fate) -> dict[str, Any]:
    back = min(PRICE, fate.refunded + fate.disputed)
    return _paid(fate) | {"net": POINTS - POINTS * back // PRICE, "order": None}


def _order_end(fate: Fate) -> dict[str, Any]:
    return _paid(fate) | {"net": None, "order": (fate.refunded, fate.disputed, _CONTESTS[fate.dispute])}


def _subscription_end(fate: Fate) -> dict[str, Any]:
    """Its refund stays under way."""
    return {
        "checkout": ["paid"],
        "payment": [("fulfilled", PART, 0, "none")],
        "refunds": [(PART, "pending")],
        "disputes": [],
        "subscription": [("active", True)],
        "invoices": 1,
        "net": PLAN_POINTS - PLAN_POINTS * PART // PLAN_PRICE,
        "order": None,
    }


KINDS = {
    "points": Kind(Desk.sell_points, _MONEY_BACK, _points_end),
    "order": Kind(Desk.sell_order, _MONEY_BACK, _order_end),
    "subscription": Kind(Desk.sell_subscription, _SUBSCRIPTION, _subscription_end),
}


@dataclass(frozen=True)
class Delivery:
    event: int
    # A copy under another id; a copy under the same id is delivered like the event itself.
    is_twin: bool
    # How many more deliveries are looked at before this one is settled.
    patience: int


def schedule_of(order: Sequence[int], seed: int) -> list[Delivery]:
    """The events in this order, each settled a little later than looked at, with copies here and there."""
    chance = random.Random(seed)
    deliveries = [Delivery(event, False, chance.choice(_PATIENCE)) for event in order]
    for event in order:
        if chance.random() < _COPIES:
            place = deliveries.index(next(each for each in deliveries if each.event == event)) + 1
            copy = Delivery(event, chance.random() < 0.5, chance.choice(_PATIENCE))
            deliveries.insert(chance.randint(place, len(deliveries)), copy)
    return deliveries


async def play(desk: Desk, kind: Kind, fate: Fate, schedule: Sequence[Delivery]) -> dict[str, Any]:
    """Delivers the events of a new purchase; returns how it ended."""
    await desk.sql("TRUNCATE outbox, stripe_events")
    user_id = uuid4()
    story = Story(desk, fate, await kind.sell(desk, user_id), list(kind.acts))
    waiting: list[tuple[int, Settling]] = []
    for place, delivery in enumerate(schedule):
        event = await story.event(kind.events[delivery.event])
        if delivery.is_twin:
            event = event | {"id": f"{event['id']}_twin"}
        settling = await desk.take(event)
        if settling is not None:
            waiting.append((place + delivery.patience, settling))
        await settle([settling for due, settling in waiting if due <= place])
        waiting = [(due, settling) for due, settling in waiting if due > place]
    await settle([settling for _, settling in waiting])
    return await end_of(desk, user_id)


async def settle(settlings: Sequence[Settling]) -> None:
    """All at once."""
    for settling in settlings:
        settling.hesitation.may_settle.set()
    for settling in settlings:
        await settling.task


async def end_of(desk: Desk, user_id: UUID) -> dict[str, Any]:
    unsettled = await desk.sql("SELECT type, error FROM stripe_events WHERE status <> 'processed'")
    assert unsettled == []

    async def rows(statement: str) -> list[Any]:
        found = await desk.sql(statement, user_id)
        return [tuple(row.values()) if len(row) > 1 else next(iter(row.values())) for row in found]

    of_user = "JOIN payments ON payments.id = payment_id WHERE payments.user_id = %s"
    return {
        "checkout": await rows("SELECT status FROM checkouts WHERE user_id = %s"),
        "payment": await rows(
            "SELECT standing, refunded_cents, disputed_cents, dispute FROM payments WHERE user_id = %s"
        ),
        "refunds": await rows(f"SELECT refunds.amount_cents, status FROM refunds {of_user}"),
        "disputes": await rows(f"SELECT disputes.amount_cents, status FROM disputes {of_user}"),
        "subscription": await rows(
            "SELECT status, cancel_at_period_end FROM subscriptions WHERE user_id = %s"
        ),
        "invoices": len(await rows("SELECT id FROM invoices WHERE user_id = %s")),
        **await told_of(desk, user_id),
    }


async def told_of(desk: Desk, user_id: UUID) -> dict[str, Any]:
    """What wallet and orders were told last; every version once, without a gap, up to the payment's own."""
    grants: list[Any] = await facts(desk, "payments.points.grant_changed", events_pb2.PointsGrantChanged)
    orders: list[Any] = await facts(desk, "payments.payment.changed", events_pb2.PaymentChanged)
    [version] = await desk.sql("SELECT version FROM payments WHERE user_id = %s", user_id)
    for told in (grants, orders):
        versions = [fact.version for fact in told]
        assert versions == [version["version"] - len(told) + 1 + place for place in range(len(told))]
    assert len({fact.source_id for fact in grants}) <= 1
    states: list[Any] = await facts(desk, "payments.checkout.changed", events_pb2.OrderCheckoutChanged)
    assert [fact.state for fact in states] == [events_pb2.ORDER_CHECKOUT_STATE_PAID] * bool(orders)
    last = orders[-1] if orders else None
    return {
        "net": grants[-1].net_points if grants else None,
        "order": (last.refunded_cents, last.disputed_cents, last.dispute) if last else None,
    }


async def facts(desk: Desk, subject: str, kind: Any) -> list[Any]:
    """By version, as whoever listens takes them."""
    rows = await desk.sql("SELECT payload FROM outbox WHERE subject = %s", subject)
    return sorted((kind.FromString(row["payload"]) for row in rows), key=lambda fact: fact.version)


@pytest.fixture(scope="module")
async def desk(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    process = PaymentsProcess(servers, tmp_path_factory.mktemp("desk"), name="payments_desk")
    create_database(process)
    address = f"127.0.0.1:{free_port()}"
    with sandbox_running(address, "127.0.0.1:9", tmp_path_factory.mktemp("sandbox")):
        sandbox = Sandbox(f"http://{address}")
        await until_healthy(sandbox.http)
        # The test delivers.
        await sandbox.control("webhooks", mode="drop")
        async with desk_on(process, sandbox) as desk:
            yield desk
        await sandbox.http.aclose()


# The same examples every time, and none made smaller: that would take longer than a test may.
STEADY = settings(derandomize=True, deadline=None, database=None, phases=(Phase.generate,))


def any_schedule(kind: Kind) -> st.SearchStrategy[list[Delivery]]:
    orders = st.permutations(range(len(kind.events)))
    return st.builds(schedule_of, orders, st.integers(0, 2**32))


@given(schedule=any_schedule(KINDS["points"]), fate=st.sampled_from(FATES))
@settings(STEADY, max_examples=20)
async def test_the_events_of_points_in_any_order_end_in_one_state(
    desk: Desk, schedule: list[Delivery], fate: Fate
) -> None:
    assert await play(desk, KINDS["points"], fate, schedule) == KINDS["points"].end(fate)


@given(schedule=any_schedule(KINDS["order"]), fate=st.sampled_from(FATES))
@settings(STEADY, max_examples=6)
async def test_the_events_of_an_order_in_any_order_end_in_one_state(
    desk: Desk, schedule: list[Delivery], fate: Fate
) -> None:
    assert await play(desk, KINDS["order"], fate, schedule) == KINDS["order"].end(fate)


@given(schedule=any_schedule(KINDS["subscription"]))
@settings(STEADY, max_examples=8)
async def test_the_events_of_a_subscription_in_any_order_end_in_one_state(
    desk: Desk, schedule: list[Delivery]
) -> None:
    assert await play(desk, KINDS["subscription"], FATES[0], schedule) == _subscription_end(FATES[0])


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", KINDS)
async def test_all_720_orders_end_in_one_state(
    desk: Desk, kind: str, record_property: Callable[[str, object], None]
) -> None:
    counted = Counter[str]()
    for number, order in enumerate(itertools.permutations(range(6))):
        fate, schedule = FATES[number % len(FATES)], schedule_of(order, SEED + number)
        assert await play(desk, KINDS[kind], fate, schedule) == KINDS[kind].end(fate), schedule
        counted.update(orders=1, deliveries=len(schedule), copies=len(schedule) - len(order))
    record_property("proof", dict(counted))
