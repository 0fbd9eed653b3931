"""Test clocks through the API (docs.stripe.com/api/test_clocks)."""

from deploy.local.stripe_sandbox import checkout, subscriptions
from deploy.local.stripe_sandbox.calls import Call, found, listed
from deploy.local.stripe_sandbox.errors import invalid
from deploy.local.stripe_sandbox.events import Origin, emit
from deploy.local.stripe_sandbox.objects import customer, test_clock
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Object, Store

KIND = "test_helpers.test_clock"
_MAX_TIME = 1 << 40
_TWO_YEARS = 2 * 366 * 24 * 3600


def create(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/test_helpers/test_clocks"""
    frozen_time = call.params.integer("frozen_time", least=0, most=_MAX_TIME)
    if frozen_time is None:
        raise call.params.missing("frozen_time")
    clock = test_clock.build(frozen_time=frozen_time, name=call.params.text("name"), now=call.now)
    call.params.finish()
    sandbox.store.add(clock)
    emit(sandbox.store, f"{KIND}.created", clock, now=call.now, origin=call.origin)
    return clock


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/test_helpers/test_clocks/{id}"""
    call.params.finish()
    return found(sandbox, call, KIND, param="test_clock")


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/test_helpers/test_clocks"""
    return listed(sandbox, call, KIND, [])


def advance(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/test_helpers/test_clocks/{id}/advance: at Stripe this takes a while, here it is done at
    once"""
    clock = found(sandbox, call, KIND, param="test_clock")
    to = call.params.integer("frozen_time", least=0, most=_MAX_TIME)
    call.params.finish()
    if to is None:
        raise call.params.missing("frozen_time")
    if not clock["frozen_time"] < to <= clock["frozen_time"] + _TWO_YEARS:
        message = "A test clock goes forward, and no more than two years at a time."
        raise invalid(message, param="frozen_time")
    subscriptions.advance(sandbox.store, clock, to=to)
    advanced = clock | {"frozen_time": to}
    sandbox.store.update(advanced)
    emit(sandbox.store, f"{KIND}.ready", advanced, now=call.now, origin=call.origin)
    return advanced


def delete(sandbox: Sandbox, call: Call) -> Object:
    """DELETE /v1/test_helpers/test_clocks/{id}: with its customers, whose subscriptions end"""
    clock = found(sandbox, call, KIND, param="test_clock")
    call.params.finish()
    _end_all(sandbox.store, clock, call)
    if sandbox.store.switch(subscriptions.CLOCK, "") == clock["id"]:
        sandbox.store.set_switch(subscriptions.CLOCK, "")
    sandbox.store.execute("DELETE FROM objects WHERE id = ?", clock["id"])
    emit(sandbox.store, f"{KIND}.deleted", clock, now=call.now, origin=call.origin)
    return {"id": clock["id"], "object": KIND, "deleted": True}


def _end_all(store: Store, clock: Object, call: Call) -> None:
    now = clock["frozen_time"]
    for subscription in subscriptions.running_on(store, clock["id"]):
        subscriptions.end(store, subscription, reason="cancellation_requested", now=now, origin=call.origin)
    for owner in _owners(store, clock):
        # No one is left to pay.
        for session in _open_sessions(store, owner):
            checkout.expire(store, session, now=call.now, origin=Origin())
        store.update(customer.deleted(owner))
        emit(store, "customer.deleted", owner, now=now, origin=call.origin)


def _owners(store: Store, clock: Object) -> list[Object]:
    sql = "SELECT id FROM objects WHERE kind = 'customer' AND json_extract(body, '$.test_clock') = ?"
    return _all(store, sql, clock["id"])


def _open_sessions(store: Store, owner: Object) -> list[Object]:
    sql = (
        "SELECT id FROM objects WHERE kind = 'checkout.session' AND json_extract(body, '$.status') = 'open'"
        " AND json_extract(body, '$.customer') = ?"
    )
    return _all(store, sql, owner["id"])


def _all(store: Store, sql: str, value: str) -> list[Object]:
    bodies = (store.find_any(row[0]) for row in store.execute(sql, value).fetchall())
    return [body for body in bodies if body is not None]
