"""What the shop tells operators of itself over REST: the numbers of a range, and what operators did."""

from datetime import UTC, datetime
from uuid import uuid4

from tests.e2e.rest_client import JSON, Customer, pay, until
from tests.e2e.test_rest_operators import ADJUSTMENTS, EVENTS, act
from tests.e2e.test_rest_orders import line, product_of

ANALYTICS, AUDIT = "/api/admin/analytics", "/api/admin/audit"


async def numbers(operator: Customer, since: datetime, to: datetime | None = None) -> JSON:
    answer = await operator.http.get(
        ANALYTICS, params={"from": since.isoformat(), **({"to": to.isoformat()} if to else {})}
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_what_a_customer_did_is_in_the_numbers(operator: Customer, customer: Customer) -> None:
    began = datetime.now(UTC)
    bought_points = await customer.top_up()
    product = await product_of(customer)
    cents, points = product["priceCents"], product["pricePoints"]
    # Two pieces with points, two by card on the second try, and one that there are not points enough for.
    with_points = (await customer.buy("points", items=[line(product, 2)])).json()["orderId"]
    by_card = (await customer.buy("stripe", items=[line(product, 2)])).json()["orderId"]
    order = await until(lambda: customer.order(by_card), lambda order: order["url"] is not None)
    await pay(order["url"], "decline")
    await pay(order["url"])
    await until(lambda: customer.order(by_card), lambda order: order["status"] == "completed")
    assert (await customer.buy("points", items=[line(product, 900)])).status_code == 402
    # One piece of each goes back.
    for order_id in (with_points, by_card):
        refund = await act(operator, f"/api/admin/orders/{order_id}/refunds", items=[line(product)])
        assert refund.status_code == 201, refund.text
    left = bought_points - 2 * points + points
    await until(customer.profile, lambda profile: profile["points"] == left)
    await until(lambda: customer.order(by_card), lambda order: order["refundedCents"] == cents)
    told = await until(
        lambda: numbers(operator, began),
        lambda told: (told["revenue"]["refundedCents"], told["failures"]["declinedPayments"]) == (cents, 1),
    )

    assert told["conversion"] == {
        **{"customersWithCart": 1, "customersOrdering": 1, "customersPaying": 1},
        **{"orderingRate": 1.0, "payingRate": 1.0, "overallRate": 1.0},
        **{"ordersPlaced": 3, "ordersPaid": 2, "ordersPaidRate": 0.6667},
    }
    assert told["paymentMethods"] == [
        {"method": "points", "placed": 2, "paid": 1, "cents": 0, "points": 2 * points},
        {"method": "stripe", "placed": 1, "paid": 1, "cents": 2 * cents, "points": 0},
    ]
    assert told["failures"] == {
        **{"failedOrders": 1, "cancelledOrders": 0, "failureRate": 0.3333},
        "reasons": [{"status": "failed", "reason": "insufficient_points", "orders": 1}],
        # One try of three.
        **{"declinedPayments": 1, "declinedInvoices": 0, "declineRate": 0.3333},
    }
    revenue, gross_cents = told["revenue"], 2 * cents + told["revenue"]["pointsPackages"]["cents"]
    assert revenue == {
        "currency": "usd",
        "orders": {"payments": 1, "cents": 2 * cents},
        "pointsPackages": {"payments": 1, "cents": revenue["pointsPackages"]["cents"]},
        "subscriptions": {"payments": 0, "cents": 0},
        **{"grossCents": gross_cents, "refundedCents": cents, "disputedCents": 0, "lostCents": 0},
        "netCents": gross_cents - cents,
    }
    assert revenue["pointsPackages"]["cents"] > 0
    assert (
        told["points"].items()
        >= {
            **{"sold": bought_points, "spent": 2 * points, "refunded": points, "reversed": 0, "adjusted": 0},
        }.items()
    )
    assert told["points"]["now"]["outstanding"] >= left
    assert told["spending"] == {
        "cents": {"median": 2 * cents, "p90": 2 * cents, "max": 2 * cents},
        "points": {"median": 2 * points, "p90": 2 * points, "max": 2 * points},
        "ordersPerPayingCustomer": 2.0,
    }
    assert told["topProducts"] == [
        {
            **{"productId": product["id"], "title": product["title"]},
            **{"pieces": 2, "cents": cents, "points": points},
        }
    ]
    webhooks = told["webhooks"]
    assert webhooks["received"] >= webhooks["processed"] >= 4
    assert webhooks["failing"] == 0
    assert 0 <= webhooks["lagMs"]["p50"] <= webhooks["lagMs"]["p99"] < 60_000
    assert 0 <= webhooks["processingMs"]["p50"] <= webhooks["processingMs"]["p99"] < 60_000


async def test_a_range_without_anything_has_no_rates(operator: Customer) -> None:
    told = await numbers(operator, datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC))
    assert (told["from"], told["to"]) == ("2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z")
    assert {
        name: told["conversion"][name] for name in ("customersWithCart", "payingRate", "overallRate")
    } == {
        "customersWithCart": 0,
        "payingRate": None,
        "overallRate": None,
    }
    assert (told["failures"]["failureRate"], told["failures"]["declineRate"]) == (None, None)
    assert told["spending"] == {"cents": None, "points": None, "ordersPerPayingCustomer": None}
    assert (told["revenue"]["netCents"], told["topProducts"]) == (0, [])
    assert (told["webhooks"]["lagMs"], told["webhooks"]["processingMs"]) == (None, None)


