"""Stripe's wire format: the official client and plain HTTP against /v1."""

import base64
import time
from typing import Any

import httpx
import pytest
import stripe

from tests.integration.local.conftest import KEY, VERSION, Sandbox, session_params
from tests.integration.local.declared_types import missing_fields, wrong_types

BEARER = {"Authorization": f"Bearer {KEY}"}
SESSIONS = "/v1/checkout/sessions"


async def test_the_official_client_creates_a_session_and_reads_it_back(sandbox: Sandbox) -> None:
    metadata = {"user_id": "7", "0": "digit"}
    created = await sandbox.open(
        client_reference_id="checkout-1",
        metadata=metadata,
        payment_intent_data={"metadata": {"order": "1"}},
        customer_email="buyer@shop.test",
        expires_at=int(time.time()) + 2700,
    )
    assert created.to_dict() == (await sandbox.retrieve(created.id)).to_dict()
    assert created.amount_total == 4798
    assert created.metadata.to_dict() == metadata
    assert (created.status, created.payment_status) == ("open", "unpaid")
    assert created.payment_intent is None
    assert created.url == f"{sandbox.url}/c/pay/{created.id}"
    assert created.last_response.headers["stripe-version"] == VERSION
    assert created.last_response.headers["request-id"].startswith("req_")


async def test_objects_have_every_field_that_their_types_declare(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    await sandbox.press(session.id, "decline")
    await sandbox.press(session.id, "pay")
    paths = ["line_items", "payment_intent.latest_charge"]
    session = await sandbox.sessions.retrieve_async(session.id, {"expand": paths})
    intent = await sandbox.client.v1.payment_intents.retrieve_async(session.payment_intent.id)
    charge = await sandbox.client.v1.charges.retrieve_async(str(intent.latest_charge))
    events = await sandbox.events_of(session.id)
    event = await sandbox.client.v1.events.retrieve_async(events[0].id)
    kinds = (stripe.checkout.Session, stripe.PaymentIntent, stripe.Charge, stripe.Event)
    for value, kind in zip((session, intent, charge, event), kinds, strict=True):
        assert isinstance(value, kind)
        assert missing_fields(value) == []
        assert wrong_types(value) == []
    # Of a session also those that may be null.
    assert set(stripe.checkout.Session.__annotations__) - {"OBJECT_NAME"} == set(session.to_dict())
    assert intent.amount_received == charge.amount_captured == 4798
    assert session.payment_intent.latest_charge.id == charge.id


async def test_every_attempt_to_pay_is_listed_newest_first(sandbox: Sandbox) -> None:
    intents = []
    for _ in range(3):
        session = await sandbox.open()
        await sandbox.press(session.id, "decline")
        await sandbox.press(session.id, "pay")
        intents.append((await sandbox.retrieve(session.id)).payment_intent)
    listed = sandbox.client.v1.payment_intents
    first = await listed.list_async({"limit": 2})
    rest = await listed.list_async({"limit": 1, "starting_after": first.data[-1].id})
    assert [intent.id for intent in (*first.data, *rest.data)] == intents[::-1]
    charges = await sandbox.client.v1.charges.list_async({"payment_intent": intents[0]})
    assert [(charge.status, charge.payment_intent) for charge in charges.data] == [
        ("succeeded", intents[0]),
        ("failed", intents[0]),
    ]
    nonsense: Any = {"nonsense": "1"}
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter: nonsense"):
        await listed.list_async(nonsense)


async def test_expansion_of_a_list_and_of_a_field_that_cannot_be_expanded(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    await sandbox.press(session.id, "pay")
    listed = await sandbox.sessions.list_async({"limit": 1, "expand": ["data.payment_intent"]})
    assert listed.data[0].payment_intent.status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError, match=r"cannot be expanded \(metadata\)"):
        await sandbox.sessions.retrieve_async(session.id, {"expand": ["metadata"]})
    items = await sandbox.sessions.line_items.list_async(session.id)
    assert [item.amount_total for item in items.data] == [3999, 799]


@pytest.mark.parametrize("escaped", [True, False])
async def test_brackets_may_be_escaped_or_not(sandbox: Sandbox, escaped: bool) -> None:
    body = (
        "mode=payment&success_url=https://shop.test/ok&line_items[0][quantity]=2"
        "&line_items[0][price_data][currency]=EUR&line_items[0][price_data][unit_amount]=100"
        "&line_items[0][price_data][product_data][name]=A+b%26c"
    )
    body = body.replace("[", "%5B").replace("]", "%5D") if escaped else body
    headers = BEARER | {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await sandbox.http.post(SESSIONS, content=body, headers=headers)
    assert answer.status_code == 200
    assert (answer.json()["amount_total"], answer.json()["currency"]) == (200, "eur")


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"success_url": None}, "success_url", "parameter_missing"),
        ({"line_items": None}, "line_items", "parameter_missing"),
        ({"mode": None}, "mode", "parameter_missing"),
        ({"nonsense": "1"}, "nonsense", "parameter_unknown"),
        ({"payment_intent_data": {"nonsense": "1"}}, "payment_intent_data[nonsense]", "parameter_unknown"),
        ({"line_items": [{"quantity": 1}]}, "line_items[0][price_data]", "parameter_missing"),
        ({"line_items": [{"price": "price_x", "quantity": 1}]}, "line_items[0][price]", "resource_missing"),
        ({"line_items": "x"}, "line_items", None),
        ({"success_url": ""}, "success_url", "parameter_invalid_empty"),
        ({"success_url": "javascript:1"}, "success_url", "url_invalid"),
        ({"customer_email": "nobody"}, "customer_email", "email_invalid"),
        ({"expires_at": "soon"}, "expires_at", "parameter_invalid_integer"),
        ({"expires_at": int(time.time()) + 600}, "expires_at", None),
        ({"expires_at": int(time.time()) + 90_000}, "expires_at", None),
        ({"metadata": {"k": "v" * 501}}, "metadata[k]", None),
        ({"metadata": {f"k{n}": "v" for n in range(51)}}, "metadata", None),
        ({"client_reference_id": "x" * 201}, "client_reference_id", None),
    ],
)
async def test_bad_parameters_are_named(
    sandbox: Sandbox, change: dict[str, Any], param: str, code: str | None
) -> None:
    params = {name: value for name, value in session_params(**change).items() if value is not None}
    before = (await sandbox.state())["sessions"]
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await sandbox.sessions.create_async(params)
    assert (caught.value.http_status, caught.value.param, caught.value.code) == (400, param, code)
    assert (await sandbox.state())["sessions"] == before


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ({"quantity": 0}, "parameter_invalid_integer"),
        ({"quantity": -1}, "parameter_invalid_integer"),
        ({"unit_amount": "1.5"}, "parameter_invalid_integer"),
        ({"unit_amount": 10}, "amount_too_small"),
        ({"unit_amount": 99_999_999, "quantity": 2}, "amount_too_large"),
        ({"currency": "euro"}, None),
    ],
)
async def test_bad_lines_are_refused(sandbox: Sandbox, line: dict[str, Any], code: str | None) -> None:
    price = {"currency": "eur", "unit_amount": 100, "product_data": {"name": "x"}} | line
    quantity = price.pop("quantity", 1)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await sandbox.open(line_items=[{"price_data": price, "quantity": quantity}])
    assert caught.value.code == code


