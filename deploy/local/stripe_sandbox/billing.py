"""Customers, subscriptions, invoices and test clocks through the API (docs.stripe.com/api)."""

from deploy.local.stripe_sandbox import subscriptions
from deploy.local.stripe_sandbox.calls import Call, found, listed
from deploy.local.stripe_sandbox.errors import invalid, no_such, of_status
from deploy.local.stripe_sandbox.events import emit
from deploy.local.stripe_sandbox.objects import customer, test_clock
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Condition, Object

CLOCK = "test_helpers.test_clock"
_MAX_TIME = 1 << 40
_STATUSES = ("active", "canceled", "incomplete", "past_due", "trialing", "unpaid", "all")
_TWO_YEARS = 2 * 366 * 24 * 3600


def create_customer(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/customers"""
    clock = call.params.text("test_clock")
    if clock and sandbox.store.find(CLOCK, clock) is None:
        raise no_such(CLOCK, clock, param="test_clock", status=400)
    made = customer.build(
        email=call.params.email("email"),
        name=call.params.text("name"),
        description=call.params.text("description"),
        metadata=call.params.metadata(),
        test_clock=clock,
        now=call.now,
    )
    call.params.finish()
    sandbox.store.add(made)
    emit(sandbox.store, "customer.created", made, now=call.now, origin=call.origin)
    return made


def retrieve_customer(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/customers/{id}"""
    call.params.finish()
    return found(sandbox, call, "customer", param="id")


def list_customers(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/customers"""
    return listed(sandbox, call, "customer", _equal(call, "email", "test_clock"))


def retrieve_subscription(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/subscriptions/{id}"""
    call.params.finish()
    return found(sandbox, call, subscriptions.KIND, param="id")


def list_subscriptions(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/subscriptions: those that have not ended, unless a status is asked for"""
    conditions = _equal(call, "customer", "test_clock")
    status = call.params.choice("status", _STATUSES)
    if status is None:
        conditions.append(("json_extract(body, '$.status') <> ?", "canceled"))
    elif status != "all":
        conditions.append(("json_extract(body, '$.status') = ?", status))
    return listed(sandbox, call, subscriptions.KIND, conditions)


def update_subscription(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/subscriptions/{id}: cancel_at_period_end and metadata"""
    subscription = found(sandbox, call, subscriptions.KIND, param="id")
    ends = call.params.boolean("cancel_at_period_end")
    metadata = call.params.metadata()
    call.params.finish()
    if subscription["status"] == "canceled":
        message = "A canceled subscription can only update its cancellation_details and metadata."
        raise invalid(message, param="cancel_at_period_end")
    now = _time_of(sandbox, subscription, call)
    changed = subscription | {"metadata": subscription["metadata"] | metadata}
    if ends is not None:
        item = changed["items"]["data"][0]
        details = changed["cancellation_details"] | {"reason": "cancellation_requested" if ends else None}
        changed |= {
            "cancel_at_period_end": ends,
            "cancel_at": item["current_period_end"] if ends else None,
            "canceled_at": now if ends else None,
            "cancellation_details": details,
        }
    sandbox.store.update(changed)
    emit(sandbox.store, "customer.subscription.updated", changed, now=now, origin=call.origin)
    return changed


def cancel_subscription(sandbox: Sandbox, call: Call) -> Object:
    """DELETE /v1/subscriptions/{id}: at once"""
    subscription = found(sandbox, call, subscriptions.KIND, param="id")
    call.params.finish()
    if subscription["status"] == "canceled":
        raise no_such("subscription", subscription["id"], param="id")
    now = _time_of(sandbox, subscription, call)
    reason = "cancellation_requested"
    return subscriptions.end(sandbox.store, subscription, reason=reason, now=now, origin=call.origin)


def retrieve_invoice(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/invoices/{id}"""
    call.params.finish()
    return found(sandbox, call, "invoice", param="invoice")


def list_invoices(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/invoices"""
    conditions = _equal(call, "customer", "status")
    subscription = call.params.text("subscription")
    if subscription:
        of_subscription = "json_extract(body, '$.parent.subscription_details.subscription') = ?"
        conditions.append((of_subscription, subscription))
    return listed(sandbox, call, "invoice", conditions)


def pay_invoice(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/invoices/{id}/pay"""
    bill = found(sandbox, call, "invoice", param="invoice")
    call.params.finish()
    if bill["status"] != "open":
        raise invalid(f"Invoice is {bill['status']}.", param="invoice", code="invoice_not_editable")
    owner = sandbox.store.find_any(bill["parent"]["subscription_details"]["subscription"])
    assert owner is not None, bill["id"]
    subscriptions.attempt(sandbox.store, owner, bill, now=_time_of(sandbox, owner, call))
    tried = found(sandbox, call, "invoice", param="invoice")
    if tried["status"] != "paid":
        # The attempt has been made, so what it left behind stays.
        raise of_status(402)
    return tried


def retrieve_invoice_payment(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/invoice_payments/{id}"""
    call.params.finish()
    return found(sandbox, call, "invoice_payment", param="invoice_payment")


def list_invoice_payments(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/invoice_payments: of an invoice, or of a payment intent"""
    conditions = _equal(call, "invoice", "status")
    level = call.params.mapping("payment")
    if level is not None:
        if level.choice("type", ("payment_intent", "charge")) is None:
            raise level.missing("type")
        intent = level.text("payment_intent")
        conditions.append(("json_extract(body, '$.payment.payment_intent') = ?", intent or ""))
    return listed(sandbox, call, "invoice_payment", conditions)


def create_clock(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/test_helpers/test_clocks"""
    frozen_time = call.params.integer("frozen_time", least=0, most=_MAX_TIME)
    if frozen_time is None:
        raise call.params.missing("frozen_time")
    clock = test_clock.build(frozen_time=frozen_time, name=call.params.text("name"), now=call.now)
    call.params.finish()
    sandbox.store.add(clock)
    return clock


def retrieve_clock(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/test_helpers/test_clocks/{id}"""
    call.params.finish()
    return found(sandbox, call, CLOCK, param="test_clock")


def list_clocks(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/test_helpers/test_clocks"""
    return listed(sandbox, call, CLOCK, [])


def advance_clock(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/test_helpers/test_clocks/{id}/advance: at Stripe this takes a while, here it is done at
    once"""
    clock = found(sandbox, call, CLOCK, param="test_clock")
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
    emit(sandbox.store, "test_helpers.test_clock.ready", advanced, now=call.now, origin=call.origin)
    return advanced


def _equal(call: Call, *names: str) -> list[Condition]:
    """A condition for each of these parameters that is given."""
    given = [(name, call.params.text(name)) for name in names]
    return [(f"json_extract(body, '$.{name}') = ?", value) for name, value in given if value]


def _time_of(sandbox: Sandbox, subscription: Object, call: Call) -> int:
    return subscriptions.time_of(sandbox.store, subscription["test_clock"], call.now)
