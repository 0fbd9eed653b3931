"""The operator's commands as one types them, against a running shop."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import psycopg
from psycopg.rows import dict_row

from deploy.local import audit, tokens
from deploy.local.audit import events
from deploy.local.ephemeral import RunningStack, wait_until
from deploy.local.operator.client import operator_id
from deploy.local.parts import ROOT, base_environment
from tests.e2e.rest_client import Customer, pay, until

# A comparison waits up to 30 s for what it found, and one by schedule may go before.
_SECONDS = 120.0
A_TERMINAL = {"FORCE_COLOR": "1"}
OPERATOR = str(operator_id(os.getuid()))


class Said(NamedTuple):
    code: int | None
    out: str
    err: str


@asynccontextmanager
async def running(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, with nothing of the developer's own settings for it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "deploy.local.cli",
        *arguments,
        cwd=ROOT,
        env=base_environment() | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(process: asyncio.subprocess.Process) -> Said:
    async with asyncio.timeout(_SECONDS):
        out, err = await process.communicate()
    return Said(process.returncode, out.decode(), err.decode())


async def aishop(*arguments: str, **environment: str) -> Said:
    async with running(*arguments, **environment) as process:
        return await ended(process)


async def told(process: asyncio.subprocess.Process, words: str) -> None:
    """Returns when the command has printed a line with these words."""
    assert process.stdout is not None
    async with asyncio.timeout(_SECONDS):
        while words not in (line := (await process.stdout.readline()).decode()):
            assert line, f"it ended without: {words}"


def rows(stack: RunningStack, database: str, query: str, *values: object) -> list[dict[str, Any]]:
    with psycopg.connect(stack.file.database_urls[database], row_factory=dict_row) as connection:
        return connection.execute(query.encode(), values).fetchall()


async def control(stack: RunningStack, verb: str, where: str, /, **body: object) -> Any:
    async with httpx.AsyncClient(base_url=stack.file.stripe_url, trust_env=False) as sandbox:
        answer = await sandbox.request(verb, f"/_control/{where}", json=body)
        assert answer.is_success, answer.text
        return answer.json()


@asynccontextmanager
async def webhooks_lost(stack: RunningStack) -> AsyncIterator[None]:
    await control(stack, "POST", "webhooks", mode="drop")
    try:
        yield
    finally:
        await control(stack, "POST", "webhooks", mode="deliver")


@asynccontextmanager
async def stripe_ill(stack: RunningStack, path: str) -> AsyncIterator[None]:
    await control(stack, "POST", "faults", method="GET", path=path, kind="status", count=1_000)
    try:
        yield
    finally:
        await control(stack, "DELETE", "faults")


def intent_of(stack: RunningStack, customer: Customer) -> str:
    """Stripe's id of the customer's only payment."""
    query = "SELECT payment_intent_id FROM payments WHERE user_id = %s"
    [paid] = rows(stack, "payments", query, customer.user_id)
    return str(paid["payment_intent_id"])


async def stray(stack: RunningStack, customer: Customer) -> dict[str, Any]:
    """A parked payment: it names the customer and no checkout of the shop."""
    named = {"user_id": str(customer.user_id), "points_amount": "100", "checkout_id": str(uuid4())}
    paid = await control(stack, "POST", "payments", amount=999, metadata=named)
    query = "SELECT id::text, payment_intent_id FROM quarantine WHERE payment_intent_id = %s"
    wait_until(lambda: bool(rows(stack, "payments", query, paid["id"])), seconds=30, what="parked")
    return rows(stack, "payments", query, paid["id"])[0]


async def interrupted(*arguments: str) -> str:
    """Presses Ctrl-C when the command has said that Stripe does not answer; returns the run's id."""
    async with running(*arguments) as process:
        await told(process, "the last try stopped")
        process.send_signal(signal.SIGINT)
        said = await ended(process)
    assert said.code == 130
    found = re.fullmatch(
        r"the run is (\S+): it goes on in the background, and .+ follows it again\n", said.err
    )
    assert found, said
    return found[1]


