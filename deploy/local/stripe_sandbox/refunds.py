"""Refunds: asked for through the API, and moved on by time or by hand (docs.stripe.com/api/refunds).

A charge's `amount_refunded` is what its refunds hold; one that failed or was canceled holds nothing.
"""

import json

from deploy.local.stripe_sandbox import balance
from deploy.local.stripe_sandbox.calls import Call, found, listed
from deploy.local.stripe_sandbox.errors import Refusal, invalid, no_such
from deploy.local.stripe_sandbox.events import Origin, emit
from deploy.local.stripe_sandbox.html import money
from deploy.local.stripe_sandbox.objects import refund as objects
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Condition, Object, Store

KIND = "refund"
BIRTHS = "refund_births"
REASONS = ("duplicate", "fraudulent", "requested_by_customer")
_HOLDING = ("pending", "requires_action", "succeeded")
# What may become of a refund; a bank may send back what had succeeded.
MOVES = {
    "pending": ("succeeded", "failed", "requires_action", "canceled"),
    "requires_action": ("succeeded", "pending", "failed", "canceled"),
    "succeeded": ("failed",),
}
_MAX_AMOUNT = 99_999_999
_SIGNS = {"eur": "€", "gbp": "£", "usd": "$"}


class NotMovable(Exception):
    """The refund does not go there from where it is."""