async def test_what_does_not_exist_is_404(sandbox: Sandbox) -> None:
    client = sandbox.client.v1
    for call in (
        client.checkout.sessions.retrieve_async("cs_test_none"),
        client.checkout.sessions.expire_async("cs_test_none"),
        client.payment_intents.retrieve_async("pi_none"),
        client.charges.retrieve_async("ch_none"),
        client.events.retrieve_async("evt_none"),
    ):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await call
        assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")
    unknown = await sandbox.http.delete("/v1/nothing/here", headers=BEARER)
    assert unknown.status_code == 404
    assert unknown.json()["error"]["type"] == "invalid_request_error"


async def test_only_the_secret_key_is_let_in(sandbox: Sandbox) -> None:
    basic = base64.b64encode(f"{KEY}:".encode()).decode()
    allowed = [f"Bearer {KEY}", f"bearer {KEY}", f"Basic {basic}"]
    refused = ["", "Bearer", "Bearer sk_test_other", "Basic !!!", f"Token {KEY}", "Bearer \u00e9"]
    for header in allowed:
        assert (await _list(sandbox, header)).status_code == 200
    for header in refused:
        answer = await _list(sandbox, header)
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert KEY not in answer.text


async def _list(sandbox: Sandbox, authorization: str) -> httpx.Response:
    headers = {b"Authorization": authorization.encode()} if authorization else {}
    return await sandbox.http.get(SESSIONS, headers=headers)


