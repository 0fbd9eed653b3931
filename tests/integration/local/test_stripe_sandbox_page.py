"""The hosted payment page: pay, decline, abandon; too late; twice at once."""

import asyncio
import signal
import sqlite3
import time

from tests.integration.local.conftest import Sandbox, eventually

SUCCEEDED = ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]


async def test_the_page_shows_what_is_bought_and_escapes_it(sandbox: Sandbox) -> None:
    session = await sandbox.open(customer_email="buyer@shop.test")
    answer = await sandbox.http.get(f"/c/pay/{session.id}")
    assert answer.status_code == 200
    assert "550 points &amp; &lt;b&gt;more&lt;/b&gt;" in answer.text
    assert "<b>more" not in answer.text
    assert "47.98 EUR" in answer.text
    assert '<html lang="en">' in answer.text
    for action in ("pay", "decline", "abandon"):
        assert f'name="action" value="{action}"' in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_a_page_of_another_name_sees_nothing(sandbox: Sandbox) -> None:
    """DNS rebinding; own_host.py says more."""
    for path in ("/", "/_control/state", "/v1/events"):
        assert (await sandbox.http.get(path, headers={"Host": "evil.example"})).status_code == 421


async def test_paying_completes_the_session(sandbox: Sandbox) -> None:
    session = await sandbox.open(
        metadata={"order_id": "o1"}, payment_intent_data={"metadata": {"order_id": "o1"}}
    )
    answer = await sandbox.press(session.id, "pay")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"https://shop.test/success?session={session.id}"
    paid = await sandbox.retrieve(session.id)
    assert (paid.status, paid.payment_status, paid.url) == ("complete", "paid", None)
    assert paid.metadata.to_dict() == {"order_id": "o1"}
    intent = await sandbox.client.v1.payment_intents.retrieve_async(paid.payment_intent)
    assert (intent.status, intent.amount_received) == ("succeeded", 4798)
    assert intent.metadata.to_dict() == {"order_id": "o1"}
    charge = await sandbox.client.v1.charges.retrieve_async(str(intent.latest_charge))
    assert (charge.paid, charge.payment_intent) == (True, intent.id)
    events = await sandbox.client.v1.events.list_async({"limit": 4})
    assert [event.type for event in events.data][::-1] == [*SUCCEEDED, "checkout.session.completed"]
    assert events.data[0].data.object.to_dict() == paid.to_dict()


