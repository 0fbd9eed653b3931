"""What operators do over REST, that nobody else may, and that each of it is in the audit log."""

import hmac
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import psycopg

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import JSON, Customer, control, pay, sign_in, until

ADJUSTMENTS = "/api/admin/points/adjustments"
EVENTS = "/api/admin/stripe/events"
QUARANTINE = "/api/admin/quarantine"
# What a customer can write about oneself, or what Supabase says of every customer.
IMPOSTORS: list[JSON] = [
    {"user_metadata": {"role": "operator"}},
    {"role": "operator"},
    {"app_metadata": {"role": ["operator"], "roles": ["operator"]}},
]


async def act(operator: Customer, path: str, **body: Any) -> httpx.Response:
    return await operator.http.post(path, json={"reason": "a test", **body})


def audited(stack: RunningStack, database: str, operator: Customer) -> list[tuple[str, str, str]]:
    """Action, subject and reason of what this operator did, the oldest first."""
    with psycopg.connect(stack.file.database_urls[database]) as connection:
        return connection.execute(
            "SELECT action, subject, reason FROM audit_log WHERE actor = %s ORDER BY seq",
            [str(operator.user_id)],
        ).fetchall()


async def test_who_is_no_operator_hears_403_before_anything_else(stack: RunningStack) -> None:
    async with AsyncExitStack() as together:
        impostors = [
            await together.enter_async_context(
                sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret, **claims)
            )
            for claims in IMPOSTORS
        ]
        paths: JSON = (await impostors[0].read("/openapi.json"))["paths"]
        routes = [
            (method.upper(), path.replace("{", "").replace("}", ""))
            for path, methods in paths.items()
            for method in methods
            if path.startswith("/api/admin/")
        ]
        assert len(routes) >= 10
        for impostor in impostors:
            for method, path in routes:
                # The ids are none, and the body is no JSON.
                answer = await impostor.http.request(method, path, content=b"{")
                assert (answer.status_code, answer.json()["code"]) == (403, "operator_only"), path
        for method, path in routes:
            stranger = await impostors[0].http.request(method, path, headers={"Authorization": ""})
            assert (stranger.status_code, stranger.json()["code"]) == (401, "missing_token"), path