@pytest.mark.parametrize(
    "body",
    [b"\xff\xfe=1", b"a=1&a[b]=2", b"a[b]=2&a=1", b"[]=1", b"a]b[=1", b"a" + b"[x]" * 50 + b"=1", b"%FF=%FF"],
)
async def test_a_malformed_form_is_400(sandbox: Sandbox, body: bytes) -> None:
    headers = BEARER | {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await sandbox.http.post(SESSIONS, content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_json_and_oversize_bodies_are_refused(sandbox: Sandbox) -> None:
    assert (await sandbox.http.post(SESSIONS, json={}, headers=BEARER)).status_code == 400
    form = BEARER | {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await sandbox.http.post(SESSIONS, content=b"a=" + b"x" * 300_000, headers=form)
    assert answer.status_code == 413


async def test_lists_page_both_ways_and_filter(sandbox: Sandbox) -> None:
    start = int(time.time())
    made = [(await sandbox.open()).id for _ in range(5)]
    newest_first = made[::-1]
    listing = sandbox.sessions.list_async
    first = await listing({"created": {"gte": start - 1, "lte": start + 60}, "limit": 2})
    assert [item.id for item in first.data] == newest_first[:2]
    assert first.has_more
    second = await listing({"limit": 2, "starting_after": newest_first[1]})
    assert [item.id for item in second.data] == newest_first[2:4]
    back = await listing({"limit": 2, "ending_before": newest_first[3]})
    assert [item.id for item in back.data] == newest_first[1:3]
    assert back.has_more
    everything = [item.id async for item in (await listing({"limit": 2})).auto_paging_iter()]
    assert everything[:5] == newest_first
    assert (await listing({"created": {"gt": start + 60}})).data == []
    assert (await listing({"created": {"lt": start - 3600}})).data == []
    await sandbox.press(made[0], "pay")
    paid = await sandbox.retrieve(made[0])
    found = await listing({"payment_intent": paid.payment_intent})
    assert [item.id for item in found.data] == [made[0]]
    complete = await listing({"status": "complete", "limit": 100})
    assert {item.status for item in complete.data} == {"complete"}


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 101},
        {"starting_after": "cs_none"},
        {"starting_after": "a", "ending_before": "b"},
        {"created": {"gte": "x"}},
        {"created": {"since": 1}},
        {"status": "lost"},
        {"nonsense": 1},
    ],
)
async def test_bad_list_parameters_are_400(sandbox: Sandbox, params: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await sandbox.sessions.list_async(params)
    assert caught.value.http_status == 400


async def test_events_are_listed_by_type_and_by_delivery(sandbox: Sandbox) -> None:
    await sandbox.control("webhooks", {"mode": "drop"})
    session = await sandbox.open()
    await sandbox.press(session.id, "pay")
    listing = sandbox.client.v1.events.list_async
    one = await listing({"type": "checkout.session.completed", "limit": 1})
    assert one.data[0].data.object.id == session.id
    assert one.data[0].pending_webhooks == 1
    group = await listing({"type": "charge.*", "limit": 100})
    assert {event.type.split(".")[0] for event in group.data} == {"charge"}
    types = ["charge.succeeded", "payment_intent.created"]
    several = await listing({"types": types, "limit": 100})
    assert {event.type for event in several.data} == set(types)
    undelivered = await listing({"delivery_success": False, "limit": 4})
    assert one.data[0].id in [event.id for event in undelivered.data]
    delivered = await listing({"delivery_success": True, "limit": 100})
    assert one.data[0].id not in [event.id for event in delivered.data]
    with pytest.raises(stripe.InvalidRequestError):
        await listing({"type": "charge.succeeded", "types": types})


async def test_expiring_ends_an_open_session_once(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    await sandbox.press(session.id, "decline")
    ended = await sandbox.sessions.expire_async(session.id, None, {"idempotency_key": f"end-{session.id}"})
    assert (ended.status, ended.url) == ("expired", None)
    intent = await sandbox.client.v1.payment_intents.retrieve_async(ended.payment_intent)
    assert intent.status == "canceled"
    with pytest.raises(stripe.InvalidRequestError, match="status of expired") as caught:
        await sandbox.sessions.expire_async(session.id)
    assert caught.value.http_status == 400
    (event,) = await sandbox.events_of(session.id)
    assert event.type == "checkout.session.expired"
    assert event.request.idempotency_key == f"end-{session.id}"
    assert event.request.id.startswith("req_")