async def test_reconcile_makes_up_for_a_lost_webhook_also_after_ctrl_c(
    stack: RunningStack, customer: Customer
) -> None:
    data = ("--data", str(stack.data))
    async with webhooks_lost(stack):
        opened = (await customer.http.post("/api/checkout/points", json={"packageId": "basic"})).json()
        await pay(await customer.page_of(opened["checkoutId"]))
    async with AsyncExitStack() as started:
        async with stripe_ill(stack, "/v1/events"):
            run_id = await interrupted("reconcile", "--since", "2h", *data)
            following = await started.enter_async_context(running("reconcile", *data))
            await told(following, "the last try stopped")
        said = await ended(following)
    assert (said.code, said.err) == (0, "")
    assert re.search(r"│ event: checkout.session.completed +│ 1 +│", said.out)
    assert re.search(r"^100 %  [1-9]\d* events seen, [1-9]\d* missing$", said.out, re.M)
    assert re.search(r"^objects  \d+ seen, \d+ changed$", said.out, re.M)
    assert re.search(r"^took     \d+\.\d s, for everything since \d{4}-", said.out, re.M)
    await until(customer.profile, lambda profile: profile["points"] > 0)

    query = "SELECT id::text, started_at - since AS back FROM reconciliations WHERE requested_by = %s"
    [run] = rows(stack, "payments", query, OPERATOR)
    assert run["id"] == run_id, "the second command has followed the first one's run"
    assert timedelta(hours=2) <= run["back"] < timedelta(hours=2, seconds=_SECONDS)
    again, seen = await asyncio.gather(
        aishop("reconcile", "--json", *data), aishop("reconcile", *data, **A_TERMINAL)
    )
    done = json.loads(again.out)
    assert (done["status"], done["eventsMissing"], done["drift"]) == ("done", 0, [])
    assert "━" in seen.out, "a bar"
    assert "no drift" in seen.out


async def test_events_are_listed_shown_and_replayed(stack: RunningStack, customer: Customer) -> None:
    file = ("--stack", str(stack.data / "stack.json"))
    began = datetime.now(UTC).isoformat()
    points = await customer.top_up()
    intent = intent_of(stack, customer)
    all_of_them, some_of_them = await asyncio.gather(
        aishop("events", "list", "--since", began, "--json", *file),
        aishop(
            "events", "list", "--search", intent, "--type", "payment_intent.*", "--status", "processed", *file
        ),
    )
    listed = json.loads(all_of_them.out)
    assert {event["type"] for event in listed} > {"payment_intent.succeeded", "checkout.session.completed"}
    assert re.findall(r"│ (?:evt_\w+) +│ (\S+)", some_of_them.out) == ["payment_intent.succeeded"]
    # The payment's events come in any order: one of them has paid the checkout.
    [(event_id, event_type)] = [
        (event["id"], event["type"])
        for event in listed
        if any(effect["change"] == "open -> paid" for effect in event["effects"])
    ]

    chosen = ("--type", event_type, "--status", "processed", "--since", began)
    shown, many = await asyncio.gather(
        aishop("events", "show", event_id, *file),
        aishop("replay", *chosen, "--reason", "all of them", *file),
    )
    assert shown.code == 0, shown
    assert re.search(rf"│ {event_id} +│ {event_type} +│", shown.out)
    assert re.search(r"│ checkout +│ \S+ +│ open -> paid +│", shown.out)
    assert json.loads(shown.out[shown.out.index("{") :])["id"] == event_id

    assert (many.code, many.err) == (0, "")
    assert many.out.startswith("events replayed: 1\n")
    assert re.search(rf"│ {event_id} +│ {event_type} +│ processed +│ 1 +│", many.out)
    some = await aishop("replay", "evt_unknown", event_id, "--reason", "this one", "--json", *file)
    assert some.code == 1
    assert some.err == "not replayed, since unknown or just being handled: evt_unknown\n"
    [event] = json.loads(some.out)["events"]
    assert (event["id"], event["status"], event["attempts"]) == (event_id, "processed", 1)

    assert (await customer.profile())["points"] == points
    query = "SELECT reason FROM audit_log WHERE actor = %s AND subject = %s ORDER BY seq"
    audited = [row["reason"] for row in rows(stack, "payments", query, OPERATOR, event_id)]
    assert audited == ["all of them", "this one"]