async def test_a_declined_card_leaves_the_session_open_for_another_try(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    answer = await sandbox.press(session.id, "decline")
    assert answer.status_code == 402
    assert 'role="alert"' in answer.text
    assert "Your card was declined." in answer.text
    declined = await sandbox.retrieve(session.id)
    assert (declined.status, declined.payment_status) == ("open", "unpaid")
    intent = await sandbox.client.v1.payment_intents.retrieve_async(declined.payment_intent)
    assert intent.status == "requires_payment_method"
    assert intent.last_payment_error
    assert intent.last_payment_error.code == "card_declined"
    events = await sandbox.client.v1.events.list_async({"limit": 3})
    assert events.data[0].type == "payment_intent.payment_failed"
    assert (await sandbox.press(session.id, "pay")).status_code == 303
    assert (await sandbox.retrieve(session.id)).payment_intent == intent.id
    intent = await sandbox.client.v1.payment_intents.retrieve_async(intent.id)
    assert (intent.status, intent.last_payment_error) == ("succeeded", None)


async def test_abandoning_goes_back_and_changes_nothing(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    answer = await sandbox.press(session.id, "abandon")
    assert (answer.status_code, answer.headers["location"]) == (303, "https://shop.test/cancel")
    assert (await sandbox.retrieve(session.id)).to_dict() == session.to_dict()


async def test_two_pays_at_once_are_one_payment(sandbox: Sandbox) -> None:
    for _ in range(20):
        session = await sandbox.open()
        before = await sandbox.state()
        answers = await asyncio.gather(*(sandbox.press(session.id, "pay") for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [303, 409, 409, 409, 409]
        after = await sandbox.state()
        assert after["payment_intents"] - before["payment_intents"] == 1
        assert after["charges"] - before["charges"] == 1
        assert after["events"] - before["events"] == 4


async def test_a_session_that_is_over_takes_no_payment(sandbox: Sandbox) -> None:
    paid, expired = await sandbox.open(), await sandbox.open()
    await sandbox.press(paid.id, "pay")
    ended = await sandbox.control(f"sessions/{expired.id}/expire_now")
    assert ended["expires_at"] <= time.time()
    before = await sandbox.state()
    for action in ("pay", "decline", "abandon"):
        assert (await sandbox.press(paid.id, action)).status_code == 409
        assert (await sandbox.press(expired.id, action)).status_code == 410
    assert (await sandbox.http.get(f"/c/pay/{paid.id}")).status_code == 200
    assert (await sandbox.http.get(f"/c/pay/{expired.id}")).status_code == 410
    assert (await sandbox.http.post(f"/_control/sessions/{expired.id}/expire_now")).status_code == 400
    after = await sandbox.state()
    assert [after[name] for name in ("charges", "events")] == [before[name] for name in ("charges", "events")]


async def test_nonsense_on_the_page_changes_nothing(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    assert (await sandbox.press(session.id, "steal")).status_code == 400
    assert (await sandbox.http.post(f"/c/pay/{session.id}", content=b"\xff" * 9_000)).status_code == 400
    assert (await sandbox.press("cs_test_none", "pay")).status_code == 404
    assert (await sandbox.retrieve(session.id)).status == "open"


async def test_the_front_page_lists_sessions_and_events_with_links(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    await sandbox.press(session.id, "pay")
    event = (await sandbox.events_of(session.id))[0]
    front = await sandbox.http.get("/")
    assert f'href="/c/pay/{session.id}"' in front.text
    assert f'href="/events/{event.id}"' in front.text
    shown = await sandbox.http.get(f"/events/{event.id}")
    assert (shown.status_code, session.id in shown.text) == (200, True)
    assert (await sandbox.http.get("/events/evt_none")).status_code == 404


async def test_a_session_expires_by_itself(own_sandbox: Sandbox) -> None:
    session = await own_sandbox.open()
    own_sandbox.process.end(signal.SIGTERM)
    _set_expiry(own_sandbox, session.id, int(time.time()) + 1)
    await own_sandbox.process.start()
    await eventually(
        lambda: own_sandbox.endpoint.about(session.id) == ["checkout.session.expired"], "it expires"
    )
    assert (await own_sandbox.retrieve(session.id)).status == "expired"
    assert (await own_sandbox.press(session.id, "pay")).status_code == 410


def _set_expiry(sandbox: Sandbox, session_id: str, expires_at: int) -> None:
    """Moves the session's end in the stopped sandbox's file: Stripe itself takes 30 minutes at least."""
    path = f"{sandbox.process.environment['SANDBOX_DATA']}/stripe.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute(
            "UPDATE objects SET body = json_set(body, '$.expires_at', ?) WHERE id = ?",
            (expires_at, session_id),
        )
    db.close()


async def test_a_page_that_takes_codes_is_paid_with_less_or_with_nothing(sandbox: Sandbox) -> None:
    session = await sandbox.open(allow_promotion_codes=True)
    for action, discount in (("half_off", 2399), ("free", 4798)):
        assert (await sandbox.press(session.id, action)).status_code == 303
        now = await sandbox.retrieve(session.id)
        assert (now.amount_subtotal, now.amount_total) == (4798, 4798 - discount)
        assert now.total_details is not None
        assert now.total_details.amount_discount == discount
    assert (await sandbox.press(session.id, "pay")).status_code == 303
    paid = await sandbox.retrieve(session.id)
    assert (paid.status, paid.payment_status, paid.payment_intent) == (
        "complete",
        "no_payment_required",
        None,
    )


async def test_a_page_that_takes_no_codes_says_so(sandbox: Sandbox) -> None:
    session = await sandbox.open()
    assert "half_off" not in (await sandbox.http.get(f"/c/pay/{session.id}")).text
    assert (await sandbox.press(session.id, "half_off")).status_code == 400
    assert (await sandbox.retrieve(session.id)).amount_total == 4798
