"""Customers, subscriptions and invoices through the API (docs.stripe.com/api)."""

from typing import Literal

from deploy.local.stripe_sandbox import clocks, subscriptions
from deploy.local.stripe_sandbox.calls import Call, found, listed
from deploy.local.stripe_sandbox.errors import invalid, no_such, of_status
from deploy.local.stripe_sandbox.events import emit
from deploy.local.stripe_sandbox.invoices import Terms
from deploy.local.stripe_sandbox.objects import customer
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Condition, Object

_STATUSES = (
    "active",
    "all",
    "canceled",
    "ended",
    "incomplete",
    "incomplete_expired",
    "past_due",
    "paused",
    "trialing",
    "unpaid",
)
_OF_INVOICE = ("draft", "open", "paid", "uncollectible", "void")
_OF_INVOICE_PAYMENT = ("canceled", "open", "paid")


def create_customer(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/customers"""
    clock = call.params.text("test_clock")
    if clock and sandbox.store.find(clocks.KIND, clock) is None:
        raise no_such(clocks.KIND, clock, param="test_clock", status=400)
    now = subscriptions.time_of(sandbox.store, clock, call.now)
    made = customer.build(
        email=call.params.email("email"),
        name=call.params.text("name"),
        description=call.params.text("description"),
        metadata=call.params.metadata(),
        test_clock=clock,
        now=now,
    )
    call.params.finish()
    sandbox.store.add(made)
    emit(sandbox.store, "customer.created", made, now=now, origin=call.origin)
    return made


def retrieve_customer(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/customers/{id}"""
    call.params.finish()
    return found(sandbox, call, "customer", param="id")


def list_customers(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/customers"""
    conditions = [*_equal(call, "email", "test_clock"), ("json_extract(body, '$.deleted') IS NOT ?", 1)]
    return listed(sandbox, call, "customer", conditions)


def check_customer(sandbox: Sandbox, customer_id: str) -> None:
    """Refusal unless the customer, named by a parameter, is there and not deleted."""
    stored = sandbox.store.find("customer", customer_id)
    if stored is None or stored.body.get("deleted"):
        raise no_such("customer", customer_id, param="customer", status=400)


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
        # Whatever ends here is canceled; none is `incomplete_expired`.
        conditions.append(("json_extract(body, '$.status') = ?", "canceled" if status == "ended" else status))
    return listed(sandbox, call, subscriptions.KIND, conditions)


def update_subscription(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/subscriptions/{id}: cancel_at_period_end, cancel_at (as the portal of flexible billing sets
    it) and metadata"""
    subscription = found(sandbox, call, subscriptions.KIND, param="id")
    ends = call.params.boolean("cancel_at_period_end")
    cancel_at = _cancel_at(call)
    metadata = call.params.changed_metadata(subscription["metadata"])
    call.params.finish()
    if subscription["status"] == "canceled" and (ends is not None or cancel_at is not None):
        message = "A canceled subscription can only update its cancellation_details and metadata."
        raise invalid(message, param="cancel_at_period_end")
    now = _time_of(sandbox, subscription, call)
    changed = subscription | {"metadata": metadata}
    if ends is not None:
        item = changed["items"]["data"][0]
        details = changed["cancellation_details"] | {"reason": "cancellation_requested" if ends else None}
        changed |= {
            "cancel_at_period_end": ends,
            "cancel_at": item["current_period_end"] if ends else None,
            "canceled_at": now if ends else None,
            "cancellation_details": details,
        }
    if cancel_at is not None:
        reason = "cancellation_requested" if cancel_at else None
        changed |= {
            "cancel_at_period_end": False,
            "cancel_at": cancel_at or None,
            "canceled_at": now if cancel_at else None,
            "cancellation_details": changed["cancellation_details"] | {"reason": reason},
        }
    sandbox.store.update(changed)
    subscriptions.tell_of_change(sandbox.store, changed, previous=subscription, now=now, origin=call.origin)
    return changed


def cancel_subscription(sandbox: Sandbox, call: Call) -> Object:
    """DELETE /v1/subscriptions/{id}: at once"""
    subscription = found(sandbox, call, subscriptions.KIND, param="id")
    # Stripe's default for both is no; with them what was not used is credited, which the sandbox does not do.
    if call.params.boolean("prorate") or call.params.boolean("invoice_now"):
        raise invalid("The sandbox cancels without proration and without a last invoice.", param="prorate")
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
    conditions = _equal(call, "customer", status=_OF_INVOICE)
    subscription = call.params.text("subscription")
    if subscription:
        of_subscription = "json_extract(body, '$.parent.subscription_details.subscription') = ?"
        conditions.append((of_subscription, subscription))
    return listed(sandbox, call, "invoice", conditions)


def pay_invoice(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/invoices/{id}/pay"""
    bill = found(sandbox, call, "invoice", param="invoice")
    by: Literal["card", "out_of_band"] = "out_of_band" if call.params.boolean("paid_out_of_band") else "card"
    call.params.finish()
    if bill["status"] != "open":
        raise invalid(f"Invoice is {bill['status']}.", param="invoice", code="invoice_not_editable")
    owner = sandbox.store.find_any(bill["parent"]["subscription_details"]["subscription"])
    assert owner is not None, bill["id"]
    terms, now = Terms(by=by), _time_of(sandbox, owner, call)
    subscriptions.attempt(sandbox.store, owner, bill, now=now, terms=terms)
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
    conditions = _equal(call, "invoice", status=_OF_INVOICE_PAYMENT)
    level = call.params.mapping("payment")
    if level is not None:
        if level.choice("type", ("payment_intent", "charge")) is None:
            raise level.missing("type")
        intent = level.text("payment_intent")
        conditions.append(("json_extract(body, '$.payment.payment_intent') = ?", intent or ""))
    return listed(sandbox, call, "invoice_payment", conditions)


def _cancel_at(call: Call) -> int | None:
    """Zero takes it away."""
    if call.params.is_empty("cancel_at"):
        return 0
    return call.params.integer("cancel_at", least=1, most=1 << 40)


def _equal(call: Call, *names: str, status: tuple[str, ...] = ()) -> list[Condition]:
    """A condition for each of these parameters that is given, and for a status among those."""
    given = [(name, call.params.text(name)) for name in names]
    if status:
        given.append(("status", call.params.choice("status", status)))
    return [(f"json_extract(body, '$.{name}') = ?", value) for name, value in given if value]


def _time_of(sandbox: Sandbox, subscription: Object, call: Call) -> int:
    return subscriptions.time_of(sandbox.store, subscription["test_clock"], call.now)
