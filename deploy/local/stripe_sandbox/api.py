"""What of Stripe's API the sandbox answers: each address and its handler, at a glance in ROUTES."""

import re

from starlette.routing import Route

from deploy.local.stripe_sandbox import balance, billing, checkout, clocks, creation, disputes, refunds
from deploy.local.stripe_sandbox.calls import Call, Caller, found, listed
from deploy.local.stripe_sandbox.errors import Refusal, invalid
from deploy.local.stripe_sandbox.expansion import line_items
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Condition, Object

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]
_MAX_TYPES = 20


def retrieve_account(sandbox: Sandbox, call: Call) -> Object:
    """What tells one account from another."""
    call.params.finish()
    return {"id": sandbox.account_id, "object": "account", "type": "standard", "charges_enabled": True}


def create_session(sandbox: Sandbox, call: Call) -> Object:
    wanted, lines, intent_data = creation.read_session(call.params, now=call.now)
    call.params.finish()
    if wanted.customer:
        billing.check_customer(sandbox, wanted.customer)
    return checkout.create(
        sandbox.store,
        wanted,
        lines=lines,
        intent_data=intent_data,
        public_url=sandbox.public_url,
        now=call.now,
    )


def retrieve_session(sandbox: Sandbox, call: Call) -> Object:
    call.params.finish()
    return found(sandbox, call, checkout.KIND, param="session")


def list_sessions(sandbox: Sandbox, call: Call) -> Object:
    conditions: list[Condition] = []
    status = call.params.choice("status", ("open", "complete", "expired"))
    if status:
        conditions.append(("json_extract(body, '$.status') = ?", status))
    intent = call.params.text("payment_intent")
    if intent:
        conditions.append(("json_extract(body, '$.payment_intent') = ?", intent))
    return listed(sandbox, call, checkout.KIND, conditions)


def expire_session(sandbox: Sandbox, call: Call) -> Object:
    call.params.finish()
    session = found(sandbox, call, checkout.KIND, param="session")
    return checkout.expire(sandbox.store, session, now=call.now, origin=call.origin)


def list_line_items(sandbox: Sandbox, call: Call) -> Object:
    # At most 100 lines, so they are always one page.
    call.params.integer("limit", least=1, most=100)
    call.params.finish()
    return line_items(sandbox.store, found(sandbox, call, checkout.KIND, param="session")["id"])


def retrieve_intent(sandbox: Sandbox, call: Call) -> Object:
    call.params.finish()
    return found(sandbox, call, "payment_intent", param="intent")


def retrieve_charge(sandbox: Sandbox, call: Call) -> Object:
    call.params.finish()
    return found(sandbox, call, "charge", param="id")


def list_intents(sandbox: Sandbox, call: Call) -> Object:
    return listed(sandbox, call, "payment_intent", [])


def list_charges(sandbox: Sandbox, call: Call) -> Object:
    intent = call.params.text("payment_intent")
    conditions: list[Condition] = [("json_extract(body, '$.payment_intent') = ?", intent)] if intent else []
    return listed(sandbox, call, "charge", conditions)


def retrieve_balance_transaction(sandbox: Sandbox, call: Call) -> Object:
    call.params.finish()
    return found(sandbox, call, balance.KIND, param="id")


def list_balance_transactions(sandbox: Sandbox, call: Call) -> Object:
    given = [(name, call.params.text(name)) for name in ("source", "type", "currency")]
    conditions: list[Condition] = [
        (f"json_extract(body, '$.{name}') = ?", value) for name, value in given if value
    ]
    return listed(sandbox, call, balance.KIND, conditions)


def retrieve_event(sandbox: Sandbox, call: Call) -> Object:
    call.params.finish()
    return found(sandbox, call, "event", param="id")


def list_events(sandbox: Sandbox, call: Call) -> Object:
    conditions = _event_types(call)
    delivered = call.params.boolean("delivery_success")
    if delivered is not None:
        pending = "json_extract(body, '$.pending_webhooks')"
        conditions.append((f"({pending} = 0) = ?", int(delivered)))
    return listed(sandbox, call, "event", conditions)


