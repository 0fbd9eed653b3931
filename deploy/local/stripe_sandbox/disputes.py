"""Disputes: the bank opens, moves and decides them (docs.stripe.com/disputes); the shop may give in."""

from deploy.local.stripe_sandbox.calls import Call, found, listed
from deploy.local.stripe_sandbox.errors import invalid
from deploy.local.stripe_sandbox.events import Origin, emit
from deploy.local.stripe_sandbox.objects import dispute as objects
from deploy.local.stripe_sandbox.refunds import of_payment
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Object, Store

KIND = "dispute"
MOVES = {
    "warning_needs_response": ("warning_under_review", "warning_closed", "needs_response"),
    "warning_under_review": ("warning_closed", "needs_response"),
    "needs_response": ("under_review", "won", "lost"),
    "under_review": ("needs_response", "won", "lost"),
}
_CLOSED = ("won", "lost", "warning_closed")


class NotMovable(Exception):
    """The dispute does not go there from where it is."""


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/disputes/{id}"""
    call.params.finish()
    return found(sandbox, call, KIND, param="dispute")


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/disputes"""
    return listed(sandbox, call, KIND, of_payment(call))


def close(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/disputes/{id}/close: the shop gives in"""
    dispute = found(sandbox, call, KIND, param="dispute")
    call.params.finish()
    if "lost" not in MOVES.get(dispute["status"], ()):
        raise invalid("This dispute is already closed.", param="dispute", code="dispute_closed")
    return move(sandbox.store, dispute, "lost", now=call.now, origin=call.origin)


def begin(store: Store, charge: Object, *, amount: int | None, reason: str, status: str, now: int) -> Object:
    """The bank questions a charge; it holds the money unless it only inquires."""
    dispute = objects.build(charge, amount=amount or charge["amount"], reason=reason, status=status, now=now)
    store.add(dispute)
    if not status.startswith("warning"):
        _withdraw(store, dispute, now)
    emit(store, "charge.dispute.created", dispute, now=now, origin=Origin())
    return dispute


def move(store: Store, dispute: Object, status: str, *, now: int, origin: Origin | None = None) -> Object:
    """What the bank did next; NotMovable when there is no such way."""
    if status not in MOVES.get(dispute["status"], ()):
        raise NotMovable(f"a dispute does not go from {dispute['status']} to {status}")
    moved = objects.moved(dispute, status)
    store.update(moved)
    origin = origin or Origin()
    escalated = dispute["status"].startswith("warning") and not status.startswith("warning")
    if escalated:
        _withdraw(store, moved, now)
    if status == "won":
        _set_disputed(store, moved, disputed=False)
        emit(store, "charge.dispute.funds_reinstated", moved, now=now, origin=origin)
    is_closed = status in _CLOSED
    emit(store, f"charge.dispute.{'closed' if is_closed else 'updated'}", moved, now=now, origin=origin)
    return moved


def _withdraw(store: Store, dispute: Object, now: int) -> None:
    _set_disputed(store, dispute, disputed=True)
    emit(store, "charge.dispute.funds_withdrawn", dispute, now=now, origin=Origin())


def _set_disputed(store: Store, dispute: Object, *, disputed: bool) -> None:
    charge = store.find("charge", dispute["charge"])
    assert charge is not None, dispute["charge"]
    store.update(charge.body | {"disputed": disputed})