async def test_an_event_that_cannot_be_applied_is_set_aside(stack: RunningStack) -> None:
    """Until an operator decides, the audit names it as a finding; then as a note."""
    file = ("--stack", str(stack.data / "stack.json"))
    event_id = f"evt_{uuid4().hex}"
    with psycopg.connect(stack.file.database_urls["payments"]) as connection:
        connection.execute(
            "INSERT INTO stripe_events (id, type, created, payload, status, attempts, error, failed_at,"
            " lease_until) VALUES (%s, 'invoice.paid', now(), '', 'failed', 12, 'Malformed: odd', now(),"
            " now() + interval '1 day')",
            [event_id],
        )
    with audit.snapshots(stack.file.database_urls) as databases:
        [finding] = [found for check in events.CHECKS for found in check(databases)]
    assert finding.where == f"event {event_id}"
    listed = json.loads((await aishop("events", "list", "--status", "failed", "--json", *file)).out)
    assert [event["id"] for event in listed] == [event_id]
    done = await aishop("events", "set-aside", event_id, "--reason", "a test object", "--json", *file)
    event = json.loads(done.out)
    assert (event["status"], event["setAsideBy"]) == ("set_aside", OPERATOR)
    with audit.snapshots(stack.file.database_urls) as databases:
        assert [found for check in events.CHECKS for found in check(databases)] == []
        assert events.notes(databases) == [
            f"event {event_id} (invoice.paid) was set aside by {OPERATOR}: a test object"
        ]
    # Nothing can be read of it: it does not wait for the next test.
    with psycopg.connect(stack.file.database_urls["payments"]) as connection:
        connection.execute("DELETE FROM stripe_events WHERE id = %s", [event_id])


async def test_replay_says_what_still_waits_and_why(stack: RunningStack, customer: Customer) -> None:
    began = datetime.now(UTC).isoformat()
    await customer.top_up()
    intent = intent_of(stack, customer)
    async with httpx.AsyncClient(base_url=stack.file.stripe_url, trust_env=False) as stripe:
        headers = {"Authorization": f"Bearer {stack.file.stripe_secret_key}"}
        await stripe.post("/v1/refunds", data={"payment_intent": intent}, headers=headers)
    await until(customer.profile, lambda profile: profile["points"] == 0)

    chosen = ("--type", "charge.*", "--since", began)
    async with stripe_ill(stack, "/v1/refunds"):
        said = await aishop("replay", *chosen, "--reason", "again", "--wait", "1", "--data", str(stack.data))
    assert said.code == 1
    assert said.err.startswith("still waiting: 1; they are tried again by themselves")
    assert re.search(r"│ charge.refunded +│ received +│ \d +│ .+ │ ch_\w+ +│ \w+.* │", said.out)