def unknown_address(_: Sandbox, call: Call) -> Object:
    raise Refusal(404, f"Unrecognized request URL ({call.url}).")


def _event_types(call: Call) -> list[Condition]:
    one, several = call.params.text("type"), call.params.texts("types", most=_MAX_TYPES)
    if one and several:
        raise invalid("You may pass either `type` or `types`, but not both.", param="type")
    of_event = "json_extract(body, '$.type')"
    if one:
        # GLOB's own signs but the star are taken literally.
        return [(f"{of_event} GLOB ?", re.sub(r"([\[?])", r"[\1]", one))]
    if several:
        return [(f"instr(?, ' ' || {of_event} || ' ') > 0", f" {' '.join(several)} ")]
    return []


ROUTES = (
    ("GET", "/v1/account", retrieve_account),
    ("POST", "/v1/checkout/sessions", create_session),
    ("GET", "/v1/checkout/sessions", list_sessions),
    ("GET", "/v1/checkout/sessions/{id}", retrieve_session),
    ("POST", "/v1/checkout/sessions/{id}/expire", expire_session),
    ("GET", "/v1/checkout/sessions/{id}/line_items", list_line_items),
    ("GET", "/v1/payment_intents/{id}", retrieve_intent),
    ("GET", "/v1/charges/{id}", retrieve_charge),
    ("GET", "/v1/payment_intents", list_intents),
    ("GET", "/v1/charges", list_charges),
    ("GET", "/v1/balance_transactions", list_balance_transactions),
    ("GET", "/v1/balance_transactions/{id}", retrieve_balance_transaction),
    ("POST", "/v1/refunds", refunds.create),
    ("GET", "/v1/refunds", refunds.list_all),
    ("GET", "/v1/refunds/{id}", refunds.retrieve),
    ("POST", "/v1/refunds/{id}", refunds.update),
    ("POST", "/v1/refunds/{id}/cancel", refunds.cancel),
    ("GET", "/v1/disputes", disputes.list_all),
    ("GET", "/v1/disputes/{id}", disputes.retrieve),
    ("POST", "/v1/disputes/{id}", disputes.update),
    ("POST", "/v1/disputes/{id}/close", disputes.close),
    ("POST", "/v1/customers", billing.create_customer),
    ("GET", "/v1/customers", billing.list_customers),
    ("GET", "/v1/customers/{id}", billing.retrieve_customer),
    ("GET", "/v1/subscriptions", billing.list_subscriptions),
    ("GET", "/v1/subscriptions/{id}", billing.retrieve_subscription),
    ("POST", "/v1/subscriptions/{id}", billing.update_subscription),
    ("DELETE", "/v1/subscriptions/{id}", billing.cancel_subscription),
    ("GET", "/v1/invoices", billing.list_invoices),
    ("GET", "/v1/invoices/{id}", billing.retrieve_invoice),
    ("POST", "/v1/invoices/{id}/pay", billing.pay_invoice),
    ("GET", "/v1/invoice_payments", billing.list_invoice_payments),
    ("GET", "/v1/invoice_payments/{id}", billing.retrieve_invoice_payment),
    ("POST", "/v1/test_helpers/test_clocks", clocks.create),
    ("GET", "/v1/test_helpers/test_clocks", clocks.list_all),
    ("GET", "/v1/test_helpers/test_clocks/{id}", clocks.retrieve),
    ("DELETE", "/v1/test_helpers/test_clocks/{id}", clocks.delete),
    ("POST", "/v1/test_helpers/test_clocks/{id}/advance", clocks.advance),
    ("GET", "/v1/events", list_events),
    ("GET", "/v1/events/{id}", retrieve_event),
)


def routes(sandbox: Sandbox) -> list[Route]:
    caller = Caller(sandbox)
    known = [Route(path, caller.endpoint(handler), methods=[method]) for method, path, handler in ROUTES]
    # Stripe answers 404 for a wrong method too.
    return [*known, Route("/v1/{rest:path}", caller.endpoint(unknown_address), methods=_METHODS)]