async def test_the_last_thirty_days_are_told_without_asking(operator: Customer) -> None:
    told = await operator.read(ANALYTICS)
    began, ended = (datetime.fromisoformat(told[name]) for name in ("from", "to"))
    assert (ended - began).days == 30
    assert abs((datetime.now(UTC) - ended).total_seconds()) < 60


async def test_what_operators_did_in_every_service_is_one_list(
    operator: Customer, customer: Customer
) -> None:
    await customer.top_up("premium")
    product = await product_of(customer)
    order_id = (await customer.buy("points", items=[line(product)])).json()["orderId"]
    given = {"userId": str(customer.user_id), "points": 5}
    assert (await act(operator, ADJUSTMENTS, **given)).status_code == 201
    processed = await until(
        lambda: operator.read(f"{EVENTS}?type=checkout.session.completed&status=processed&limit=1"),
        lambda found: len(found["items"]) == 1,
    )
    replay = await act(operator, f"{EVENTS}/{processed['items'][0]['id']}/replay")
    assert replay.status_code == 200, replay.text
    assert (await act(operator, f"/api/admin/orders/{order_id}/refunds")).status_code == 201
    assert (await act(operator, ADJUSTMENTS, **given)).status_code == 201

    mine = await operator.read(f"{AUDIT}?actor={operator.user_id}")
    assert [(entry["service"], entry["action"]) for entry in mine["items"]] == [
        ("wallet", "points.adjusted"),
        ("orders", "order.refunded"),
        ("payments", "stripe_events.replayed"),
        ("wallet", "points.adjusted"),
    ]
    assert mine["nextCursor"] is None
    refunded = mine["items"][1]
    assert (refunded["actor"], refunded["subject"], refunded["reason"]) == (
        *(str(operator.user_id), order_id),
        "a test",
    )
    assert refunded["details"]["points"] == product["pricePoints"]
    about = await operator.read(f"{AUDIT}?subject={order_id}")
    assert about == {"items": [refunded], "nextCursor": None}
    assert await operator.read(f"{AUDIT}?actor={uuid4()}") == {"items": [], "nextCursor": None}

    pages: list[JSON] = []
    cursor = ""
    while cursor is not None:
        page = await operator.read(f"{AUDIT}?actor={operator.user_id}&limit=1&cursor={cursor}")
        assert len(page["items"]) == 1
        pages += page["items"]
        cursor = page["nextCursor"]
    assert pages == mine["items"]
    everyone = (await operator.read(AUDIT))["items"]
    assert [entry for entry in everyone if entry["actor"] == str(operator.user_id)] == mine["items"]