async def test_parked_payments_are_listed_fulfilled_and_refunded(
    stack: RunningStack, customer: Customer
) -> None:
    data = ("--data", str(stack.data))
    unwanted, wanted = await stray(stack, customer), await stray(stack, customer)
    fulfilled = await aishop("quarantine", "fulfil", wanted["id"], "--reason", "they called", *data)
    assert fulfilled.code == 0, fulfilled
    assert re.search(rf"│ {wanted['id']} +│ fulfilled +│ unknown_checkout +│ 999 usd", fulfilled.out)
    assert OPERATOR in fulfilled.out
    await until(customer.profile, lambda profile: profile["points"] == 100)

    parked, late = await asyncio.gather(
        aishop("quarantine", "list", "--status", "parked", "--limit", "1", *data),
        aishop("quarantine", "refund", wanted["id"], "--reason", "too late", *data),
    )
    assert re.search(rf"│ {unwanted['id']} +│ parked +│.+│ {unwanted['payment_intent_id']} +│", parked.out)
    assert wanted["id"] not in parked.out
    assert late.code == 1
    assert re.fullmatch(r"error: quarantine_resolved: .+\n", late.err), late.err

    refunded = await aishop("quarantine", "refund", unwanted["id"], "--reason", "paid twice", "--json", *data)
    answer = json.loads(refunded.out)
    assert answer["status"] in ("refunding", "refunded")
    assert (answer["resolvedBy"], answer["resolutionReason"]) == (OPERATOR, "paid twice")


async def test_what_is_due_is_settled_outside_written_off_or_given_as_points(
    stack: RunningStack, customer: Customer
) -> None:
    because = ("--reason", "they called", "--json", "--data", str(stack.data))
    settled, stated = await stray(stack, customer), await stray(stack, customer)
    how = ("--amount-cents", "400", "--reference", "transfer 7")
    part = await aishop("quarantine", "settle-outside", settled["id"], *how, *because)
    rest = await aishop("quarantine", "write-off", settled["id"], *because)
    given = await aishop("quarantine", "fulfil", stated["id"], "--points", "70", *because)
    told = [json.loads(said.out) for said in (part, rest, given)]
    assert [(each["status"], each["dueCents"]) for each in told] == [
        ("parked", 599),
        ("written_off", 0),
        ("fulfilled", 0),
    ]
    assert (told[1]["settledOutsideCents"], told[1]["writtenOffCents"]) == (400, 599)
    await until(customer.profile, lambda profile: profile["points"] == 70)


async def test_an_order_is_refunded_shown_and_explained(stack: RunningStack, customer: Customer) -> None:
    data = ("--data", str(stack.data))
    await customer.top_up()
    products = (await customer.read("/api/products"))["items"]
    cheapest = min((each for each in products if each["pricePoints"]), key=lambda each: each["pricePoints"])
    items = [{"productId": cheapest["id"], "quantity": 2}]
    order_id = (await customer.buy("points", items=items)).json()["orderId"]
    await until(customer.profile, lambda profile: profile["pointsHeld"] == 0)

    # As the customer's mail prints it.
    number = order_id[-12:]
    asked = ("refund", number, "--reason", "a scratch", *data)
    wrong, once, twice = await asyncio.gather(
        aishop(*asked, "--item", "no product"),
        *(aishop(*asked, "--item", f"{cheapest['id']}=1", "--key", "k-refund") for _ in range(2)),
    )
    assert (wrong.code, once.code, twice.code) == (2, 0, 0), (wrong, once, twice)
    [refund_id] = set(re.findall(r"^│ (\S{36}) +│ \w+ +│", once.out + twice.out, re.M))
    await until(
        lambda: customer.order(order_id), lambda order: order["refundedPoints"] == cheapest["pricePoints"]
    )

    shown, told, as_json, retried, listed = await asyncio.gather(
        aishop("sagas", "show", number.upper(), *data),
        aishop("timeline", "--order", number, *data),
        aishop("timeline", "--user", str(customer.user_id), "--json", *data),
        aishop("sagas", "retry", number, "refund_order", "--reason", "again", *data),
        aishop("sagas", "list", "--status", "done", "--saga", "refund_order", "--limit", "500", *data),
    )
    assert re.search(rf"^│ {order_id} +│ refund_order/v1 +│ done", shown.out, re.M), shown
    assert re.search(rf"^│ {refund_id} +│ succeeded +│ +│ {cheapest['pricePoints']} +│", shown.out, re.M), (
        shown
    )
    assert re.search(r"│ wallet +│ ledger.spend +│ -\d+ points, .+ \(spend: Images\)", told.out), told
    assert re.search(r"│ orders +│ refund.succeeded +│ refund of \d+ points succeeded: a scratch", told.out)
    entries = json.loads(as_json.out)["entries"]
    assert {entry["service"] for entry in entries} == {"payments", "wallet", "orders"}
    assert (retried.code, retried.err.partition(":")[2].partition(":")[0]) == (1, " saga_ended")
    assert re.search(rf"^│ {order_id} +│ refund_order/v1 +│ done", listed.out, re.M), listed
    query = "SELECT action, actor FROM audit_log WHERE subject = %s"
    assert rows(stack, "orders", query, order_id) == [{"action": "order.refunded", "actor": OPERATOR}]