def create(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/refunds"""
    charge = _charge_of(sandbox, call)
    amount = call.params.integer("amount", least=1, most=_MAX_AMOUNT)
    reason = call.params.choice("reason", REASONS)
    metadata = call.params.metadata()
    call.params.finish()
    left = charge["amount_captured"] - charge["amount_refunded"] - _lost(sandbox.store, charge)
    _refuse(sandbox.store, charge, amount, left)
    status = _next_birth(sandbox.store, charge)
    refund = begin(
        sandbox.store,
        charge,
        amount=left if amount is None else amount,
        status="succeeded" if status == "failed" else status,
        reason=reason,
        metadata=metadata,
        now=call.now,
        origin=call.origin,
    )
    # Born to fail: the bank sends it back at once.
    return move(sandbox.store, refund, "failed", now=call.now) if status == "failed" else refund


def begin(
    store: Store,
    charge: Object,
    *,
    amount: int,
    status: str,
    reason: str | None,
    metadata: dict[str, str],
    now: int,
    origin: Origin,
) -> Object:
    """Money of a charge goes back, and is told of."""
    refund = objects.build(charge, amount=amount, status=status, reason=reason, metadata=metadata, now=now)
    refund |= {"balance_transaction": balance.book_refund(store, refund, kind="refund", sign=-1, now=now)}
    store.add(refund)
    emit(store, "refund.created", refund, now=now, origin=origin)
    held = _hold_anew(store, charge)
    emit(store, "charge.refunded", held, now=now, origin=origin, previous=charge)
    return refund


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/refunds/{id}"""
    call.params.finish()
    return found(sandbox, call, KIND, param="refund")


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/refunds"""
    return listed(sandbox, call, KIND, of_payment(call))


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/refunds/{id}: its metadata"""
    refund = found(sandbox, call, KIND, param="refund")
    changed = refund | {"metadata": call.params.changed_metadata(refund["metadata"])}
    call.params.finish()
    sandbox.store.update(changed)
    _tell(sandbox.store, changed, previous=refund, now=call.now, origin=call.origin)
    return changed


def cancel(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/refunds/{id}/cancel: only while it waits for the customer"""
    refund = found(sandbox, call, KIND, param="refund")
    call.params.finish()
    if refund["status"] != "requires_action":
        message = f"You cannot cancel a refund with status {refund['status']}."
        raise invalid(message, param="refund")
    return move(sandbox.store, refund, "canceled", now=call.now, origin=call.origin)


def of_payment(call: Call) -> list[Condition]:
    """The filters `payment_intent` and `charge`, which refunds and disputes share."""
    names = ("payment_intent", "charge")
    given = [(name, call.params.text(name)) for name in names]
    return [(f"json_extract(body, '$.{name}') = ?", value) for name, value in given if value]


def move(
    store: Store,
    refund: Object,
    status: str,
    *,
    now: int,
    origin: Origin | None = None,
    failure_reason: str | None = None,
) -> Object:
    """Takes a refund further; NotMovable when there is no such way. What failed is back in the balance."""
    if status not in MOVES.get(refund["status"], ()):
        raise NotMovable(f"a refund does not go from {refund['status']} to {status}")
    moved = objects.moved(refund, status, failure_reason=failure_reason)
    if status == "failed":
        back = balance.book_refund(store, refund, kind="refund_failure", sign=1, now=now)
        moved |= {"failure_balance_transaction": back}
    store.update(moved)
    charge = store.find("charge", refund["charge"])
    assert charge is not None, refund["charge"]
    _hold_anew(store, charge.body)
    _tell(store, moved, previous=refund, now=now, origin=origin or Origin())
    if status == "failed":
        emit(store, "refund.failed", moved, now=now, origin=origin or Origin())
    return moved


def _tell(store: Store, refund: Object, *, previous: Object, now: int, origin: Origin) -> None:
    """Stripe tells of a card's refund under its old name too."""
    for event_type in ("refund.updated", "charge.refund.updated"):
        emit(store, event_type, refund, now=now, origin=origin, previous=previous)


def bear(store: Store, status: str, count: int, payment_intent: str | None) -> None:
    """How the next refunds are born (of this payment, or of any), before the usual `succeeded`."""
    births = json.loads(store.switch(BIRTHS, "[]"))
    store.set_switch(BIRTHS, json.dumps([*births, *[[status, payment_intent]] * count]))


def _next_birth(store: Store, charge: Object) -> str:
    births = json.loads(store.switch(BIRTHS, "[]"))
    own = next((birth for birth in births if birth[1] in (None, charge["payment_intent"])), None)
    if own is None:
        return "succeeded"
    births.remove(own)
    store.set_switch(BIRTHS, json.dumps(births))
    return str(own[0])


def _charge_of(sandbox: Sandbox, call: Call) -> Object:
    intent_id, charge_id = call.params.text("payment_intent"), call.params.text("charge")
    if intent_id and charge_id:
        message = "You may only specify one of these parameters: charge, payment_intent."
        raise invalid(message, param="charge")
    if intent_id:
        intent = sandbox.store.find("payment_intent", intent_id)
        if intent is None:
            raise no_such("payment_intent", intent_id, param="payment_intent")
        charge_id = intent.body["latest_charge"]
        if intent.body["status"] != "succeeded":
            message = f"This PaymentIntent ({intent_id}) does not have a successful charge to refund."
            raise invalid(message, param="payment_intent", code="payment_intent_unexpected_state")
    if not charge_id:
        message = "One of the following params should be provided for this request: payment_intent or charge."
        raise Refusal(400, message)
    charge = sandbox.store.find("charge", charge_id)
    if charge is None:
        raise no_such("charge", charge_id, param="charge")
    return charge.body


def _lost(store: Store, charge: Object) -> int:
    """What banks have taken of a charge for good, in its own currency."""
    lost = [each for each in _disputes_of(store, charge) if each["status"] == "lost"]
    taken = -sum(moved["amount"] for each in lost for moved in each["balance_transactions"])
    whole = balance.of_charge(store, charge["id"])["amount"] if lost else 0
    return min(charge["amount"], round(charge["amount"] * taken / whole)) if whole else 0


def _disputes_of(store: Store, charge: Object) -> list[Object]:
    rows = store.execute(
        "SELECT body FROM objects WHERE kind = 'dispute' AND json_extract(body, '$.payment_intent') IS ?"
        " AND json_extract(body, '$.charge') = ?",
        *(charge["payment_intent"], charge["id"]),
    ).fetchall()
    return [json.loads(body) for (body,) in rows]


def _is_held(store: Store, charge: Object) -> bool:
    """A bank has the money and has not decided yet."""
    settled = ("won", "lost", "warning_closed")
    statuses = [each["status"] for each in _disputes_of(store, charge)]
    return any(each not in settled and not each.startswith("warning") for each in statuses)


def _refuse(store: Store, charge: Object, amount: int | None, left: int) -> None:
    if not charge["paid"]:
        message = f"Charge {charge['id']} has failed; there is nothing to refund."
        raise Refusal(400, message, code="charge_not_refundable", executed=True)
    if _is_held(store, charge) or (left <= 0 and charge["disputed"]):
        message = f"Charge {charge['id']} has been charged back; cannot issue a refund."
        raise Refusal(400, message, code="charge_disputed", executed=True)
    if left <= 0:
        message = f"Charge {charge['id']} has already been refunded."
        raise Refusal(400, message, code="charge_already_refunded", executed=True)
    if amount is not None and amount > left:
        whole, currency = charge["amount"], charge["currency"]
        limit = (
            f"charge amount ({_shown(whole, currency)})"
            if amount > whole
            else f"unrefunded amount on charge ({_shown(left, currency)})"
        )
        message = f"Refund amount ({_shown(amount, currency)}) is greater than {limit}"
        raise Refusal(400, message, param="amount", executed=True)


def _shown(amount: int, currency: str) -> str:
    """As Stripe writes it: the sign first where the currency has one."""
    shown, sign = money(amount, currency), _SIGNS.get(currency)
    return f"{sign}{shown.removesuffix(currency.upper()).strip()}" if sign else shown


def _hold_anew(store: Store, charge: Object) -> Object:
    """The charge with what its refunds hold of it."""
    marks = ", ".join("?" * len(_HOLDING))
    sql = (
        "SELECT coalesce(sum(json_extract(body, '$.amount')), 0) FROM objects WHERE kind = 'refund'"
        " AND json_extract(body, '$.payment_intent') IS ? AND json_extract(body, '$.charge') = ?"
        f" AND json_extract(body, '$.status') IN ({marks})"
    )
    held = int(store.execute(sql, charge["payment_intent"], charge["id"], *_HOLDING).fetchone()[0])
    changed = charge | {"amount_refunded": held, "refunded": held == charge["amount_captured"]}
    store.update(changed)
    return changed
