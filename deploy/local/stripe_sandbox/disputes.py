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
# While the money is gone the charge counts as disputed.
_MONEY_GONE = ("needs_response", "under_review", "lost")


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
    is_inquiry = status.startswith("warning")
    dispute = dispute if is_inquiry else objects.withdrawn(dispute, now=now)
    store.add(dispute)
    _follow(store, dispute["charge"])
    emit(store, "charge.dispute.created", dispute, now=now, origin=Origin())
    if not is_inquiry:
        emit(store, "charge.dispute.funds_withdrawn", dispute, now=now, origin=Origin())
    return dispute


def move(store: Store, dispute: Object, status: str, *, now: int, origin: Origin | None = None) -> Object:
    """What the bank did next; NotMovable when there is no such way."""
    if status not in MOVES.get(dispute["status"], ()):
        raise NotMovable(f"a dispute does not go from {dispute['status']} to {status}")
    moved, funds = _with_money_moved(objects.moved(dispute, status), dispute, now)
    store.update(moved)
    _follow(store, moved["charge"])
    told = f"charge.dispute.{'closed' if status in _CLOSED else 'updated'}"
    emit(store, told, moved, now=now, origin=origin or Origin(), previous=dispute)
    if funds:
        emit(store, f"charge.dispute.funds_{funds}", moved, now=now, origin=origin or Origin())
    return moved


def _with_money_moved(moved: Object, before: Object, now: int) -> tuple[Object, str]:
    """An inquiry that becomes a dispute takes the money, a won dispute brings it back; else "" is moved."""
    if before["status"].startswith("warning") and not moved["status"].startswith("warning"):
        return objects.withdrawn(moved, now=now), "withdrawn"
    if moved["status"] == "won":
        return objects.reinstated(moved, now=now), "reinstated"
    return moved, ""


def _follow(store: Store, charge_id: str) -> None:
    """The charge counts as disputed while any of its disputes has taken money."""
    marks = ", ".join("?" * len(_MONEY_GONE))
    charge = store.find("charge", charge_id)
    assert charge is not None, charge_id
    sql = (
        "SELECT count(*) FROM objects WHERE kind = 'dispute' AND json_extract(body, '$.payment_intent') = ?"
        f" AND json_extract(body, '$.charge') = ? AND json_extract(body, '$.status') IN ({marks})"
    )
    gone = store.execute(sql, charge.body["payment_intent"], charge_id, *_MONEY_GONE).fetchone()[0]
    store.update(charge.body | {"disputed": gone > 0})