async def test_an_adjustment_takes_effect_once_under_its_key(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    key = {"Idempotency-Key": f"thanks-{uuid4()}"}
    body = {"userId": str(customer.user_id), "points": 40, "reason": "  for your patience "}
    first, again = [await operator.http.post(ADJUSTMENTS, json=body, headers=key) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert first.headers["Idempotency-Key"] == key["Idempotency-Key"]
    assert first.json()["profile"]["points"] == (await customer.profile())["points"] == 40
    [line] = (await customer.read("/api/points/transactions"))["items"]
    assert line == first.json()["transaction"]
    assert (line["type"], line["description"]) == ("adjustment", "for your patience")

    for other in ({"points": 41}, {"reason": "another"}, {"userId": str(uuid4())}):
        reused = await operator.http.post(ADJUSTMENTS, json=body | other, headers=key)
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
    assert audited(stack, "wallet", operator) == [
        ("points.adjusted", str(customer.user_id), "for your patience")
    ]


async def test_the_key_of_another_operator_is_another_key(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    key = {"Idempotency-Key": "1"}
    body = {"userId": str(customer.user_id), "points": 1, "reason": "a test"}
    async with sign_in(
        stack.file.gateway_url, stack.file.auth_jwt_secret, app_metadata={"role": "operator"}
    ) as colleague:
        for somebody in (operator, colleague):
            assert (await somebody.http.post(ADJUSTMENTS, json=body, headers=key)).status_code == 201
    assert (await customer.profile())["points"] == 2


async def test_taken_points_that_are_not_there_become_debt_until_it_is_forgiven(
    operator: Customer, customer: Customer
) -> None:
    balances = []
    for points in (30, -50, 20):
        body = {"userId": str(customer.user_id), "points": points, "reason": "a test"}
        profile = (await operator.http.post(ADJUSTMENTS, json=body)).json()["profile"]
        balances.append((profile["points"], profile["pointsDebt"]))
    assert balances == [(30, 0), (0, 20), (0, 0)]


async def test_the_actor_is_who_the_token_says(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    body = {
        "userId": str(customer.user_id),
        "points": 1,
    }
    spoofed = await act(operator, ADJUSTMENTS, **body, actor="somebody else")
    assert (spoofed.status_code, spoofed.json()["code"]) == (422, "invalid_request")
    assert (await act(operator, ADJUSTMENTS, **body)).status_code == 201
    assert len(audited(stack, "wallet", operator)) == 1


async def events_of(operator: Customer, customer: Customer) -> list[JSON]:
    """What Stripe told of a package that the customer bought just now, the newest first."""
    opened = (await customer.http.post("/api/checkout/points", json={"packageId": "basic"})).json()
    await pay(await customer.page_of(opened["checkoutId"]))
    wanted = {"payment_intent.created", "payment_intent.succeeded", "charge.succeeded"}

    async def told() -> JSON:
        completed = (await operator.read(f"{EVENTS}?search={opened['sessionId']}"))["items"]
        intents = {event["paymentIntentId"] for event in completed}
        items = (await operator.read(f"{EVENTS}?search={intents.pop()}"))["items"] if intents else []
        return {"items": items, "handled": {each["type"] for each in items if each["status"] != "received"}}

    found = await until(told, lambda found: found["handled"] == wanted | {"checkout.session.completed"})
    return list(found["items"])


async def test_stripes_events_are_found_shown_and_handled_again(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    told = await events_of(operator, customer)
    [listed] = [each for each in told if each["type"] == "checkout.session.completed"]
    path = f"{EVENTS}/{listed['id']}"
    event = await operator.read(path)
    session = event.pop("payload")["data"]["object"]
    assert event == listed
    assert (event["status"], event["error"], event["objectId"]) == ("processed", None, session["id"])
    assert session["metadata"]["user_id"] == str(customer.user_id)
    # Every event of the purchase has spoken, and one of them has given the points.
    effects = [effect["kind"] for each in told for effect in each["effects"]]
    assert (effects.count("payment"), effects.count("grant")) == (1, 1)

    profile = await until(customer.profile, lambda profile: profile["points"] > 0)
    ledger = await customer.read("/api/points/transactions")
    replayed = await act(operator, f"{path}/replay")
    assert (replayed.status_code, replayed.json()) == (200, {"ids": [event["id"]]})
    handled = await until(lambda: operator.read(path), lambda now: now["status"] == "processed")
    assert handled["processedAt"] > event["processedAt"]
    several = await act(operator, f"{EVENTS}/replay", ids=[event["id"], "evt_unknown"])
    assert several.json() == {"ids": [event["id"]]}
    await until(lambda: operator.read(path), lambda now: now["status"] == "processed")
    assert await customer.profile() == profile
    assert await customer.read("/api/points/transactions") == ledger
    assert (
        audited(stack, "payments", operator)
        == [
            ("stripe_events.replayed", event["id"], "a test"),
        ]
        * 2
    )


async def test_an_event_that_is_being_handled_is_not_replayed(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    [event, *_] = await events_of(operator, customer)
    with leased(stack, event["id"]):
        busy = await act(operator, f"{EVENTS}/{event['id']}/replay")
        assert (busy.status_code, busy.json()["code"]) == (409, "stripe_event_busy")
    assert (await act(operator, f"{EVENTS}/{event['id']}/replay")).json() == {"ids": [event["id"]]}


@contextmanager
def leased(stack: RunningStack, event_id: str) -> Iterator[None]:
    """As if a worker had the event in its hands."""
    change = "UPDATE stripe_events SET lease_token = %s WHERE id = %s"
    with psycopg.connect(stack.file.database_urls["payments"], autocommit=True) as connection:
        connection.execute(change, [uuid4(), event_id])
        try:
            yield
        finally:
            connection.execute(change, [None, event_id])


async def test_an_event_is_shown_as_it_was_signed(stack: RunningStack, operator: Customer) -> None:
    """Text that no decoder gives back, and a number that no float holds."""
    event_id, moment = f"evt_{uuid4().hex}", int(time.time())
    signed = (
        f'{{"id":"{event_id}","object":"event","type":"nothing.we_know","created":{moment},'
        r'"data":{"object":{"name":"half a pair: \ud800","number":1e999}}}'
    )
    secret = stack.file.stripe_webhook_secret.encode()
    signature = hmac.new(secret, f"{moment}.{signed}".encode(), "sha256").hexdigest()
    header = {"Stripe-Signature": f"t={moment},v1={signature}"}
    assert (await operator.http.post("/api/webhooks/stripe", content=signed, headers=header)).is_success
    shown = await operator.http.get(f"{EVENTS}/{event_id}")
    assert shown.status_code == 200, shown.text
    assert shown.text.endswith(f'"payload":{signed}}}')


async def test_events_are_filtered_and_paged_from_the_newest_to_the_oldest(
    operator: Customer, customer: Customer
) -> None:
    told = await events_of(operator, customer)
    search = f"{EVENTS}?search={told[0]['paymentIntentId']}"
    received = [event["receivedAt"] for event in told]
    assert received == sorted(received, reverse=True)
    first = await operator.read(f"{search}&limit=3")
    rest = await operator.read(f"{search}&limit=3&cursor={first['nextCursor']}")
    assert (first["items"] + rest["items"], rest["nextCursor"]) == (told, None)
    narrower: dict[str, Callable[[JSON], bool]] = {
        "type=payment_intent.*": lambda event: event["type"].startswith("payment_intent."),
        "type=charge.succeeded": lambda event: event["type"] == "charge.succeeded",
        "status=ignored": lambda event: event["status"] == "ignored",
        f"since={received[1]}": lambda event: event["receivedAt"] >= received[1],
    }
    for condition, is_meant in narrower.items():
        found = (await operator.read(f"{search}&{condition}"))["items"]
        assert found == [event for event in told if is_meant(event)], condition
        assert 0 < len(found) < len(told), condition


async def test_a_replay_names_its_events_in_one_way(stack: RunningStack, operator: Customer) -> None:
    unclear: tuple[JSON, ...] = (
        {},
        {"ids": []},
        {"ids": ["evt_1"], "type": "charge.*"},
        {"ids": ["evt_1"], "status": "ignored"},
    )
    for body in unclear:
        answer = await act(operator, f"{EVENTS}/replay", **body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), body
    nothing = await act(operator, f"{EVENTS}/replay", type="nothing.of_this", status="processed")
    assert nothing.json() == {"ids": []}
    unknown = await act(operator, f"{EVENTS}/evt_unknown/replay")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "stripe_event_not_found")
    # What did nothing is no entry.
    assert audited(stack, "payments", operator) == []


async def stray(stack: RunningStack, operator: Customer, customer: Customer, *, points: str = "100") -> JSON:
    """A payment that bears our metadata and belongs to no checkout, as the operator sees it."""
    metadata = {"user_id": str(customer.user_id), "points_amount": points, "checkout_id": str(uuid4())}
    paid = await control(stack.file.stripe_url, "payments", amount=999, metadata=metadata)

    async def parked() -> JSON:
        items = (await operator.read(f"{QUARANTINE}?status=parked&limit=100"))["items"]
        return {item["paymentIntentId"]: item for item in items}

    return dict((await until(parked, lambda found: paid["id"] in found))[paid["id"]])


async def test_a_parked_payment_is_fulfilled_once(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    parked = await stray(stack, operator, customer)
    assert (parked["reason"], parked["amountCents"], parked["points"], parked["userId"]) == (
        *("unknown_checkout", 999, 100),
        str(customer.user_id),
    )
    assert (parked["resolvedBy"], parked["resolvedAt"]) == (None, None)
    answers = [await act(operator, f"{QUARANTINE}/{parked['id']}/fulfil") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert (parked["dueCents"], parked["settledOutsideCents"], parked["writtenOffCents"]) == (999, 0, 0)
    assert answers[0].json() | {"resolvedAt": None} == parked | {
        "status": "fulfilled",
        "dueCents": 0,
        "resolvedBy": str(operator.user_id),
        "resolutionReason": "a test",
    }
    await until(customer.profile, lambda profile: profile["points"] == 100)
    other_way = await act(operator, f"{QUARANTINE}/{parked['id']}/refund")
    assert (other_way.status_code, other_way.json()["code"]) == (409, "quarantine_resolved")
    assert other_way.json()["currentStatus"] == "fulfilled"
    assert audited(stack, "payments", operator) == [("quarantine.fulfilled", parked["id"], "a test")]


async def test_a_parked_payment_is_refunded_once(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    parked = await stray(stack, operator, customer)
    for _ in range(2):
        answer = await act(operator, f"{QUARANTINE}/{parked['id']}/refund")
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] in ("refunding", "refunded")

    async def refunded() -> JSON:
        items = (await operator.read(f"{QUARANTINE}?status=refunded&limit=100"))["items"]
        return {item["id"]: item for item in items}

    await until(refunded, lambda found: parked["id"] in found)
    async with httpx.AsyncClient(base_url=stack.file.stripe_url, trust_env=False) as stripe:
        listed = await stripe.get(
            "/v1/refunds",
            params={"payment_intent": parked["paymentIntentId"]},
            headers={"Authorization": f"Bearer {stack.file.stripe_secret_key}"},
        )
    assert [refund["amount"] for refund in listed.json()["data"]] == [999]
    other_way = await act(operator, f"{QUARANTINE}/{parked['id']}/fulfil")
    assert (other_way.status_code, other_way.json()["code"]) == (409, "quarantine_resolved")
    assert (await customer.profile())["points"] == 0
    assert audited(stack, "payments", operator) == [("quarantine.refunding", parked["id"], "a test")]


async def test_what_is_due_is_settled_outside_and_the_rest_written_off(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    parked = await stray(stack, operator, customer)
    way = f"{QUARANTINE}/{parked['id']}"
    said = {"reason": "a test", "amountCents": 400, "reference": "transfer 7"}
    for _ in range(2):
        part = await operator.http.post(f"{way}/settle-outside", json=said)
        assert (part.status_code, part.json()["status"], part.json()["dueCents"]) == (200, "parked", 599)
    more = said | {"amountCents": 600, "reference": "transfer 8"}
    beyond = await operator.http.post(f"{way}/settle-outside", json=more)
    assert (beyond.status_code, beyond.json()["code"], beyond.json()["due"]) == (
        409,
        "settlement_exceeds_due",
        599,
    )
    rest = await act(operator, f"{way}/write-off")
    assert (rest.json()["status"], rest.json()["dueCents"], rest.json()["writtenOffCents"]) == (
        *("written_off", 0),
        599,
    )
    assert rest.json()["settlementReference"] == "transfer 7"
    assert audited(stack, "payments", operator) == [
        ("quarantine.settled_outside", parked["id"], "a test"),
        ("quarantine.written_off", parked["id"], "a test"),
    ]


async def test_what_names_no_purchase_cannot_be_fulfilled_and_the_unknown_is_not_found(
    stack: RunningStack, operator: Customer, customer: Customer
) -> None:
    parked = await stray(stack, operator, customer, points="0")
    refused = await act(operator, f"{QUARANTINE}/{parked['id']}/fulfil")
    assert (refused.status_code, refused.json()["code"]) == (409, "cannot_fulfil")
    for what in ("fulfil", "refund"):
        unknown = await act(operator, f"{QUARANTINE}/{uuid4()}/{what}")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "quarantine_not_found")


async def test_a_reconciliation_is_asked_for_and_followed(operator: Customer) -> None:
    since = datetime.now(UTC) - timedelta(minutes=5)
    started = await operator.http.post("/api/admin/reconciliations", json={"since": since.isoformat()})
    assert started.status_code == 202, started.text
    assert datetime.fromisoformat(started.json()["since"]) == since
    assert started.headers["Location"] == f"/api/admin/reconciliations/{started.json()['id']}"
    done = await until(
        lambda: operator.read(started.headers["Location"]), lambda run: run["status"] == "done"
    )
    assert (done["percent"], done["error"]) == (100, None)
    assert done["finishedAt"] >= done["startedAt"]
    assert done["eventsMissing"] <= done["eventsSeen"]
    # Without a body: the last day.
    assert (await operator.http.post("/api/admin/reconciliations")).status_code == 202
    unknown = await operator.http.get(f"/api/admin/reconciliations/{uuid4()}")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "reconciliation_not_found")
