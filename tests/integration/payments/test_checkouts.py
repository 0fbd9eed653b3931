"""Opening a checkout: what each RPC answers, and one session whatever happens on the way to Stripe."""

import asyncio
from typing import Any
from uuid import uuid4

import grpc
import pytest

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import (
    SHOP_ID,
    SHOP_URL,
    Payments,
    PaymentsProcess,
    payments_running,
    refused,
)
from tests.integration.payments.stripe_double import StripeDouble

NOT_FOUND, ABORTED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED
INVALID, UNAVAILABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE


async def test_packages_are_listed_with_their_price(payments: Payments) -> None:
    packages = (await payments.stub.ListPackages(pb.ListPackagesRequest())).packages
    assert {package.id for package in packages} == {"basic", "premium", "pro"}
    [premium] = [package for package in packages if package.id == "premium"]
    assert (premium.points, premium.price_cents, premium.currency) == (550, 3999, "usd")


async def test_a_points_checkout_opens_one_session_that_says_what_it_is_for(payments: Payments) -> None:
    checkout = await payments.points_checkout(points=550, price_cents=3999)
    assert checkout.status == pb.CHECKOUT_STATUS_OPEN
    [session] = payments.stripe.of(checkout.id)
    assert (checkout.session_id, checkout.url) == (session["id"], session["url"])
    ours = {
        "user_id": str(payments.user_id),
        "points_amount": "550",
        "package_id": "premium",
        "checkout_id": checkout.id,
        "shop": SHOP_ID,
    }
    assert session["metadata"] == session["payment_intent_metadata"] == ours
    assert (session["amount_total"], session["customer_email"]) == (3999, "buyer@example.com")
    assert session["success_url"] == f"{SHOP_URL}/checkout/success?checkout_id={checkout.id}"
    assert session["expires_at"] == checkout.expires_at.seconds
    assert checkout.expires_at.seconds - checkout.created_at.seconds == 45 * 60
    assert await payments.get(checkout.id) == checkout