async def test_a_pending_order_is_turned_around(stack: RunningStack, customer: Customer) -> None:
    product_id = (await customer.read("/api/products"))["items"][0]["id"]
    placed = await customer.buy("stripe", items=[{"productId": product_id, "quantity": 1}])
    order_id = placed.json()["orderId"]
    told = await aishop(
        *("sagas", "compensate", order_id, "place_order_with_card", "--reason", "they called"),
        *("--data", str(stack.data), "--json"),
    )
    assert json.loads(told.out)["undoReason"] == "compensated_by_operator"
    await until(lambda: customer.order(order_id), lambda order: order["status"] == "failed")


async def test_points_are_adjusted_once_with_a_key(stack: RunningStack, customer: Customer) -> None:
    one, data = ("adjust", "--user", str(customer.user_id)), ("--data", str(stack.data))
    giving = (*one, "--points", "500", "--reason", "sorry", "--key", "k1", *data)
    first, again = await asyncio.gather(aishop(*giving), aishop(*giving))
    assert (first.code, again.code) == (0, 0), (first, again)
    assert re.fullmatch(r"\+500 points: transaction \S+, seq 1\nnow 500 points, .+\n", first.out)
    assert again.out == first.out

    taken = await aishop(*one, "--points", "-200", "--reason", "back", "--json", *data)
    assert json.loads(taken.out)["profile"]["points"] == 300
    query = "SELECT actor, reason FROM audit_log WHERE subject = %s ORDER BY seq"
    audited = [(row["actor"], row["reason"]) for row in rows(stack, "wallet", query, str(customer.user_id))]
    assert audited == [(OPERATOR, "sorry"), (OPERATOR, "back")]


async def test_another_deployment_is_entered_by_its_address_and_a_token(
    stack: RunningStack, customer: Customer
) -> None:
    token = tokens.mint(
        secret=stack.file.auth_jwt_secret,
        user_id=customer.user_id,
        email=None,
        operator=True,
        ttl_seconds=60,
    )
    giving = ("adjust", "--user", str(customer.user_id), "--points", "7", "--reason", "hello", "--key", "k7")
    # Nobody listens on the port of tcpmux.
    away = "http://127.0.0.1:1"
    given, wrong, unreachable = await asyncio.gather(
        aishop(*giving, AISHOP_URL=f"{stack.file.gateway_url}/", AISHOP_TOKEN=token),
        aishop("reconcile", AISHOP_URL=stack.file.gateway_url, AISHOP_TOKEN=f"{token}x"),
        aishop(*giving, AISHOP_URL=away, AISHOP_TOKEN=token),
    )
    assert given.code == 0, given
    query = "SELECT actor FROM audit_log WHERE subject = %s"
    [audited] = rows(stack, "wallet", query, str(customer.user_id))
    assert audited["actor"] == str(customer.user_id), "the one whom the token names"
    assert (wrong.code, wrong.out) == (unreachable.code, unreachable.out) == (1, "")
    assert re.fullmatch(r"error: invalid_token: The token is not valid[^\n]*\n", wrong.err), wrong.err
    away_line = rf"error: no answer from {away}[^\n]+; repeat with --key k7, and it happens once\n"
    assert re.fullmatch(away_line, unreachable.err), unreachable.err