async def test_the_email_is_not_stored_in_the_clear(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    assert b"buyer@example.com" not in (await payments.row(checkout.id))["request"]


async def test_the_same_key_and_body_give_the_same_checkout(payments: Payments) -> None:
    first = await payments.points_checkout(key="k")
    assert await payments.points_checkout(key="k") == first
    assert len(payments.stripe.of(first.id)) == 1


async def test_the_same_key_with_another_body_is_refused(payments: Payments) -> None:
    await payments.points_checkout(key="k")
    with refused("IDEMPOTENCY_KEY_REUSED", INVALID):
        await payments.points_checkout(key="k", package_id="basic")


async def test_twenty_twins_open_one_session(payments: Payments) -> None:
    answers = await asyncio.gather(
        *(payments.points_checkout(key="k") for _ in range(20)), return_exceptions=True
    )
    checkouts = [answer for answer in answers if isinstance(answer, pb.Checkout)]
    errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(checkouts) + len(errors) == 20
    assert {error.code() for error in errors} <= {ABORTED}
    [checkout_id] = {checkout.id for checkout in checkouts}
    assert len(payments.stripe.of(checkout_id)) == 1


async def test_a_retry_while_the_first_request_runs_is_told_so(payments: Payments) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(_: object) -> None:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(4)

    payments.stripe.before_answer = wait
    first = asyncio.create_task(payments.points_checkout(key="k"))
    await entered.wait()
    with refused("REQUEST_IN_FLIGHT", ABORTED, retry_after_seconds="1"):
        await payments.points_checkout(key="k")
    go_on.set()
    assert (await first).status == pb.CHECKOUT_STATUS_OPEN


async def test_an_unknown_package_is_not_found_and_stays_so_under_its_key(payments: Payments) -> None:
    for _ in range(2):
        with refused("PACKAGE_NOT_FOUND", NOT_FOUND, package_id="gold"):
            await payments.points_checkout(key="k", package_id="gold")
    assert not await payments.sql("SELECT 1 FROM checkouts WHERE user_id = %s", payments.user_id)
    kept = await payments.sql("SELECT 1 FROM idempotency_keys WHERE user_id = %s", payments.user_id)
    assert len(kept) == 1


@pytest.mark.parametrize("believed", [{"points": 5500}, {"price_cents": 1}, {"points": 0}])
async def test_what_the_client_believes_is_compared_and_never_used(
    payments: Payments, believed: dict[str, Any]
) -> None:
    with refused("PRICE_CHANGED", ABORTED, points="550", price_cents="3999", currency="usd"):
        await payments.points_checkout(**believed)
    assert not await payments.sql("SELECT 1 FROM checkouts WHERE user_id = %s", payments.user_id)


@pytest.mark.parametrize("key", [" " * 256, "a\nb", "é"])
async def test_a_malformed_key_is_refused(payments: Payments, key: str) -> None:
    with refused("INVALID_IDEMPOTENCY_KEY", INVALID):
        await payments.points_checkout(key=key)


async def test_a_price_that_changes_midway_changes_no_checkout(payments: Payments) -> None:
    payments.stripe.accidents = ["503"]
    checkout = await payments.points_checkout(key="k")
    assert checkout.status == pb.CHECKOUT_STATUS_CREATING
    price = "UPDATE points_packages SET price_cents = %s, points = %s WHERE id = 'premium'"
    await payments.sql(price, 1, 10_000)
    try:
        await payments.points_checkout(key="k")
        session = payments.stripe.complete((await payments.row(checkout.id))["session_id"])
        await payments.deliver("checkout.session.completed", session)
    finally:
        await payments.sql(price, 3999, 550)
    assert session["amount_total"] == 3999
    [grant] = await payments.facts(
        "payments.points.grant_changed", events_pb2.PointsGrantChanged, checkout.id
    )
    assert grant.net_points == 550


async def test_another_users_checkout_is_not_found(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    with refused("CHECKOUT_NOT_FOUND", NOT_FOUND):
        await payments.get(checkout.id, user_id=uuid4())
    with refused("INVALID_FIELD", INVALID, field="checkout_id"):
        await payments.get("17")


async def test_stripe_is_called_again_under_the_same_key_while_it_is_busy(payments: Payments) -> None:
    payments.stripe.accidents = ["409", "429"]
    before = len(payments.stripe.creations)
    checkout = await payments.points_checkout()
    assert checkout.status == pb.CHECKOUT_STATUS_OPEN
    calls = payments.stripe.creations[before:]
    assert calls == [(f"checkout:{checkout.id}:1", status) for status in (409, 429, 200)]


async def test_a_timeout_with_effect_gives_one_session(payments: Payments) -> None:
    payments.stripe.accidents = ["effect_then_timeout"]
    checkout = await payments.points_checkout()
    assert (checkout.status, checkout.url) == (pb.CHECKOUT_STATUS_CREATING, "")
    row = await payments.until_status(checkout.id, "open")
    [session] = payments.stripe.of(checkout.id)
    assert row["session_id"] == session["id"]


async def test_a_retry_takes_an_unfinished_checkout_further(payments: Payments) -> None:
    payments.stripe.accidents = ["503"]
    first = await payments.points_checkout(key="k")
    assert first.status == pb.CHECKOUT_STATUS_CREATING
    second = await payments.points_checkout(key="k")
    assert (second.id, second.status) == (first.id, pb.CHECKOUT_STATUS_OPEN)


@pytest.mark.parametrize(("accident", "attempt"), [("stored_500", 2), ("effect_then_stored_500", 1)])
async def test_a_stored_failure_is_settled_by_the_listing(
    payments: Payments, accident: str, attempt: int
) -> None:
    payments.stripe.accidents = [accident]
    checkout = await payments.points_checkout()
    assert checkout.status == pb.CHECKOUT_STATUS_CREATING
    row = await payments.until_status(checkout.id, "open")
    [session] = payments.stripe.of(checkout.id)
    assert (row["session_id"], row["attempt"]) == (session["id"], attempt)


async def test_after_its_attempt_nothing_is_created_under_the_key(payments: Payments) -> None:
    """Stripe has forgotten the key: calling again would open a second session."""
    payments.stripe.accidents = ["effect_then_timeout"]
    creating = asyncio.create_task(payments.points_checkout())
    [row] = await payments.until("SELECT id FROM checkouts WHERE user_id = %s", payments.user_id)
    await payments.change(str(row["id"]), "attempt_until = now() - interval '1 second'")
    payments.stripe.forget_keys()
    checkout = await creating
    payments.stripe.forget_keys()
    await payments.until_status(checkout.id, "open")
    assert len(payments.stripe.of(checkout.id)) == 1


async def test_a_key_of_other_parameters_is_settled_by_the_listing(payments: Payments) -> None:
    """A release that sends other parameters cannot replay the key; the session may exist all the same."""
    payments.stripe.accidents = ["effect_then_timeout"]
    checkout = await payments.points_checkout()
    payments.stripe.forget_parameters(checkout.id)
    row = await payments.until_status(checkout.id, "open")
    [session] = payments.stripe.of(checkout.id)
    assert (row["session_id"], row["attempt"]) == (session["id"], 1)


async def test_of_two_sessions_one_is_adopted_and_the_other_ended(payments: Payments) -> None:
    payments.stripe.accidents = ["effect_then_timeout"]
    creating = asyncio.create_task(payments.points_checkout())
    [row] = await payments.until("SELECT id FROM checkouts WHERE user_id = %s", payments.user_id)
    await payments.change(str(row["id"]), "attempt_until = now() - interval '1 second'")
    async with asyncio.timeout(5):
        while not (found := payments.stripe.of(str(row["id"]))):
            await asyncio.sleep(0.01)
    payments.stripe.duplicate(found[0]["id"])
    checkout = await creating
    row = await payments.until_status(checkout.id, "open")
    async with asyncio.timeout(5):
        while len(open_ones := [s for s in payments.stripe.of(checkout.id) if s["status"] == "open"]) > 1:
            await asyncio.sleep(0.01)
    assert [session["id"] for session in open_ones] == [row["session_id"]]


async def test_too_late_for_another_attempt_the_checkout_expires(payments: Payments) -> None:
    payments.stripe.accidents = ["503"] * 3
    with refused("CHECKOUT_CREATING", UNAVAILABLE):
        await payments.order_checkout()
    [row] = await payments.sql("SELECT id FROM checkouts WHERE user_id = %s", payments.user_id)
    checkout_id = str(row["id"])
    await payments.change(
        checkout_id, "attempt_until = now() - interval '1 second', expires_at = now() + interval '30 minutes'"
    )
    await payments.until_status(checkout_id, "expired")
    assert payments.stripe.of(checkout_id) == []
    [fact] = await payments.facts("payments.checkout.changed", events_pb2.OrderCheckoutChanged, checkout_id)
    assert fact.state == events_pb2.ORDER_CHECKOUT_STATE_EXPIRED


async def test_a_definite_refusal_fails_the_checkout(payments: Payments) -> None:
    payments.stripe.accidents = ["400"]
    for _ in range(2):
        with refused("CHECKOUT_REFUSED", grpc.StatusCode.FAILED_PRECONDITION, stripe_code="amount_too_small"):
            await payments.points_checkout(key="k")
    [row] = await payments.sql("SELECT status FROM checkouts WHERE user_id = %s", payments.user_id)
    assert row["status"] == "failed"


async def test_an_address_that_stripe_refuses_vetoes_no_purchase(payments: Payments) -> None:
    payments.stripe.accidents = ["email"]
    made = len(payments.stripe.creations)
    checkout = await payments.points_checkout(key="k")
    assert checkout.status == pb.CHECKOUT_STATUS_OPEN
    [session] = payments.stripe.of(checkout.id)
    assert session["customer_email"] is None
    keys = [key for key, _ in payments.stripe.creations[made:]]
    assert keys == [f"checkout:{checkout.id}:1", f"checkout:{checkout.id}:2"]
    assert await payments.points_checkout(key="k") == checkout


async def test_any_other_refusal_stays_one(payments: Payments) -> None:
    payments.stripe.accidents = ["email", "400"]
    with refused("CHECKOUT_REFUSED", grpc.StatusCode.FAILED_PRECONDITION, stripe_code="amount_too_small"):
        await payments.points_checkout()


@pytest.mark.parametrize(
    ("email", "sent"),
    [
        (" k@example.com\n", "k@example.com"),
        ('"john doe"@example.com', None),
        ("nobody", None),
        ("k@example.com" * 40, None),
    ],
)
async def test_one_definition_of_an_address_for_all_checkouts(
    payments: Payments, email: str, sent: str | None
) -> None:
    common: Any = {"user_id": str(payments.user_id), "email": email}
    key = str(uuid4())
    points = pb.CreatePointsCheckoutRequest(**common, idempotency_key=key, package_id="basic")
    plan = pb.CreateSubscriptionCheckoutRequest(**common, idempotency_key=key, plan_id="monthly")
    order = payments.order_request(uuid4())
    order.email = email
    opened = [
        (await payments.stub.CreatePointsCheckout(points)).checkout,
        (await payments.stub.CreateSubscriptionCheckout(plan)).checkout,
        (await payments.stub.CreateOrderCheckout(order)).checkout,
    ]
    assert [payments.stripe.of(each.id)[0]["customer_email"] for each in opened] == [sent] * 3


async def test_a_crash_before_the_call_without_the_address_leaves_one_session(
    process: PaymentsProcess, stripe_double: StripeDouble, payments: Payments
) -> None:
    user_id, point = payments.user_id, "payments.checkout.email_dropped"
    stripe_double.accidents = ["email"]
    async with payments_running(process, stripe_double, FAILPOINTS=f"{point}=kill") as doomed:
        doomed.user_id = user_id
        with payments.paused(), pytest.raises(grpc.aio.AioRpcError):
            await doomed.points_checkout(key="k")
    await payments.sql("UPDATE checkouts SET lease_until = now() WHERE user_id = %s", user_id)
    [row] = await payments.until("SELECT * FROM checkouts WHERE user_id = %s AND status = 'open'", user_id)
    [session] = stripe_double.of(str(row["id"]))
    assert (session["customer_email"], row["attempt"]) == (None, 2)


async def test_a_key_that_stripe_rejects_fails_no_checkout(payments: Payments) -> None:
    payments.stripe.accidents = ["401"]
    checkout = await payments.points_checkout()
    assert checkout.status == pb.CHECKOUT_STATUS_CREATING
    await payments.until_status(checkout.id, "open")


@pytest.mark.parametrize(
    "point",
    ["payments.checkout.written", "payments.stripe.session_created", "payments.checkout.opened"],
)
async def test_a_crash_around_the_call_leaves_one_session(
    process: PaymentsProcess, stripe_double: StripeDouble, payments: Payments, point: str
) -> None:
    user_id = payments.user_id
    async with payments_running(process, stripe_double, FAILPOINTS=f"{point}=kill") as doomed:
        doomed.user_id = user_id
        with pytest.raises(grpc.aio.AioRpcError):
            await doomed.points_checkout(key="k")
        doomed.started.process.wait(10)
    [row] = await payments.sql("SELECT id FROM checkouts WHERE user_id = %s", user_id)
    # What the lease protects is dead: do not wait for it to run out.
    await payments.change(str(row["id"]), "lease_until = now()")
    await payments.until_status(str(row["id"]), "open")
    assert len(stripe_double.of(str(row["id"]))) == 1
    assert (await payments.points_checkout(key="k")).status == pb.CHECKOUT_STATUS_OPEN


async def test_an_order_has_one_checkout_however_often_it_is_asked_for(payments: Payments) -> None:
    order_id = uuid4()
    first = await payments.order_checkout(order_id)
    assert (first.order_id, first.amount_cents, first.points) == (str(order_id), 1500, 0)
    assert await payments.order_checkout(order_id) == first
    [session] = payments.stripe.of(first.id)
    assert session["metadata"] == {
        "user_id": str(payments.user_id),
        "order_id": str(order_id),
        "checkout_id": first.id,
        "shop": SHOP_ID,
    }
    assert session["amount_total"] == 1500


async def test_another_amount_for_the_same_order_is_a_mismatch(payments: Payments) -> None:
    order_id = uuid4()
    await payments.order_checkout(order_id)
    with refused("CHECKOUT_MISMATCH", ABORTED):
        await payments.stub.CreateOrderCheckout(payments.order_request(order_id, unit_price_cents=1))


async def test_another_users_order_is_a_mismatch(payments: Payments) -> None:
    order_id = uuid4()
    await payments.order_checkout(order_id)
    payments.user_id = uuid4()
    with refused("CHECKOUT_MISMATCH", ABORTED):
        await payments.order_checkout(order_id)
    with refused("CHECKOUT_NOT_FOUND", NOT_FOUND):
        await payments.expire(order_id)


@pytest.mark.parametrize(
    "change",
    [
        {"currency": "USD"},
        {"lines": []},
        {"lines": [pb.OrderLine(title="x", unit_price_cents=0, quantity=1)]},
        {"lines": [pb.OrderLine(title="x", unit_price_cents=1, quantity=-1)]},
        {"lines": [pb.OrderLine(title="", unit_price_cents=1, quantity=1)]},
        {"lines": [pb.OrderLine(title="\0", unit_price_cents=1, quantity=1)]},
        {"lines": [pb.OrderLine(title="x", unit_price_cents=99_999_999, quantity=2)]},
    ],
)
async def test_a_malformed_order_is_refused(payments: Payments, change: dict[str, object]) -> None:
    request = payments.order_request(uuid4())
    for name, value in change.items():
        request.ClearField(name)  # type: ignore[arg-type]
        request.MergeFrom(pb.CreateOrderCheckoutRequest(**{name: value}))  # type: ignore[arg-type]
    with refused("INVALID_FIELD", INVALID):
        await payments.stub.CreateOrderCheckout(request)


async def test_an_order_whose_checkout_is_not_known_to_be_open_is_asked_for_again(payments: Payments) -> None:
    order_id = uuid4()
    payments.stripe.accidents = ["503"]
    with refused("CHECKOUT_CREATING", UNAVAILABLE):
        await payments.order_checkout(order_id)
    assert (await payments.order_checkout(order_id)).status == pb.CHECKOUT_STATUS_OPEN


async def test_an_open_order_is_expired_at_stripe_first(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    expired = await payments.expire(checkout.order_id)
    assert (expired.id, expired.status) == (checkout.id, pb.CHECKOUT_STATUS_EXPIRED)
    assert payments.stripe.sessions[checkout.session_id]["status"] == "expired"
    assert await payments.expire(checkout.order_id) == expired
    [fact] = await payments.facts("payments.checkout.changed", events_pb2.OrderCheckoutChanged, checkout.id)
    assert (fact.state, fact.version) == (events_pb2.ORDER_CHECKOUT_STATE_EXPIRED, 3)


async def test_expiring_a_paid_session_says_paid(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    payments.stripe.complete(checkout.session_id)
    paid = await payments.expire(checkout.order_id)
    assert paid.status == pb.CHECKOUT_STATUS_PAID
    assert paid.payment_intent_id == f"pi_{checkout.session_id}"


async def test_expiring_a_session_whose_money_is_on_its_way_says_processing(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    payments.stripe.complete(checkout.session_id, paid=False)
    assert (await payments.expire(checkout.order_id)).status == pb.CHECKOUT_STATUS_PROCESSING


async def test_expire_before_create_leaves_a_tombstone(payments: Payments) -> None:
    order_id = uuid4()
    assert (await payments.expire(order_id)).status == pb.CHECKOUT_STATUS_EXPIRED
    assert (await payments.expire(order_id)).status == pb.CHECKOUT_STATUS_EXPIRED
    with refused("CHECKOUT_EXPIRED", ABORTED):
        await payments.order_checkout(order_id)


async def test_expiring_an_unfinished_checkout_settles_its_session_first(payments: Payments) -> None:
    order_id = uuid4()
    payments.stripe.accidents = ["effect_then_timeout"]
    with refused("CHECKOUT_CREATING", UNAVAILABLE):
        await payments.order_checkout(order_id)
    checkout = await payments.expire(order_id)
    assert checkout.status == pb.CHECKOUT_STATUS_EXPIRED
    assert [session["status"] for session in payments.stripe.of(checkout.id)] == ["expired"]
